"""The lab's policy: user names (facts/pam.md#segura-user-names), and login steps."""

from __future__ import annotations

import pyotp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pamfs.lab.policy import (
    BusyError,
    Gate,
    LoginName,
    LoginStep,
    Operator,
    Outcome,
    UserNameError,
    Vault,
    Verdict,
    Wanted,
    parse_login,
)
from pamfs.lab.spec import CredentialSpec, DeviceSpec, LabSpec, OperatorSpec, TenantSpec
from pamfs.model import Secret


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


SEED = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
PASSWORD = "right horse"
START = 1_700_000_000.0 // 30 * 30


class Hand:
    """A clock that a test turns by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def spec(**operator: object) -> LabSpec:
    values: dict[str, object] = {
        "name": "alice",
        "password": Secret(PASSWORD),
        "seed": Secret(SEED),
    }
    return LabSpec(
        tenants=(
            TenantSpec(
                name="acme",
                operators=(OperatorSpec(**(values | operator)),),  # type: ignore[arg-type]
                credentials=(
                    CredentialSpec(name="root", device="web01", needs_code=True),
                    CredentialSpec(name="root", device="db01"),
                    CredentialSpec(name="root", device="audit01", needs_reason=True),
                    CredentialSpec(name="svc", device="one01", single_session=True),
                    CredentialSpec(name="two", device="web01"),
                    CredentialSpec(name="two", device="web01", port=2222),
                ),
            ),
        ),
        devices=(DeviceSpec(name="web01"),),
    )


class World:
    """A vault, a clock, and logins to it."""

    def __init__(self, **operator: object) -> None:
        self.clock = Hand()
        self.vault = Vault(spec(**operator), self.clock)

    def gate(self, user: str) -> Gate:
        return Gate(self.vault, parse_login(user))

    def code(self, steps: int = 0) -> str:
        return pyotp.TOTP(SEED).generate_otp(int(self.clock.now // 30) + steps)

    def login(self, user: str, password: str = PASSWORD) -> Outcome:
        return self.gate(user).give_password(password)

    @property
    def alice(self) -> Operator:
        return self.vault.named("alice")[0]


def test_a_password_is_enough_where_no_code_is_needed() -> None:
    assert World().login("alice[root@db01]").verdict is Verdict.LET_IN


def test_a_code_in_the_user_name_lets_in() -> None:
    world = World()
    user = f"alice%acme[root@web01]{world.code()}"
    assert world.login(user).verdict is Verdict.LET_IN


def test_a_code_behind_the_password_lets_in() -> None:
    world = World()
    outcome = world.login("alice[root@web01]", PASSWORD + world.code())
    assert outcome.verdict is Verdict.LET_IN


def test_a_code_is_asked_for_when_none_was_given() -> None:
    world = World()
    gate = world.gate("alice[root@web01]")
    assert gate.asks() is LoginStep.PASSWORD
    assert gate.give_answer(PASSWORD).verdict is Verdict.GO_ON
    assert gate.asks() is LoginStep.CODE
    assert gate.give_answer(world.code()).verdict is Verdict.LET_IN


def test_a_key_still_needs_the_code() -> None:
    world = World()
    gate = world.gate("alice[root@web01]")
    assert gate.give_key().verdict is Verdict.GO_ON
    assert gate.asks() is LoginStep.CODE
    assert not gate.offers("password")
    assert not gate.offers("publickey")
    assert gate.offers("keyboard-interactive")


def test_a_reason_is_asked_for_and_kept() -> None:
    gate = World().gate("alice[root@audit01]")
    assert gate.give_password(PASSWORD).verdict is Verdict.GO_ON
    assert gate.asks() is LoginStep.REASON
    assert gate.give_answer("  patching ").verdict is Verdict.LET_IN
    assert gate.reason == "patching"


def test_an_empty_reason_is_refused_and_counts_as_no_wrong_answer() -> None:
    world = World()
    gate = world.gate("alice[root@audit01]")
    gate.give_password(PASSWORD)
    assert gate.give_answer(" ").verdict is Verdict.REFUSED
    assert world.alice.wrong_answers == 0


def test_a_code_serves_once() -> None:
    world = World()
    user = f"alice[root@web01]{world.code()}"
    assert world.login(user).verdict is Verdict.LET_IN
    assert world.login(user).why == "wrong or used code"
    world.clock.now += 30
    assert world.login(user).why == "wrong or used code"


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [
        (-2, Verdict.REFUSED),
        (-1, Verdict.LET_IN),
        (0, Verdict.LET_IN),
        (1, Verdict.LET_IN),
        (2, Verdict.REFUSED),
    ],
)
def test_a_code_may_be_one_step_off(steps: int, verdict: Verdict) -> None:
    world = World()
    outcome = world.login(f"alice[root@web01]{world.code(steps)}")
    assert outcome.verdict is verdict


def test_a_code_that_is_not_needed_is_not_spent() -> None:
    world = World()
    code = world.code()
    assert world.login(f"alice[root@db01]{code}").verdict is Verdict.LET_IN
    assert world.login(f"alice[root@web01]{code}").verdict is Verdict.LET_IN


def test_a_code_where_the_operator_may_not_give_one_is_refused() -> None:
    world = World(code_in=("keyboard-interactive",))
    user = f"alice[root@web01]{world.code()}"
    assert world.login(user).verdict is Verdict.REFUSED


def test_a_wrong_password_leaves_the_code_unspent() -> None:
    world = World()
    user = f"alice[root@web01]{world.code()}"
    assert world.login(user, "wrong").why == "wrong password"
    assert world.login(user).verdict is Verdict.LET_IN


def test_five_wrong_answers_lock_the_operator_whatever_comes_then() -> None:
    world = World()
    outcomes = [world.login("alice[root@db01]", "wrong") for _ in range(5)]
    assert [outcome.has_locked for outcome in outcomes] == [False] * 4 + [True]
    refused = world.login("alice[root@db01]")
    assert (refused.verdict, refused.why) == (Verdict.REFUSED, "locked")
    assert world.gate("alice[root@db01]").give_key().why == "locked"


def test_a_right_login_forgets_the_wrong_ones() -> None:
    world = World()
    for _ in range(4):
        world.login("alice[root@db01]", "wrong")
    world.login("alice[root@db01]")
    for _ in range(4):
        world.login("alice[root@db01]", "wrong")
    assert world.login("alice[root@db01]").verdict is Verdict.LET_IN


def test_wrong_codes_count_like_wrong_passwords() -> None:
    world = World()
    for _ in range(5):
        world.login("alice[root@web01]000000")
    assert world.alice.is_locked


def test_an_expired_password_is_named_only_after_the_right_password() -> None:
    world = World()
    world.alice.is_expired = True
    assert "password expired" in world.login("alice[root@db01]").notice
    assert world.login("alice[root@db01]", "wrong").notice == ""


@pytest.mark.parametrize("user", ["mallory[root@db01]", "alice%globex[root@db01]"])
def test_an_unknown_operator_is_refused(user: str) -> None:
    assert World().login(user).why == "unknown operator or tenant"


@pytest.mark.parametrize(
    ("user", "port"),
    [
        ("alice[two@web01{ssh.22}]", 22),
        ("alice[two@web01{ssh.2222}]", 2222),
        ("alice[two@web01]", None),  # two connectivities, and nobody to ask
        ("alice[two@web01{telnet.22}]", None),
        ("alice[root@nowhere]", None),
    ],
)
def test_a_credential_is_found_by_its_connectivity(user: str, port: int | None) -> None:
    found = World().gate(user).credential
    assert (found.port if found else None) == port


def test_a_single_session_credential_is_held_by_one() -> None:
    world = World()
    credential = world.gate("alice[svc@one01]").credential
    assert credential is not None
    first = world.vault.let_in(world.alice, credential, lambda _reason: None)
    with pytest.raises(BusyError):
        world.vault.let_in(world.alice, credential, lambda _reason: None)
    world.vault.let_out(first)
    world.vault.let_in(world.alice, credential, lambda _reason: None)


def test_an_approval_ends() -> None:
    world = World()
    world.vault.approve("acme", "root@db01", 60)
    assert world.vault.is_approved("acme", "root@db01")
    world.clock.now += 61
    assert not world.vault.is_approved("acme", "root@db01")
