"""A configuration is right, or says where it is wrong and what would be right."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pamfs.config import (
    AnswerSource,
    Config,
    HostKeyPolicy,
    KeySource,
    OtpPlace,
    Owner,
    Quirk,
    SourceKind,
    Symlinks,
    inspect,
    load,
)
from pamfs.errors import ConfigError
from pamfs.model import Name, Target

PROMPT = AnswerSource(SourceKind.PROMPT)
FINGERPRINT = "SHA256:" + "A" * 43


class Folder:
    """A folder with one configuration file and the secrets that it names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "config.toml"
        self.secret("seed")

    def secret(self, name: str, mode: int = 0o600) -> Path:
        path = self.path / name
        path.write_text("JBSWY3DPEHPK3PXP")
        path.chmod(mode)
        return path

    def load(self, text: str) -> Config:
        self.file.write_text(text)
        return load(self.file)

    def acme(self, *lines: str, dialect: str = "segura-sftp") -> Config:
        """Load a sound tenant ``acme`` with ``lines`` after its first keys."""
        return self.load(
            '[tenant.acme]\nproxy = "pam.example"\noperator = "alice"\n'
            f"dialect = '{dialect}'\n" + "\n".join(lines)
        )

    def problems(self, *lines: str, dialect: str = "segura-sftp") -> list[str]:
        """Return all problems of the same file, without the file's name."""
        try:
            self.acme(*lines, dialect=dialect)
        except ConfigError:
            found = inspect(self.file).problems
            return [str(one).removeprefix(f"{self.file}: ") for one in found]
        return []


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


ASKED = "password = { prompt = true }"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("channels = 0", "0 is out of range; 1 to 8"),
        ("channels = 9", "9 is out of range; 1 to 8"),
        ("channels = true", "is a boolean"),
        ('channels = "4"', "is a text"),
    ],
)
def test_how_many_channels_there_may_be(
    folder: Folder, line: str, problem: str
) -> None:
    assert folder.acme(ASKED, "channels = 1").tenants["acme"].files.channels == 1
    (found,) = folder.problems(ASKED, line)
    assert found.startswith("tenant.acme.channels")
    assert problem.partition(";")[0] in found


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('quirks = ["shared-write"]', "did you mean 'shared-writes'?"),
        ('quirks = ["fast"]', "'fast' is not one of the choices (known: "),
        ('quirks = "shared-writes"', "is a text, not an array"),
        ("quirks = [1]", 'is not an array of texts (for example ["shared-writes"])'),
    ],
)
def test_a_quirk_is_one_of_the_table(folder: Folder, line: str, problem: str) -> None:
    config = folder.acme(ASKED, 'quirks = ["shared-writes"]')
    assert config.tenants["acme"].files.quirks == {Quirk.SHARED_WRITES}
    (found,) = folder.problems(ASKED, line)
    assert found.startswith("tenant.acme.quirks: ")
    assert problem in found


def test_a_whole_tenant_is_read(folder: Folder) -> None:
    folder.secret("id")
    folder.secret("hosts")
    config = folder.acme(
        ASKED,
        'key = { file = "id", passphrase = { env = "PASS" } }',
        'otp = { file = "seed" }',
        'reason = "patch day"',
        'host_keys = "accept-new"',
        'known_hosts = "hosts"',
        'root = "~//data/"',
        'owner = "remote"',
        'symlinks = "contain"',
        "only_listed = true",
        'idle_close = "1h30m"',
        "connect_timeout = 2.5",
        'login_timeout = "5m"',
        "[[tenant.acme.target]]",
        "name = 'corp\\svc@fs02{ssh.2222}'",
        'root = "/srv"',
    )
    acme = config.tenants["acme"]
    assert (acme.proxy.host, acme.proxy.port) == ("pam.example", 4022)
    assert acme.login.password == PROMPT
    passphrase = AnswerSource(SourceKind.ENV, "PASS")
    assert acme.login.key == KeySource(folder.path / "id", passphrase=passphrase)
    assert acme.login.otp == AnswerSource(SourceKind.FILE, str(folder.path / "seed"))
    assert acme.login.otp_in is OtpPlace.USER
    assert acme.login.reason == AnswerSource(SourceKind.VALUE, "patch day")
    assert acme.proxy.host_keys is HostKeyPolicy.ACCEPT_NEW
    assert acme.proxy.known_hosts == folder.path / "hosts"
    assert (acme.files.root, acme.files.owner) == (b"~/data", Owner.REMOTE)
    assert (acme.files.symlinks, acme.files.only_listed) == (Symlinks.CONTAIN, True)
    assert (acme.session.idle_close_s, acme.session.connect_timeout_s) == (5400.0, 2.5)
    assert acme.session.login_timeout_s == 300.0
    (listed,) = acme.files.targets
    assert listed.name == Name(b"corp\\svc@fs02{ssh.2222}")
    assert listed.target == Target("acme", "svc", "fs02", "corp", "ssh", 2222)
    assert listed.root == b"/srv"


