"""The command line is a contract: scripts read its codes, people its lines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pamfs.cli import mount, status, umount
from pamfs.cli.base import Exit, exit_of, plain, table
from pamfs.cli.main import build_parser
from pamfs.errors import ConfigError, PamfsError, SessionLostError
from pamfs.mountpoint import MountpointError, NoFuseError, OptionError
from pamfs.transport.wires import served_names
from tests.fakes import renaming
from tests.limits import HANG_S

ROOT = Path(__file__).parents[2]


class Cli:
    """Runs pamfs as a program, with a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seed = folder / "seed"
        self.seed.write_text("JBSWY3DPEHPK3PXP")
        self.seed.chmod(0o600)
        self.point = folder / "mnt"
        self.point.mkdir()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_RUNTIME_DIR": str(folder),
            "PYTHONPATH": str(ROOT),
        }

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pamfs", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=HANG_S,
            env=self.environment,
            cwd=self.folder,
        )

    def config(self, *lines: str) -> Path:
        path = self.folder / "pamfs" / "config.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            '[tenant.acme]\nproxy = "pam.acme.example"\noperator = "alice"\n'
            f'dialect = "segura-sftp"\notp = {{ file = "{self.seed}" }}\n'
            'password = { prompt = true }\nreason = "patch day"\n' + "\n".join(lines)
        )
        return path

    def complaint(self, code: Exit, *words: str | Path) -> str:
        """Run; return the one line on stderr, and check the code."""
        done = self.run(*words)
        assert (done.returncode, done.stdout) == (code, "")
        (line,) = done.stderr.splitlines()
        return line


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def commands() -> Iterator[str]:
    text = build_parser().format_help()
    yield from re.findall(r"(?m)^    ([a-z]+) ", text)


@pytest.mark.parametrize("command", [*commands(), ""])
def test_every_command_has_help_with_an_example(cli: Cli, command: str) -> None:
    done = cli.run(*command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "example:\n  " in done.stdout
    assert f"pamfs {command}".strip() in done.stdout.split("example:")[1]


def test_the_commands_of_the_contract_are_there() -> None:
    assert {"mount", "umount", "status", "check", "lab"} <= set(commands())


@pytest.mark.parametrize("words", [[], ["frob"], ["mount"], ["status", "--jsn"]])
def test_a_wrong_command_line_is_a_usage_error(cli: Cli, words: list[str]) -> None:
    done = cli.run(*words)
    assert done.returncode == Exit.USAGE
    assert "usage: pamfs" in done.stderr


def test_the_version_is_shown_with_its_commit(cli: Cli) -> None:
    done = cli.run("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"pamfs \S+( installed\))?( \([0-9a-f]+\))?\n", done.stdout)


HEAVY = """\
import sys
from pamfs.cli.main import build_parser
build_parser().format_help()
print([m for m in ("trio", "pyfuse3", "asyncssh") if m in sys.modules])
"""


def test_commands_that_mount_nothing_load_no_loop(cli: Cli) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HEAVY],
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG_S,
        env=cli.environment,
    )
    assert done.stdout == "[]\n"


def test_check_shows_each_user_name_with_the_code_masked(cli: Cli) -> None:
    cli.config(
        "[[tenant.acme.target]]\nname = 'root@web01'",
        "[[tenant.acme.target]]\nname = 'corp\\svc@fs02{ssh.2222}'",
    )
    done = cli.run("check")
    assert (done.returncode, done.stderr) == (0, "")
    assert "pam.acme.example:4022" in done.stdout
    assert "root@web01: alice%acme[root@web01{ssh.22}]******" in done.stdout
    assert "alice%acme[corp\\svc@fs02{ssh.2222}]******" in done.stdout
    assert "made from the seed from " in done.stdout
    assert "in the user name" in done.stdout
    assert "ask: a person is asked about a new one" in done.stdout
    assert "JBSWY3DPEHPK3PXP" not in done.stdout


def test_check_names_a_target_with_an_unsupported_protocol(cli: Cli) -> None:
    cli.config(
        "[[tenant.acme.target]]\nname = 'root@web01{sftp.22}'",
        "[[tenant.acme.target]]\nname = 'admin@sw1{telnet.23}'",
    )
    done = cli.run("check")
    assert done.returncode == Exit.CONFIG
    assert done.stderr == (
        "pamfs check: acme/admin@sw1{telnet.23}: pamfs moves no files by 'telnet';"
        f" use a name that ends in {served_names()}\n"
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["check"], Exit.FAILED),
        (["mount", "--foreground", "mnt"], Exit.MOUNT_FAILED),
        (["mount", "mnt"], Exit.MOUNT_FAILED),
    ],
)
def test_a_library_that_lacks_something_is_named_before_the_mount(
    cli: Cli, words: list[str], code: Exit
) -> None:
    cli.config()
    renamed = renaming.environment("asyncssh", "_send_request")
    cli.environment["PYTHONPATH"] += ":" + renamed.pop("PYTHONPATH")
    cli.environment.update(renamed)
    done = cli.run(*words)
    (line,) = done.stderr.splitlines()
    assert done.returncode == code
    assert line.startswith(f"pamfs {words[0]}: asyncssh 2.")
    assert "has no SFTPClientHandler._send_request, which pamfs needs" in line
    assert "pip install 'asyncssh>=2.21,<2.25'" in line
    assert not os.path.ismount(cli.point)


