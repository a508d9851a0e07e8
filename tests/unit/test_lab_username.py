"""The proxy's reading of multi-hop user names (facts/pam.md#segura-user-names)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pamfs.lab.policy import LoginName, UserNameError, Wanted, parse_login


def read(text: str) -> tuple[str, str | None, str | None, str | None]:
    """Return operator, tenant, target and code of ``text``."""
    login = parse_login(text)
    code = login.code.reveal() if login.code else None
    return (
        login.operator,
        login.tenant,
        str(login.wanted) if login.wanted else None,
        code,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alice", ("alice", None, None, None)),
        ("alice%acme", ("alice", "acme", None, None)),
        ("alice[root@web01]", ("alice", None, "root@web01", None)),
        ("alice[root@web01]123456", ("alice", None, "root@web01", "123456")),
        (
            "alice%acme[root@web01{ssh.22}]123456",
            ("alice", "acme", "root@web01{ssh.22}", "123456"),
        ),
        (
            "alice[root@web01]123456%acme",
            ("alice", "acme", "root@web01", "123456"),
        ),
        ("alice[root@web01]%acme", ("alice", "acme", "root@web01", None)),
        ("alice[key\\root@web01]", ("alice", None, "key\\root@web01", None)),
        (
            "alice%acme[corp\\svc-backup@fs02{ssh.2222}]",
            ("alice", "acme", "corp\\svc-backup@fs02{ssh.2222}", None),
        ),
        (
            "alice%acme[deploy@corp.example@web01{ssh.22}]",
            ("alice", "acme", "deploy@corp.example@web01{ssh.22}", None),
        ),
        ("al@corp[root@web01]", ("al@corp", None, "root@web01", None)),
    ],
)
def test_a_documented_form_is_understood(
    text: str, expected: tuple[str, str | None, str | None, str | None]
) -> None:
    assert read(text) == expected


def test_the_last_at_sign_divides_credential_and_device() -> None:
    wanted = parse_login("alice[a@b@c]").wanted
    assert wanted == Wanted(credential="a@b", device="c")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[root@web01]",
        "alice%acme[root@web01]%acme",
        "alice[root@web01",
        "alice[root]",
        "alice[@web01]",
        "alice[root@]",
        "alice[root@web01]12345",
        "alice[root@web01]123456x",
        "alice[root@web01]1[root@db01]",
        "alice[root@web01{ssh}]",
        "alice[root@web01{ssh.22}]{ssh.22}",
        "alice%ACME[root@web01]",
        "alice%1acme[root@web01]",
        "alice[a\\b\\root@web01]",
        "alice[root@web01{ssh.22}x]",
    ],
)
def test_any_other_form_is_refused(text: str) -> None:
    with pytest.raises(UserNameError):
        parse_login(text)


@given(st.text(alphabet="ab@[]{}%\\.123456 ", max_size=40))
def test_what_is_understood_holds_no_delimiter_in_its_parts(text: str) -> None:
    try:
        login = parse_login(text)
    except UserNameError:
        return
    parts = [login.operator, *_parts(login)]
    assert not any(set(part) & set("[]{}%") for part in parts)


def _parts(login: LoginName) -> list[str]:
    if login.wanted is None:
        return []
    return [login.wanted.credential, login.wanted.device, login.wanted.domain]


def test_a_code_never_shows() -> None:
    assert "123456" not in repr(parse_login("alice[root@web01]123456"))
