"""Each preset, read back by a parser that shares nothing with the renderer.

The parsers are written from the products' documents and, for JumpServer, Warpgate
and sshpiper, from their sources (facts/pam.md#other-user-names). The law: what a server
reads is what was meant, or nothing was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pytest
from asyncssh.saslprep import saslprep
from hypothesis import given, settings
from hypothesis import strategies as st

from pamfs.errors import NameRefusedError
from pamfs.model import Target
from pamfs.naming.dialects import PRESETS, Dialect, find_dialect


@dataclass(frozen=True)
class Read:
    """What a server makes of a user name; ``None``: it is not said there."""

    operator: str | None = None
    tenant: str | None = None
    account: str | None = None
    domain: str | None = None
    device: str | None = None
    service: str | None = None
    otp: str | None = None


def split_domain(text: str) -> tuple[str, str]:
    domain, backslash, account = text.partition("\\")
    return (domain, account) if backslash else ("", text)


def read_bracket(text: str) -> tuple[str, str, str, str]:
    """Read the inside of Segura's brackets."""
    service = "ssh.22"
    if text.endswith("}"):
        text, _, service = text[:-1].rpartition("{")
    account, _, device = text.rpartition("@")
    return (*split_domain(account), device, service)


def read_segura(name: str) -> Read:
    """Read U1 to U12: a character at a time, nothing nests."""
    parts = {"operator": "", "front": "", "inside": "", "otp": "", "back": ""}
    place = "operator"
    moves = {
        ("operator", "%"): "front",
        ("operator", "["): "inside",
        ("front", "["): "inside",
        ("inside", "]"): "otp",
        ("otp", "%"): "back",
    }
    for char in name:
        move = moves.get((place, char))
        if move:
            place = move
        else:
            parts[place] += char
    domain, account, device, service = read_bracket(parts["inside"])
    tenant = parts["front"] or parts["back"] or None
    return Read(
        parts["operator"], tenant, account, domain, device, service, parts["otp"]
    )


def read_cyberark(name: str) -> Read:
    operator, user, address = name.rsplit("@", 2)
    account, _, domain = user.partition("#")
    device, *ports = address.split("#")
    service = f"ssh.{ports[0] if ports else 22}"
    return Read(operator, None, account, domain, device, service)


def read_wallix(name: str) -> Read:
    target, service, operator = name.split(":")
    assert service == "SSH"
    account, *domains, device = target.split("@")
    domain = domains[0] if domains else ""
    assert len(domains) < 2
    return Read(operator, None, account, domain, device)


def read_sps(name: str) -> Read:
    for alternative, usual in (("%", "@"), ("+", ":"), ("/", ":")):
        name = name.replace(alternative, usual)
    user, _, address = name.rpartition("@")
    assert "@" not in user
    assert "=" not in name
    domain, account = split_domain(user)
    device, _, port = address.partition(":")
    return Read(None, None, account, domain, device, f"ssh.{port or 22}")


def read_jumpserver(name: str) -> Read:
    assert not name.startswith("JMS-")
    for separator in "@#":
        fields = name.split(separator)
        if len(fields) in {3, 4}:
            operator, *protocol, user, device = fields
            domain, account = split_domain(user)
            assert not protocol
            return Read(operator, None, account, domain, device)
    raise AssertionError(name)


def read_warpgate(name: str) -> Read:
    assert not name.startswith("ticket-")
    separator = "#" if "#" in name else ":"
    operator, _, device = name.partition(separator)
    return Read(operator, device=device)


def read_sshpiper(name: str) -> Read:
    address, _, user = name.partition("+")
    device, _, port = address.partition(":")
    domain, account = split_domain(user)
    return Read(None, None, account, domain, device, f"ssh.{port or 22}")


def read_openssh(name: str) -> Read:
    domain, account = split_domain(name)
    return Read(None, None, account, domain)


READERS: Mapping[str, Callable[[str], Read]] = {
    "segura-sftp": read_segura,
    "segura-onprem": read_segura,
    "segura-ssh": read_segura,
    "cyberark": read_cyberark,
    "wallix": read_wallix,
    "oneidentity-sps": read_sps,
    "jumpserver": read_jumpserver,
    "warpgate": read_warpgate,
    "sshpiper": read_sshpiper,
    "<credential>": read_openssh,
    # Templates of one's own, whose delimiters are derived.
    "<operator>%<tenant>[<credential>@<device>{<proto>.<port>}]<otp>": read_segura,
    "<operator>@<account>(#<domain>)@<device>(#<port>)": read_cyberark,
    "<account>(@<domain>)@<device>:SSH:<operator>": read_wallix,
    "<operator>@<credential>@<device>": read_jumpserver,
    "<operator>#<credential>#<device>": read_jumpserver,
    "<device>(:<port>)+<credential>": read_sshpiper,
}