def test_check_shows_every_problem_and_still_what_is_right(cli: Cli) -> None:
    path = cli.config("opperator = 'x'", "owner = 'them'", '[tenant.b]\nproxy = "p"')
    path.write_text(path.read_text() + '\n[tenant.c]\nproxy="c:1"\n')
    text = path.read_text() + 'operator="o"\ndialect="wallix"\nkey={agent=true}\n'
    path.write_text(text)
    done = cli.run("check")
    assert done.returncode == Exit.CONFIG
    assert done.stdout.startswith("c\n  proxy      c:1\n")
    lines = done.stderr.splitlines()
    assert all(line.startswith(f"pamfs check: {path}: tenant.") for line in lines)
    assert "tenant.acme.opperator: is unknown (did you mean 'operator'?)" in lines[0]
    assert len(lines) == 5


def test_a_missing_configuration_is_named(cli: Cli) -> None:
    line = cli.complaint(Exit.CONFIG, "mount", cli.point)
    assert f"{cli.folder}/pamfs/config.toml: No such file" in line
    line = cli.complaint(Exit.CONFIG, "mount", "--config", "other.toml", cli.point)
    assert f"{cli.folder}/other.toml: No such file" in line


def test_a_misspelt_key_is_what_mount_names_first(cli: Cli) -> None:
    path = cli.config()
    path.write_text(path.read_text().replace("operator", "opperator"))
    line = cli.complaint(Exit.CONFIG, "mount", cli.point)
    assert "tenant.acme.opperator: is unknown (did you mean 'operator'?; 1 more" in line


needs_fuse = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="needs /dev/fuse"
)


@needs_fuse
def test_a_mount_point_that_cannot_be_used_is_named(cli: Cli) -> None:
    cli.config()
    missing = cli.folder / "missing"
    line = cli.complaint(Exit.MOUNTPOINT, "mount", missing)
    assert line == f"pamfs mount: {missing} does not exist (make it with mkdir)"
    (cli.point / "precious").touch()
    line = cli.complaint(Exit.MOUNTPOINT, "mount", cli.point)
    assert line == f"pamfs mount: {cli.point} is not empty"
    line = cli.complaint(Exit.MOUNTPOINT, "mount", "/proc")
    assert line == "pamfs mount: /proc is already a mount point: proc (proc)"


def test_a_mount_option_that_is_unknown_is_named(cli: Cli) -> None:
    cli.config()
    line = cli.complaint(Exit.USAGE, "mount", "-o", "ro,alow_other", cli.point)
    assert "unknown mount option 'alow_other' (did you mean 'allow_other'?)" in line


@needs_fuse
def test_a_log_that_cannot_be_written_is_named(cli: Cli) -> None:
    cli.config()
    log = cli.seed / "log"
    line = cli.complaint(Exit.USAGE, "mount", "-o", f"log={log}", cli.point)
    assert f"the log {log} cannot be written" in line


def test_a_folder_that_is_no_mount_cannot_be_unmounted(cli: Cli) -> None:
    line = cli.complaint(Exit.NOT_MOUNTED, "umount", cli.point)
    assert line == f"pamfs umount: {cli.point} is not a mount of pamfs"
    line = cli.complaint(Exit.NOT_MOUNTED, "umount", "/proc")
    assert line == "pamfs umount: /proc is not a mount of pamfs"
    line = cli.complaint(Exit.NOT_MOUNTED, "status", "--json", cli.point)
    assert line == f"pamfs status: {cli.point} is not a mount of pamfs"


def test_an_exit_code_has_one_number_and_one_sentence() -> None:
    assert len({code.value for code in Exit}) == len(Exit)
    assert all(re.fullmatch(r"[^.]+\.", code.sentence) for code in Exit)
    assert all(len(line) <= 79 for line in table().splitlines())


def test_the_page_of_exit_codes_is_the_table() -> None:
    page = (ROOT / "docs/exit-codes.md").read_text()
    rows = re.findall(r"(?m)^\| (\d+) \| (\w+) \| (.*) \|$", page)
    assert rows == [(str(code.value), code.name, code.sentence) for code in Exit]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("f", "x"), Exit.CONFIG),
        (OptionError("x"), Exit.USAGE),
        (MountpointError("x"), Exit.MOUNTPOINT),
        (NoFuseError("x"), Exit.NO_FUSE),
        (SessionLostError("x"), Exit.FAILED),
    ],
)
def test_every_error_has_its_code(error: PamfsError, code: Exit) -> None:
    assert exit_of(error) is code


