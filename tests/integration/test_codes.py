"""Codes on the wire of the lab: one step each, two wrong ones at most, time moves fast.

A second of the tests' clock is a thirtieth of a real one, for codes, cooling and
the lab's vault alike.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from pamfs.config import AnswerSource, OtpPlace, OtpWhen, SourceKind
from pamfs.errors import LoginError, LoginRefusedError, PamfsError
from pamfs.model import Secret, Target
from pamfs.sessions.account import ledger
from pamfs.sessions.account.clock import Clock
from pamfs.sessions.account.codes import Codes
from pamfs.sessions.account.ledger import FileStore
from pamfs.sessions.pool import Pool
from pamfs.sessions.prompts import Question
from tests.conftest import LogLedger
from tests.fakes.people import FakePerson
from tests.fakes.pools import borrow
from tests.fakes.tenants import changed
from tests.integration.lab_site import spec
from tests.integration.session_site import LabSite, SessionSite, site

__all__ = ["site"]  # the fixture

RATE = 30.0
BEGAN = 1_700_000_010.0  # the beginning of a step
ROOT = Target("acme", "root", "web01")
CODE = Target("acme", "code", "web01")
BOTH = Target("acme", "both", "web01")
WRONG_SEED = AnswerSource(SourceKind.VALUE, "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP")
# The rest of the ten minutes is for the last try: a second, on a busy machine.
MOST_OF_REST_S = 570
PATIENT: dict[str, Any] = {"connect_timeout_s": 3600, "prompt_timeout_s": 3600}
KBDINT = OtpPlace.KEYBOARD_INTERACTIVE


class Fast(trio.abc.Clock):
    """A site, and the clock of the test; ``behind_s`` is how wrong ours is."""

    def __init__(self, site: SessionSite, rate: float) -> None:
        self.site = site
        self.rate = rate
        self.behind_s = 0.0
        self.began = time.perf_counter()
        self.site.within_s = 100_000
        self.restart()

    def start_clock(self) -> None:
        """Do nothing: it runs."""

    def current_time(self) -> float:
        return (time.perf_counter() - self.began) * self.rate

    async def skip(self, seconds: float) -> None:
        """Let ``seconds`` pass at once, and what they end."""
        self.began -= seconds / self.rate
        await trio.sleep(0.01)

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return (deadline - self.current_time()) / self.rate

    def restart(self) -> None:
        """Forget what only the memory of a daemon knows."""
        state = FileStore(self.site.folder / "state/codes.json")
        ours = Clock(lambda: self.now() - self.behind_s, lambda: True)
        self.site.codes = Codes(store=state, clock=ours)

    def now(self) -> float:
        return BEGAN + self.current_time()

    @asynccontextmanager
    async def lab(self, **changes: Any) -> AsyncIterator[LabSite]:
        async with self.site.lab(spec(), **(PATIENT | changes)) as lab:
            lab.running._vault._clock = self.now
            yield lab


@pytest.fixture(autouse=True)
def patient_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the disk its real time."""
    monkeypatch.setattr(ledger, "LOCK_WITHIN_S", 10_000)


@pytest.fixture
def fast(site: SessionSite) -> Fast:
    return Fast(site, RATE)


@pytest.fixture
def brisk(site: SessionSite) -> Fast:
    """For what must happen at one moment of a step."""
    return Fast(site, RATE / 3)


async def why(lab: LabSite) -> list[str]:
    return [event["why"] for event in await lab.events("auth_failed")]


async def test_two_targets_with_one_seed_at_once_send_two_steps(fast: Fast) -> None:
    async with fast.lab(otp_in=OtpPlace.USER, reason=None) as lab:
        acme = lab.pool._tenants["acme"]
        fast.restart()  # the second pool is a daemon of its own
        async with fast.site.pool(acme) as other, trio.open_nursery() as nursery:
            nursery.start_soon(lab.borrow, CODE)
            nursery.start_soon(borrow, other, CODE)
        logins = await lab.events("auth_ok")
        assert [login["methods"] for login in logins] == [
            ["password", "code in user"]
        ] * 2
        (alice,) = lab.running._vault.named("alice")
        assert len(alice.used_steps) == 2
        assert await why(lab) == []


async def try_all(pool: Pool) -> None:
    """Do what a job does that knows no patience."""
    for target in (CODE, BOTH):
        with pytest.raises(PamfsError) as caught:
            await borrow(pool, target)
        assert caught.value.code == LoginError.code


async def retry_most_of_ten_minutes(
    fast: Fast, lab: LabSite, *, restarts: bool
) -> None:
    """Try again every five seconds, in one mount or in a new one each time."""
    acme = lab.pool._tenants["acme"]
    until = trio.current_time() + MOST_OF_REST_S
    while trio.current_time() < until:
        fast.restart()
        async with fast.site.pool(acme) as pool:
            await try_all(pool)
            await fast.skip(5)
            while not restarts and trio.current_time() < until:
                await try_all(pool)
                await fast.skip(5)


@pytest.mark.parametrize("place", [OtpPlace.USER, KBDINT])
@pytest.mark.parametrize("restarts", [False, True])
async def test_a_wrong_seed_is_two_attempts_in_ten_minutes_of_a_retrying_job(
    place: OtpPlace, restarts: bool, fast: Fast, expect_log: LogLedger
) -> None:
    expect_log("refused")
    async with fast.lab(otp=WRONG_SEED, otp_in=place) as lab:
        await retry_most_of_ten_minutes(fast, lab, restarts=restarts)
        assert 1 <= len(await lab.events("connection")) <= 2
        assert 1 <= len(await why(lab)) <= 2
        assert await lab.events("locked") == []


