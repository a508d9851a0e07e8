"""Templates are checked before anything is rendered with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pamfs.errors import NameRefusedError
from pamfs.model import Target
from pamfs.naming import dialects
from pamfs.naming.dialects import (
    ALIASES,
    MASK,
    PRESETS,
    Preset,
    find_dialect,
    find_tenant_problem,
)

WEB = Target("acme", "root", "web01")


def test_presets_are_sound_templates_with_ports() -> None:
    ports = {name: find_dialect(name).default_port for name in PRESETS}
    assert ports["segura-sftp"] == 4022
    assert ports["cyberark"] == 22
    assert find_dialect("<credential>").default_port == 22
    for alias, name in ALIASES.items():
        assert find_dialect(alias) == find_dialect(name)


def test_a_preset_without_refused_characters_gets_those_of_its_template(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new = Preset("<operator>;<credential>@<device>", 22)
    monkeypatch.setattr(dialects, "PRESETS", {**PRESETS, "new-pam": new})
    dialect = find_dialect("new-pam")
    assert dialect.user_name("alice", WEB, "") == "alice;root@web01"
    with pytest.raises(NameRefusedError, match="';', a delimiter of the dialect"):
        dialect.user_name("alice", replace(WEB, device="web01;x"), "")


def test_only_templates_with_a_place_take_a_code() -> None:
    assert find_dialect("segura-ssh").takes_otp
    assert not find_dialect("cyberark").takes_otp
    with pytest.raises(ValueError, match="has no place for a code"):
        find_dialect("cyberark").user_name("alice", WEB, "123456")


def test_a_code_can_be_masked_but_not_be_anything() -> None:
    dialect = find_dialect("segura-sftp")
    assert dialect.user_name("a", WEB, MASK) == "a%acme[root@web01{ssh.22}]******"
    for code in ("12 34", "1%other", "*1", "1\n", "\uff11\uff12", "x" * 65):
        with pytest.raises(NameRefusedError) as refused:
            dialect.user_name("a", WEB, code)
        assert code not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("segura-stfp", "did you mean 'segura-sftp'"),
        ("openssh", "no dialect is called 'openssh'; known are segura-sftp"),
        ("<user>@<device>", "unknown placeholder <user>; known are <operator>"),
        ("<operator", "do not pair"),
        ("<operator>@<<device>", "do not pair"),
        ("a>b<device>", "do not pair"),
        ("<device>(:<port>", "do not pair"),
        ("<device>:<port>)", "do not pair"),
        ("<device>((:<port>))", "do not pair"),
        ("<device>@<device>", "occurs twice"),
        ("<operator>%<tenant>", "neither <credential> nor <device>"),
        ("<credential>@<account>", "<credential> contains <account>"),
        ("<domain>@<credential>", "<credential> contains <domain>"),
        ("<credential><device>", "there is no delimiter between"),
        ("<device>(<port>)", "there is no delimiter between"),
        (
            "<account>(#<domain>#)<device>",
            "there is no delimiter between <account> and",
        ),
        ("<credential>x<device>", "'x' is not a delimiter"),
        ("<device>(:<operator>)", "a group in ( ) must contain"),
        ("<device>(:)", "a group in ( ) must contain"),
        ("<device>ü<otp>", "other than printable ASCII"),
        ("<device>\n<otp>", "other than printable ASCII"),
    ],
)
def test_a_template_that_cannot_be_read_back_is_refused(
    text: str, problem: str
) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        find_dialect(text)
    assert problem in str(refused.value)


@pytest.mark.parametrize(
    ("template", "target", "operator"),
    [
        ("<operator>!<credential>!<device>", Target("a", "x!y", "d"), "o"),
        ("<operator>!<credential>!<device>", Target("a", "x#y", "d"), "o"),
        ("<operator>!<credential>!<device>", Target("a", "x", "d"), "o!p"),
        ("<operator>!<credential>!<device>", Target("a", "x@y", "d"), "o"),
        ("<credential>+<device>", Target("a", "x+y", "d"), "o"),
    ],
)
def test_a_template_of_ones_own_keeps_its_delimiters_out_of_values(
    template: str, target: Target, operator: str
) -> None:
    with pytest.raises(NameRefusedError, match="a delimiter of the dialect"):
        find_dialect(template).user_name(operator, target, "")


def test_an_operator_may_be_a_mail_address_where_nothing_splits_at_it() -> None:
    own = find_dialect("<operator>%<tenant>[<credential>@<device>]<otp>")
    target = Target("acme", "a@b", "2001:db8::1")
    name = own.user_name("alice@corp.example", target, "")
    assert name == "alice@corp.example%acme[a@b@2001:db8::1]"


def test_an_optional_group_is_there_when_it_says_something() -> None:
    own = find_dialect("<credential>@<device>(:<port>)(,<otp>)")
    assert own.user_name("", WEB, "") == "root@web01"
    other = Target("acme", "root", "web01", "", "ssh", 2222)
    assert own.user_name("", other, "123456") == "root@web01:2222,123456"


@pytest.mark.parametrize(
    "target",
    [
        Target("a b", "x", "d"),
        Target("a", "", "d"),
        Target("a", "x", "d@e"),
        Target("a", "x\\y", "d"),
        Target("a", "x", "d", "", "SSH", 22),
        Target("a", "x", "d", "", "ssh", 0),
        Target("a", "x", "d", "", "ssh", 65536),
    ],
)
def test_targets_that_no_name_gives_are_refused_all_the_same(target: Target) -> None:
    with pytest.raises(NameRefusedError):
        find_dialect("segura-sftp").user_name("alice", target, "")


def test_a_tenant_is_reserved_only_where_it_is_sent() -> None:
    assert "reserved" in find_tenant_problem("Segura", find_dialect("segura-sftp"))
    assert not find_tenant_problem("Segura", find_dialect("segura-onprem"))
    assert "not a tenant name" in find_tenant_problem("a/b", find_dialect("wallix"))
    assert not find_tenant_problem("acme", find_dialect("segura-sftp"))