def test_a_code_goes_where_the_template_has_a_place_for_it(folder: Folder) -> None:
    otp = "otp = { prompt = true }"
    assert folder.acme(ASKED, otp).tenants["acme"].login.otp_in is OtpPlace.USER
    config = folder.acme(ASKED, otp, dialect="wallix")
    assert config.tenants["acme"].login.otp_in is OtpPlace.KEYBOARD_INTERACTIVE
    assert folder.acme(ASKED).tenants["acme"].login.otp_in is OtpPlace.NONE


@pytest.mark.parametrize(
    ("proxy", "host", "port"),
    [
        ("pam", "pam", 4022),
        ("pam.example:22", "pam.example", 22),
        ("PAM.Example", "pam.example", 4022),  # known_hosts has small letters
        ("[2001:db8::1]", "2001:db8::1", 4022),
        ("[::1]:2222", "::1", 2222),
    ],
)
def test_a_proxy_is_host_and_port(
    folder: Folder, proxy: str, host: str, port: int
) -> None:
    config = folder.load(
        f'[tenant.a]\nproxy = "{proxy}"\noperator = "o"\ndialect = "segura-sftp"\n'
        "key = { agent = true }"
    )
    tenant = config.tenants["a"]
    assert (tenant.proxy.host, tenant.proxy.port) == (host, port)
    assert tenant.login.key == KeySource(agent=True)


def test_a_command_may_be_words_and_a_template_need_no_operator(
    folder: Folder,
) -> None:
    config = folder.load(
        '[tenant.a]\nproxy = "p"\ndialect = "<credential>"\n'
        'password = { command = ["pass", "show", "my pam"] }'
    )
    tenant = config.tenants["a"]
    command = AnswerSource(SourceKind.COMMAND, "pass show 'my pam'")
    assert tenant.login.password == command
    assert (tenant.login.operator, tenant.proxy.port) == ("", 22)