@pytest.mark.parametrize(("restarts", "attempts"), [(False, 1), (True, 2)])
async def test_a_wrong_password_is_two_attempts_in_ten_minutes_of_a_retrying_job(
    restarts: bool, attempts: int, fast: Fast, expect_log: LogLedger
) -> None:
    expect_log("refused")
    fast.site.spares_account = True
    wrong = AnswerSource(SourceKind.VALUE, "wrong horse")
    async with fast.lab(password=wrong, otp=None, otp_in=OtpPlace.NONE) as lab:
        await retry_most_of_ten_minutes(fast, lab, restarts=restarts)
        assert await why(lab) == ["wrong password"] * attempts
        assert len(await lab.events("connection")) == attempts


@pytest.mark.parametrize("is_right", [False, True])
async def test_six_mounts_at_once_send_a_wrong_password_twice_and_a_right_one_all(
    is_right: bool, fast: Fast, expect_log: LogLedger
) -> None:
    if not is_right:
        expect_log("refused")
    wrong = {} if is_right else {"password": AnswerSource(SourceKind.VALUE, "wrong")}
    async with (
        fast.lab(otp=None, otp_in=OtpPlace.NONE, **wrong) as lab,
        AsyncExitStack() as mounts,
    ):
        acme = lab.pool._tenants["acme"]
        errors: list[PamfsError] = []

        async def want(pool: Pool) -> None:
            try:
                await borrow(pool, ROOT)
            except PamfsError as exc:
                errors.append(exc)

        pools = []
        for _ in range(6):
            fast.restart()  # each is a daemon of its own
            pools.append(await mounts.enter_async_context(fast.site.pool(acme)))
        async with trio.open_nursery() as nursery:
            for pool in pools:
                nursery.start_soon(want, pool)
        assert len(errors) == (0 if is_right else 6)
        assert await why(lab) == ["wrong password"] * (0 if is_right else 2)
        assert len(await lab.events("auth_ok")) == (6 if is_right else 0)


async def test_a_wrong_password_with_a_code_is_one_attempt(
    fast: Fast, expect_log: LogLedger
) -> None:
    expect_log("refused")
    wrong = AnswerSource(SourceKind.VALUE, "wrong horse")
    async with fast.lab(password=wrong) as lab:
        with pytest.raises(LoginRefusedError) as caught:
            await lab.borrow(CODE)
        assert caught.value.rest_s == 600
        assert await why(lab) == ["wrong password"]


async def test_a_clock_that_is_behind_is_helped_once_and_named(
    brisk: Fast, expect_log: LogLedger
) -> None:
    expect_log("this machine's clock is behind, or another client")
    async with brisk.lab(otp_in=KBDINT) as lab:
        await trio.sleep(30 - brisk.now() % 30)
        brisk.behind_s = 40  # late in the step before last: too old, the next is not
        await lab.borrow(CODE)
        assert await why(lab) == ["wrong or used code"]
        assert len(await lab.events("connection")) == 2


async def test_a_clock_that_is_far_off_is_suspected(
    fast: Fast, expect_log: LogLedger
) -> None:
    expect_log("two one-time codes, of .* were refused: check the seed")
    async with fast.lab(otp_in=OtpPlace.USER) as lab:
        await lab.borrow(ROOT)  # the password is proven
        fast.behind_s = 3600
        with pytest.raises(LoginRefusedError, match="UTC by this machine's clock"):
            await lab.borrow(CODE)
        assert len(await why(lab)) == 2


@dataclass
class Slip(FakePerson):
    """Mistypes some codes before the right one."""

    codes: list[str] = field(default_factory=list)

    async def ask(self, question: Question) -> Secret:
        self.asked.append(question)
        await trio.lowlevel.checkpoint()
        return Secret(self.codes.pop(0))


@pytest.mark.parametrize("place", [OtpPlace.USER, KBDINT])
async def test_a_person_who_mistypes_is_asked_again(
    place: OtpPlace, fast: Fast
) -> None:
    prompt = AnswerSource(SourceKind.PROMPT)
    async with fast.lab() as lab:
        seed = lab.running.spec.tenants[0].operators[0].seed
        right = await Codes(fast.now).issue(seed)
        person = Slip(codes=["000000", "000001", right.secret.reveal()])
        fast.site.person = person
        acme = changed(lab.pool._tenants["acme"], otp=prompt, otp_in=place)
        async with fast.site.pool(acme) as pool:
            await borrow(pool, CODE)
        assert len(await lab.events("connection")) == 3
        assert await why(lab) == ["wrong or used code"] * 2
        assert "refused the login" in person.asked[-1].details


async def test_a_code_is_left_out_while_none_is_needed_and_given_when_asked(
    fast: Fast,
) -> None:
    async with fast.lab(otp_in=OtpPlace.USER, otp_when=OtpWhen.LEARN) as lab:
        await lab.borrow(CODE)
        await lab.borrow(ROOT)
        (alice,) = lab.running._vault.named("alice")
        assert len(alice.used_steps) == 1
        await lab.pool.end(CODE)
        await lab.borrow(CODE)
        methods = [login["methods"] for login in await lab.events("auth_ok")]
        assert methods == [
            ["password", "code in user"],
            ["password"],
            ["password", "code in keyboard-interactive"],
        ]
        assert await why(lab) == []