def test_the_cause_is_found_in_a_group() -> None:
    cause = SessionLostError("x")
    group = BaseExceptionGroup("g", [KeyError(), BaseExceptionGroup("h", [cause])])
    assert mount.find_cause(group) is cause
    assert mount.find_cause(BaseExceptionGroup("g", [KeyError()])) is None


def test_what_a_terminal_would_obey_is_not_printed() -> None:
    assert plain("a\x1b[2Jb\nc") == "a\\x1b[2Jb\\nc"
    assert plain("büro") == "büro"


STATUS = {
    "mountpoint": "/home/alice/pam",
    "pid": 4711,
    "config": "/home/alice/config.toml",
    "cache": {"open_files": "2"},
    "targets": [
        {
            "tenant": "acme",
            "target": "root@web01",
            "state": "waiting_code",
            "since": 86400.0,
            "lease_expires_at": None,
            "open_files": 2,
            "bytes_read": 1500000,
            "bytes_written": 12,
            "logins": 1,
            "host_key": "SHA256:abc",
            "last_error": "refused\x1b[2J",
        },
        {"tenant": "acme", "target": "a@b", "state": "absent"},
    ],
}


def test_status_is_a_table_for_a_person() -> None:
    head, cache, titles, first, key, error, second = status.render([STATUS])
    assert head == "/home/alice/pam: pid 4711, /home/alice/config.toml"
    assert cache == "cache: open files 2"
    assert titles.split()[:3] == ["TARGET", "STATE", "SINCE"]
    assert first.split()[:3] == ["acme/root@web01", "waiting", "code"]
    assert "1970-01-0" in first
    assert "1.4 MiB" in first
    assert "12 B" in first
    assert key.strip() == "host key    SHA256:abc"
    assert error.strip() == "last error  refused\\x1b[2J"
    assert second.split()[:3] == ["acme/a@b", "absent", "-"]


def test_status_names_what_is_not_stored() -> None:
    lost = {
        "number": 3,
        "at": 86400.0,
        "path": "acme/root@web01/etc/f\x1b[2J",
        "why": "the account is locked",
        "nbytes": 2048,
        "pid": 12,
        "uid": 1000,
    }
    lines = list(status.render([{**STATUS, "lost": [lost], "lost_more": 7}]))[-4:]
    assert lines[0] == "data that was written and is not stored (shown once):"
    assert lines[1].endswith("acme/root@web01/etc/f\\x1b[2J: 2.0 KiB, pid 12, uid 1000")
    assert lines[2].strip() == "the account is locked"
    assert lines[3].strip() == "and 7 more files: the log names them"


def test_status_says_when_there_is_nothing() -> None:
    assert list(status.render([])) == ["nothing is mounted"]
    assert list(status.render([{**STATUS, "targets": []}]))[-1] == "no session yet"


DAEMON = """\
import json, sys, trio
from pathlib import Path
from pamfs.control.connection import socket_path
from pamfs.control.server import serve_control
point, answer = Path(sys.argv[1]), json.loads(sys.argv[2])

async def say(request):
    return answer

async def main():
    async with trio.open_nursery() as nursery:
        handlers = {"umount": say, "status": say}
        await nursery.start(serve_control, socket_path(point), handlers)
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()

trio.run(main)
"""


class StandIn:
    """A process that answers for a mount; it ends when its input does."""

    def __init__(self, cli: Cli, answer: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DAEMON, cli.point, json.dumps(answer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=cli.environment,
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == b"ready\n"

    def end(self) -> None:
        self.process.communicate(timeout=HANG_S)


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ({"ok": True, "lost": []}, Exit.OK, ""),
        (
            {"ok": True, "lost": [], "unreturned": ["acme/root@web01: lease 17"]},
            Exit.OK,
            "not given back: acme/root@web01: lease 17 (the next mount",
        ),
        ({"ok": False, "lost": ["a/b: EIO", "c"]}, Exit.LOST, "not stored: a/b: EIO"),
        ({"ok": False, "error": "x", "lost": []}, Exit.FAILED, "pamfs umount: x"),
    ],
)
def test_what_the_daemon_answers_becomes_the_exit_code(
    answer: dict[str, object], code: Exit, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert umount.judge(answer, Path("/nowhere")) is code
    assert said in capsys.readouterr().err


def test_status_asks_the_daemon(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(cli.folder))
    stand_in = StandIn(cli, STATUS)
    try:
        assert status.ask(cli.point) == STATUS
    finally:
        stand_in.end()