# Most parts are plain and some hold one delimiter: with more, nearly every
# example would be refused and nothing be read back.
DELIMITERS = "@#:%+="
NASTY = "[]{}\\/<> .-$,;!\n\0\uff20\uff3b\uff05\uff1a\uff03\u200b\u0301\u00e9"
plain = st.sampled_from(["a", "b1", "x-y", "web.example"])
split = st.builds("".join, st.tuples(plain, st.sampled_from(DELIMITERS), plain))
nasty = st.text(st.sampled_from("ab1" + DELIMITERS + NASTY), min_size=1, max_size=4)
part = st.one_of(plain, plain, split, nasty)
prefixed = st.one_of(part, part.map("JMS-".__add__), part.map("ticket-".__add__))
targets = st.builds(
    Target,
    st.sampled_from(["acme", "a_1", "x-y"]),
    part,
    part,
    st.one_of(st.just(""), st.just("key"), part),
    st.sampled_from(["ssh", "ssh", "telnet"]),
    st.sampled_from([22, 22, 2222, 1, 65535]),
)
codes = st.sampled_from(["", "123456", "12]34", "1%b", "cccccb"])


def sayable(target: Target, dialect: Dialect) -> Target:
    """Return ``target`` without what ``dialect`` has no words for."""
    if not dialect.takes("port"):
        target = replace(target, port=22)
    if not dialect.takes("proto"):
        target = replace(target, proto="ssh")
    if not dialect.takes("domain") and not dialect.takes("credential"):
        target = replace(target, domain="")
    return target


def test_every_preset_has_a_reader() -> None:
    assert set(PRESETS) <= set(READERS)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=300)
@given(operator=prefixed, target=targets, otp=codes)
def test_a_server_reads_what_was_meant_or_nothing_is_sent(
    name: str, operator: str, target: Target, otp: str
) -> None:
    if name not in PRESETS:
        # What is a token instead of an operator, only a preset can know.
        operator = operator.removeprefix("JMS-").removeprefix("ticket-")
    dialect = find_dialect(name)
    code = otp if dialect.takes_otp else ""
    target = sayable(target, dialect)
    try:
        user_name = dialect.user_name(operator, target, code)
    except NameRefusedError:
        return
    assert saslprep(user_name) == user_name
    read = READERS[name](user_name)
    has_account = dialect.takes("credential") or dialect.takes("account")
    meant = Read(
        operator if dialect.takes("operator") else None,
        target.tenant if dialect.takes("tenant") else None,
        target.credential if has_account else None,
        target.domain if has_account else None,
        target.device if dialect.takes("device") else None,
        None if read.service is None else f"{target.proto}.{target.port}",
        None if read.otp is None else code,
    )
    assert read == meant


@given(target=targets)
def test_what_a_template_cannot_say_is_never_dropped(target: Target) -> None:
    """Else two targets would be one login, and one of them the wrong device."""
    for name, reader in READERS.items():
        dialect = find_dialect(name)
        try:
            read = reader(dialect.user_name("alice", target, ""))
        except NameRefusedError:
            continue
        if read.service is None:
            assert (target.proto, target.port) == ("ssh", 22)
        if read.domain is None:
            assert target.domain == ""


WEB = Target("acme", "root", "web01")
SVC = Target("acme", "svc", "fs02", "corp", "ssh", 2222)
EXAMPLES = [
    ("segura-sftp", WEB, "alice%acme[root@web01{ssh.22}]123456"),
    ("segura-sftp", SVC, "alice%acme[corp\\svc@fs02{ssh.2222}]123456"),
    ("segura-onprem", WEB, "alice[root@web01]123456"),
    ("segura-onprem", SVC, "alice[corp\\svc@fs02{ssh.2222}]123456"),
    ("segura-ssh", WEB, "alice[root@web01]123456%acme"),
    ("cyberark", WEB, "alice@root@web01"),
    ("cyberark", SVC, "alice@svc#corp@fs02#2222"),
    ("wallix", WEB, "root@web01:SSH:alice"),
    ("wallix", Target("a", "root", "s1", "local"), "root@local@s1:SSH:alice"),
    ("oneidentity-sps", SVC, "corp\\svc@fs02:2222"),
    ("jumpserver", WEB, "alice@root@web01"),
    ("warpgate", WEB, "alice:web01"),
    ("sshpiper", SVC, "fs02:2222+corp\\svc"),
    ("<credential>", WEB, "root"),
]


@pytest.mark.parametrize(("name", "target", "user_name"), EXAMPLES)
def test_the_documented_forms_come_out(
    name: str, target: Target, user_name: str
) -> None:
    dialect = find_dialect(name)
    otp = "123456" if dialect.takes_otp else ""
    assert dialect.user_name("alice", target, otp) == user_name
    assert READERS[name](user_name).device in {target.device, None}
