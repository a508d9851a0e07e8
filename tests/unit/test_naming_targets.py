"""A path component is one target, canonically named, or none."""

from __future__ import annotations

import unicodedata

import pytest
from asyncssh.saslprep import saslprep
from hypothesis import example, given
from hypothesis import strategies as st

from pamfs.errors import NameRefusedError
from pamfs.model import Name, Target
from pamfs.naming.targets import (
    NEVER,
    find_problem,
    is_tenant_name,
    parse_target,
    target_name,
)


def parse(name: bytes) -> Target:
    return parse_target("acme", Name(name))


@pytest.mark.parametrize(
    ("name", "target"),
    [
        (b"root@web01", Target("acme", "root", "web01")),
        (b"key\\deploy@web01", Target("acme", "deploy", "web01", "key")),
        (
            b"corp\\svc-backup@fs02{ssh.2222}",
            Target("acme", "svc-backup", "fs02", "corp", "ssh", 2222),
        ),
        (b"a@corp.example@web01", Target("acme", "a@corp.example", "web01")),
        (b"root@2001:db8::1", Target("acme", "root", "2001:db8::1")),
        (b"root@b{telnet.23}", Target("acme", "root", "b", "", "telnet", 23)),
        ("jürgen@büro".encode(), Target("acme", "jürgen", "büro")),
        (b"svc backup@fs02", Target("acme", "svc backup", "fs02")),
    ],
)
def test_a_name_is_a_target(name: bytes, target: Target) -> None:
    assert parse(name) == target
    assert target_name(target) == name


def test_the_usual_service_is_not_named_twice() -> None:
    assert parse(b"root@web01{ssh.22}") == parse(b"root@web01")
    assert target_name(parse(b"root@web01{ssh.22}")) == b"root@web01"


REFUSED = [
    (b".Trash-1000", "it has no '@'"),
    (b"", "it has no '@'"),
    (b"@web01", "credential '' is empty"),
    (b"root@", "device '' is empty"),
    (b"root@{ssh.22}", "device '' is empty"),
    (b"\\root@web01", "domain '' is empty"),
    (b"corp\\@web01", "credential '' is empty"),
    (b" root@web01", "begins or ends with a blank"),
    (b"root@web01 ", "begins or ends with a blank"),
    (b"root@web\n01", "holds a control character"),
    (b"root@web\x0001", "holds a control character"),
    (b"root@web\x7f01", "holds a control character"),
    (b"root@web\xff01", "not UTF-8"),
    (b"root@\xed\xa0\x80", "not UTF-8"),
    (b"-oProxyCommand=x@web01", "begins with '-'"),
    (b"root@-oProxyCommand=x", "begins with '-'"),
    (b"root@a{ssh.22}]123456@x", "holds"),
    (b"root@web01]123456", "holds ']'"),
    (b"root[x@web01", "holds '['"),
    (b"root%other@web01", "holds '%'"),
    (b"root@web01<otp>", "holds '<'"),
    (b"root@a/b", "holds '/'"),
    (b"root@web01{ssh}", "does not end in {proto.port}"),
    (b"root@web01{ssh.0}", "does not end in {proto.port}"),
    (b"root@web01{ssh.022}", "does not end in {proto.port}"),
    (b"root@web01{ssh.65536}", "does not end in {proto.port}"),
    (b"root@web01{SSH.22}", "does not end in {proto.port}"),
    (b"root@web01{ssh.22}{ssh.22}", "holds '{'"),
    (b"a\\b\\c@web01", "backslash"),
    (b"root@web\\01", "backslash"),
    (b"a@b\\c@web01", "the domain 'a@b' holds '@'"),
    ("root@\uff3bweb01".encode(), "NFKC"),
    ("root\uff05other@web01".encode(), "NFKC"),
    ("root@web\u200b01".encode(), "invisible"),
    ("root@web\u00ad01".encode(), "invisible"),
    ("root@web\u202e01".encode(), "changes the display order"),
    ("root@web\u00a001".encode(), "a blank that is not a space"),
    ("root@\u0301web".encode(), "begins with a combining"),
    ("root@we\u0301b".encode(), "NFKC"),
    ("root@שלום".encode(), "right-to-left"),
    ("root@web😀".encode(), "newer than SASLprep"),
    (b"root@" + b"x" * 251, "256 bytes"),
]


@pytest.mark.parametrize(("name", "reason"), REFUSED)
def test_a_name_that_could_be_misread_is_no_target(name: bytes, reason: str) -> None:
    with pytest.raises(NameRefusedError) as refused:
        parse(name)
    assert reason in str(refused.value)
    assert str(refused.value).isprintable()


def test_the_longest_name_is_a_target() -> None:
    assert parse(b"root@" + b"x" * 250).device == "x" * 250


@given(st.binary(max_size=300))
def test_any_bytes_are_a_target_or_refused(name: bytes) -> None:
    try:
        target = parse(name)
    except NameRefusedError:
        return
    assert parse(target_name(target)) == target


def check_unchanged(text: str) -> None:
    assert saslprep(f"a[{text}]") == f"a[{text}]"
    assert not NEVER.intersection(unicodedata.normalize("NFKC", text))


def test_each_character_that_passes_reaches_the_wire_unchanged() -> None:
    passed = [chr(n) for n in range(0x10000) if not find_problem(f"x{chr(n)}")]
    assert "\u00e9" in passed
    assert "\uff3b" not in passed
    for char in passed:
        check_unchanged(f"x{char}")


@given(st.text(st.characters(categories=["L", "M", "N", "S"]), min_size=1, max_size=5))
@example("e\u0301")
@example("\u1100\u1161")
def test_what_passes_reaches_the_wire_unchanged(text: str) -> None:
    if not find_problem(text):
        check_unchanged(text)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("acme", True),
        ("Acme-2.b_c", True),
        ("", False),
        (".", False),
        ("..", False),
        ("a/b", False),
        ("a b", False),
        ("-a", False),
        ("a\n", False),
        ("x" * 64, False),
    ],
)
def test_a_tenant_is_a_plain_folder_name(name: str, *, is_one: bool) -> None:
    assert is_tenant_name(name) is is_one