# Each row: what stands in the file, and how the one message about it begins.
REFUSED = [
    ('colour = "red"', "tenant.acme.colour: is unknown"),
    ('ownr = "me"', "tenant.acme.ownr: is unknown (did you mean 'owner'?)"),
    ("owner = 1", "tenant.acme.owner: is a number, not a text"),
    (
        'owner = "mee"',
        "tenant.acme.owner: 'mee' is not one of the choices (did you mean 'me'?)",
    ),
    ("only_listed = 1", "tenant.acme.only_listed: is a number, not a boolean"),
    ("only_listed = true", "tenant.acme.only_listed: shows nothing"),
    ("known_hosts = ''", "tenant.acme.known_hosts: is empty"),
    (
        "host_keys = 'strict'\nknown_hosts = 'no'",
        "tenant.acme.known_hosts: {folder}/no is not a file",
    ),
    ("reasons = 'Incident'", "tenant.acme.reasons: is not an array of texts"),
    ("reasons = []", "tenant.acme.reasons: is not an array of texts"),
    (
        "reasons = ['A', 1]",
        "tenant.acme.reasons: must be an array of texts of one line",
    ),
    (
        'reasons = ["A\\nB"]',
        "tenant.acme.reasons: must be an array of texts of one line",
    ),
    ("reasons = ['A', 'a ']", "tenant.acme.reasons: contains an entry twice"),
    ("reasons = ['2', 'A']", "tenant.acme.reasons: an entry must not be a number"),
    ("reason = 'x'\nreasons = ['A']", "tenant.acme.reasons: has no effect"),
    ("connect_timeout = 0", "tenant.acme.connect_timeout: 0 s is out of range"),
    ("connect_timeout = nan", "tenant.acme.connect_timeout: is not a duration"),
    ("keepalive = true", "tenant.acme.keepalive: is not a duration"),
    ("keepalive = '5x'", "tenant.acme.keepalive: is not a duration"),
    ("idle_close = 1979-05-27", "tenant.acme.idle_close: is not a duration"),
    ("root = 'srv'", "tenant.acme.root: 'srv' is not a remote folder"),
    ("root = '/a/../b'", "tenant.acme.root: '/a/../b' is not a remote folder"),
    ("host_keys = 'pinned'", "tenant.acme.host_key: is missing"),
    (f"host_key = '{FINGERPRINT}'", "tenant.acme.host_key: has no effect"),
    (
        "host_keys = 'pinned'\nhost_key = 'MD5:00'",
        "tenant.acme.host_key: is not a SHA256 fingerprint",
    ),
    ("otp = 'JBSW'", "tenant.acme.otp: must not contain the secret itself"),
    ("otp = { value = 'JBSW' }", "tenant.acme.otp.value: is not a kind of source"),
    ("otp = { fil = 'seed' }", "tenant.acme.otp.fil: is not a kind of source"),
    ("otp = {}", "tenant.acme.otp: is empty"),
    ("otp = { prompt = false }", "tenant.acme.otp.prompt: must be true"),
    ("otp = { env = 'A', prompt = true }", "tenant.acme.otp: 2 sources for one"),
    ("otp = { file = 'gone' }", "tenant.acme.otp.file: {folder}/gone: No such file"),
    ("otp = { file = 'shown' }", "tenant.acme.otp.file: {folder}/shown has mode 0640"),
    ("otp = { file = '.' }", "tenant.acme.otp.file: {folder} is not a regular file"),
    ("otp = { command = [1] }", "tenant.acme.otp.command: is not an array of texts"),
    ("otp = { command = ' ' }", "tenant.acme.otp.command: is not a command line"),
    ("otp = { command = 'a \"b' }", "tenant.acme.otp.command: is not a command line"),
    ("otp_in = 'user'", "tenant.acme.otp: is missing, but otp_in is set"),
    ("otp = {prompt=true}\notp_in = 'none'", "tenant.acme.otp_in: is none"),
    ("otp_when = 'never'", "tenant.acme.otp_when:"),
    ("otp_when = 'learn'", "tenant.acme.otp_when: has no effect"),
    ("key = 'id'", "tenant.acme.key: is not a table (key = {{ file"),
    (
        "key = { agent = true, file = 'seed' }",
        "tenant.acme.key: needs exactly one source",
    ),
    ("key = {}", "tenant.acme.key: needs exactly one source"),
    ("key = { file = 'shown' }", "tenant.acme.key.file: {folder}/shown has mode 0640"),
    (
        "key = { agent = true, passphrase = { prompt = true } }",
        "tenant.acme.key.passphrase: has no effect with an agent",
    ),
    ("target = 'root@web01'", "tenant.acme.target: is not an array of tables"),
    ("[[tenant.acme.target]]\nroot = '/'", "tenant.acme.target[0].name: is missing"),
    ("[[tenant.acme.target]]\nname = 'web'", "tenant.acme.target[0].name: 'web' is no"),
    (
        "[[tenant.acme.target]]\nname = 'a@b]1'",
        "tenant.acme.target[0].name: the device 'b]1' holds ']'",
    ),
    (
        (
            "[[tenant.acme.target]]\nname = 'a@b'\n[[tenant.acme.target]]\n"
            "name = 'a@b{ssh.22}'"
        ),
        "tenant.acme.target[1].name: acme/a@b is listed twice",
    ),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_what_is_wrong_is_named_with_its_key(
    folder: Folder, text: str, message: str
) -> None:
    folder.secret("shown", 0o640)
    (found,) = folder.problems(ASKED, text)
    assert found.startswith(message.format(folder=folder.path))


def test_a_code_in_the_user_name_needs_a_template_that_takes_it(
    folder: Folder,
) -> None:
    lines = (ASKED, "otp = { prompt = true }", 'otp_in = "user"')
    (found,) = folder.problems(*lines, dialect="cyberark")
    assert found.startswith("tenant.acme.otp_in: the user name <operator>@")
    assert "has no <otp>" in found


def test_a_target_is_held_to_the_delimiters_of_its_dialect(folder: Folder) -> None:
    lines = (ASKED, "[[tenant.acme.target]]", "name = 'a@b@c'")
    assert folder.problems(*lines) == []
    (found,) = folder.problems(*lines, dialect="jumpserver")
    assert found.startswith("tenant.acme.target[0].name: the account 'a@b' holds '@'")


def test_a_tenant_without_any_login_is_refused(folder: Folder) -> None:
    (found,) = folder.problems()
    assert found.startswith("tenant.acme: has no password, key or otp")


@pytest.mark.parametrize(
    ("dialect", "message"),
    [
        ("segura-stfp", "tenant.acme.dialect: no dialect is called 'segura-stfp'"),
        ("<user>", "tenant.acme.dialect: unknown placeholder <user>; known are <op"),
    ],
)
def test_an_unknown_dialect_names_the_known_ones(
    folder: Folder, dialect: str, message: str
) -> None:
    (found,) = folder.problems(ASKED, dialect=dialect)
    assert found.startswith(message)


def test_missing_keys_are_all_named_at_once(folder: Folder) -> None:
    folder.file.write_text("[tenant.acme]\n" + ASKED)
    found = [str(problem) for problem in inspect(folder.file).problems]
    assert [line.split(": ")[1] for line in found] == [
        "tenant.acme.dialect",
        "tenant.acme.proxy",
        "tenant.acme.operator",
    ]
    with pytest.raises(ConfigError, match=r"2 more: pamfs check shows all"):
        load(folder.file)


@pytest.mark.parametrize("proxy", ["p:0", "p:65536", "::1", "a b", "u@p", "p:", "-p"])
def test_a_proxy_that_is_no_address_is_refused(folder: Folder, proxy: str) -> None:
    with pytest.raises(ConfigError, match=r"tenant\.a\.proxy: "):
        folder.load(
            f'[tenant.a]\nproxy = "{proxy}"\noperator = "o"\n'
            'dialect = "segura-sftp"\nkey = { agent = true }'
        )


@pytest.mark.parametrize("name", ["Segura", "orbit", "none"])
def test_reserved_tenants_are_refused_where_they_reach_the_wire(
    folder: Folder, name: str
) -> None:
    text = (
        f'[tenant.{name}]\nproxy = "p"\noperator = "o"\n'
        "key = {{ agent = true }}\ndialect = '{}'"
    )
    with pytest.raises(ConfigError, match=f"tenant.{name}: is reserved by Segura"):
        folder.load(text.format("segura-sftp"))
    assert folder.load(text.format("segura-onprem")).tenants[name].login.operator == "o"


@pytest.mark.parametrize("name", ["a/b", "", ".", "a b", "a%b", "ä"])
def test_a_tenant_that_is_no_plain_folder_name_is_refused(
    folder: Folder, name: str
) -> None:
    with pytest.raises(ConfigError, match="is not a tenant name"):
        folder.load(
            f'[tenant."{name}"]\nproxy = "p"\noperator = "o"\n'
            'dialect = "segura-onprem"\nkey = { agent = true }'
        )


def test_a_syntax_error_is_named_with_line_and_column(folder: Folder) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml: line 2, column 5: "):
        folder.load("[tenant.acme]\na = = 1")


@pytest.mark.parametrize("text", ["", "[tenant]\n", "# nothing"])
def test_a_file_without_a_tenant_is_refused(folder: Folder, text: str) -> None:
    with pytest.raises(ConfigError, match="no tenant is configured"):
        folder.load(text)


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory"):
        load(tmp_path / "gone.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)
    (tmp_path / "latin").write_bytes(b"a = '\xe4'")
    with pytest.raises(ConfigError, match="byte 5 is not UTF-8"):
        load(tmp_path / "latin")


@pytest.mark.parametrize(("mode", "users"), [(0o666, "any user"), (0o664, "its group")])
def test_a_file_that_others_may_write_is_refused(
    folder: Folder, mode: int, users: str
) -> None:
    folder.file.touch()
    folder.file.chmod(mode)
    with pytest.raises(ConfigError, match=f"{folder.file}: {users} may write it"):
        folder.acme(ASKED)


def test_a_file_in_a_folder_that_others_may_write_is_refused(folder: Folder) -> None:
    folder.path.chmod(0o777)
    with pytest.raises(ConfigError, match=f"^{folder.path}: any user may write it"):
        folder.acme(ASKED)


def test_a_command_that_others_may_change_is_a_problem(folder: Folder) -> None:
    command = folder.secret("command", 0o777)
    found = folder.problems(f"password = {{ command = '{command} now' }}")
    assert f"{command} any user may write it" in "".join(found)


def test_no_message_repeats_a_secret(folder: Folder) -> None:
    found = folder.problems('password = "hunter2"', 'otp = "hunter2"')
    assert len(found) == 2
    assert "hunter2" not in "".join(found)


def test_a_secret_of_another_user_is_refused(folder: Folder) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: gives a file away")
    os.chown(folder.secret("theirs"), 12345, -1)
    (found,) = folder.problems("password = { file = 'theirs' }")
    assert "belongs to another user (uid 12345)" in found


PAGE = (Path(__file__).parents[2] / "docs/configuration.md").read_text()


def test_the_example_of_the_page_is_a_right_configuration(folder: Folder) -> None:
    example = re.search(r"(?s)```toml\n(.*?)```", PAGE)
    assert example
    paths = re.findall(r'(?:file|known_hosts) *= "([^"]*)"', example[1])
    text = example[1]
    for path in paths:
        text = text.replace(path, str(folder.secret(Path(path).name)))
    tenant = folder.load(text).tenants["acme"]
    assert tenant.login.otp_in is OtpPlace.USER
    assert len(tenant.files.targets) == 2
