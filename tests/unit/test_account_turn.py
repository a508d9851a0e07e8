"""Many targets, one account: it must not lock because somebody typed a ``*``."""

from __future__ import annotations

import contextlib

import pytest
import trio
from trio.testing import MockClock

from pamfs.errors import (
    CoolingError,
    LoginError,
    LoginRefusedError,
    PamfsError,
    UnreachableError,
)
from pamfs.model import Target
from pamfs.sessions.account.policy import AccountRestingError
from pamfs.sessions.answers import Answers
from pamfs.sessions.attempt import Attempt
from pamfs.sessions.checkout.custody import Custody
from pamfs.sessions.checkout.lease_requests import LeaseRequests
from pamfs.sessions.pool import Pool
from tests.conftest import LogLedger
from tests.fakes.dialer import FakeDialer
from tests.fakes.journals import MemoryJournal
from tests.fakes.logins import steps
from tests.fakes.people import FakePerson
from tests.fakes.pools import borrow, pool_of, status_of
from tests.fakes.tenants import tenant
from tests.fakes.vault import FakeVault

TARGETS = [Target("acme", "root", f"web{number:02}") for number in range(11)]


def refused() -> LoginError:
    return LoginRefusedError("wrong password")


async def try_all(dialer: FakeDialer) -> list[type[Exception]]:
    """Want every target at once; return how each ended."""
    ends: list[type[Exception]] = []

    async def want(target: Target) -> None:
        try:
            await borrow(pool, target)
        except LoginError as exc:
            ends.append(type(exc))

    async with pool_of(steps(dialer)) as pool, trio.open_nursery() as nursery:
        for target in TARGETS:
            nursery.start_soon(want, target)
    return ends


async def test_a_wrong_password_is_sent_once_however_many_targets_are_wanted(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("wrong password")
    dialer = FakeDialer(failures=[refused() for _ in TARGETS])
    ends = await try_all(dialer)
    assert dialer.dials == 1
    assert sorted(end.__name__ for end in ends) == [
        *["AccountRestingError"] * 10,
        "LoginRefusedError",
    ]


async def test_a_proxy_that_is_down_is_tried_once_by_those_who_wait_together(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("no answer")
    dialer = FakeDialer(
        takes_s=20, failures=[UnreachableError("no answer") for _ in TARGETS]
    )
    start = trio.current_time()
    assert await try_all(dialer) == [UnreachableError] * 11
    assert dialer.dials == 1
    assert trio.current_time() - start < 30


async def test_once_accepted_logins_go_side_by_side(autojump_clock: MockClock) -> None:
    dialer = FakeDialer(takes_s=1)
    async with pool_of(steps(dialer)) as pool:
        await borrow(pool, TARGETS[0])
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            for target in TARGETS[1:]:
                nursery.start_soon(borrow, pool, target)
        assert trio.current_time() - start == 1
    assert dialer.dials == 11


async def test_one_target_that_is_refused_does_not_stop_the_others(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("wrong password")
    dialer = FakeDialer()
    async with pool_of(steps(dialer)) as pool:
        await borrow(pool, TARGETS[0])
        dialer.failures.append(refused())
        with pytest.raises(LoginRefusedError):
            await borrow(pool, TARGETS[1])
        await borrow(pool, TARGETS[2])


async def test_two_refusals_in_a_row_are_the_accounts(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("wrong password")
    dialer = FakeDialer()
    async with pool_of(steps(dialer)) as pool:
        await borrow(pool, TARGETS[0])
        dialer.failures += [refused(), refused()]
        for target in TARGETS[1:3]:
            with pytest.raises(LoginRefusedError):
                await borrow(pool, target)
        with pytest.raises(AccountRestingError):
            await borrow(pool, TARGETS[3])
        assert dialer.dials == 3


async def test_a_rested_account_is_tried_again_and_rests_longer(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("wrong password")
    dialer = FakeDialer(failures=[refused(), refused()])
    async with pool_of(steps(dialer), acme=tenant(cooldown_s=30)) as pool:
        for target in TARGETS[:2]:
            with pytest.raises(LoginRefusedError):
                await borrow(pool, target)
            await trio.sleep(31)
        with pytest.raises((AccountRestingError, CoolingError)):
            await borrow(pool, TARGETS[2])
        await trio.sleep(60)
        await borrow(pool, TARGETS[3])
    assert dialer.dials == 3


async def test_a_person_may_have_a_resting_account_tried_at_once(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("wrong password")
    dialer = FakeDialer(failures=[refused()])
    accounts = steps(dialer)
    async with pool_of(accounts) as pool:
        with pytest.raises(LoginRefusedError):
            await borrow(pool, TARGETS[0])
        await accounts.pardon(tenant(), TARGETS[0])
        await borrow(pool, TARGETS[1])
    assert dialer.dials == 2


async def test_a_password_that_was_changed_meanwhile_is_sent_once(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("wrong password")
    dialer = FakeDialer()
    async with pool_of(steps(dialer)) as pool:
        await borrow(pool, TARGETS[0])
        await trio.sleep(3600)
        dialer.failures += [refused() for _ in TARGETS]
        async with trio.open_nursery() as nursery:
            for target in TARGETS[1:]:
                nursery.start_soon(want_quietly, pool, target)
    assert dialer.dials == 2


async def test_a_proxy_that_says_nothing_at_all_is_waited_for_once(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("did not answer|does not answer")
    dialer = FakeDialer(takes_s=10_000)
    start = trio.current_time()
    assert await try_all(dialer) == [UnreachableError] * 11
    assert dialer.dials == 1
    assert trio.current_time() - start < 60


async def test_a_code_is_obtained_when_it_can_be_sent(
    autojump_clock: MockClock,
) -> None:
    obtained: list[float] = []

    async def obtain(attempt: Attempt) -> None:
        await trio.lowlevel.checkpoint()
        obtained.append(trio.current_time())

    dialer = FakeDialer(takes_s=20, obtain_code=obtain)
    async with pool_of(steps(dialer)) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(borrow, pool, TARGETS[0])
        await trio.sleep(5)
        nursery.start_soon(borrow, pool, TARGETS[1])
    assert [at - obtained[0] for at in obtained] == [0, 20]


async def test_the_rest_that_a_refusal_asks_for_is_the_accounts(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("wrong code")
    dialer = FakeDialer(failures=[LoginRefusedError("wrong code", rest_s=600)])
    async with pool_of(steps(dialer)) as pool:
        for target in TARGETS:
            await want_quietly(pool, target)
            await trio.sleep(50)
        assert dialer.dials == 1
        await trio.sleep(60)
        await borrow(pool, TARGETS[1])


async def test_while_an_account_rests_nothing_is_checked_out(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("wrong password")
    dialer, vault = FakeDialer(failures=[refused()]), FakeVault()
    async with trio.open_nursery() as nursery:
        counter = LeaseRequests(
            Answers(FakePerson()), Custody(nursery, MemoryJournal())
        )
        async with pool_of(steps(dialer, provider=vault, counter=counter)) as pool:
            for target in TARGETS:
                await want_quietly(pool, target)
            assert len(vault.asked) == 1
            assert vault.held == []
            await trio.sleep(6)  # no refusal of theirs: they do not cool for long
            assert status_of(pool, TARGETS[1]).state == "absent"
            assert status_of(pool, TARGETS[0]).state == "cooling"
            await trio.sleep(30)
            await borrow(pool, TARGETS[1])
            assert len(vault.asked) == 2


async def test_two_who_begin_at_once_get_no_second_code_if_the_first_is_refused(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("wrong password")
    obtained: list[Target] = []

    async def obtain(attempt: Attempt) -> None:
        obtained.append(attempt.target)
        await trio.sleep(3)

    dialer = FakeDialer(failures=[refused()], obtain_code=obtain)
    ends = await try_all(dialer)
    assert len(ends) == 11
    assert len(obtained) == dialer.dials == 1


async def test_who_waits_for_its_turn_says_so_and_has_it_when_the_first_gives_up(
    autojump_clock: MockClock,
) -> None:
    async def obtain(attempt: Attempt) -> None:
        await trio.sleep(1000 if attempt.target == TARGETS[0] else 0)

    dialer = FakeDialer(obtain_code=obtain)
    acme = tenant(connect_timeout_s=2000)
    async with (
        pool_of(steps(dialer), acme=acme) as pool,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_want_whatever_comes, pool, TARGETS[0])
        await trio.sleep(1)
        nursery.start_soon(borrow, pool, TARGETS[1])
        await trio.sleep(1)
        assert status_of(pool, TARGETS[1]).awaiting == "another login of the account"
        await pool.end(TARGETS[0])
        await trio.sleep(2)
        assert status_of(pool, TARGETS[1]).state == "ready"
        assert status_of(pool, TARGETS[1]).awaiting is None


@pytest.mark.parametrize(
    ("has_sent", "dials"), [(True, 1), (False, len(TARGETS))], ids=["sent", "nothing"]
)
async def test_a_proxy_that_never_judges_what_it_was_sent_has_refused_it(
    has_sent: bool, dials: int, autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("was not finished")
    expect_log("account backs off|was not finished")

    async def speak(attempt: Attempt) -> None:
        await trio.lowlevel.checkpoint()
        attempt.is_answered, attempt.has_sent = True, has_sent

    dialer = FakeDialer(takes_s=10_000, obtain_code=speak)
    acme = tenant(connect_timeout_s=30, cooldown_s=600)
    async with pool_of(steps(dialer), acme=acme) as pool:
        for target in TARGETS:
            await want_quietly(pool, target)
    assert dialer.dials == dials


async def test_a_login_that_is_ended_on_purpose_is_held_against_nobody(
    autojump_clock: MockClock,
) -> None:
    async def speak(attempt: Attempt) -> None:
        await trio.lowlevel.checkpoint()
        attempt.is_answered = attempt.has_sent = True

    dialer = FakeDialer(takes_s=5, obtain_code=speak)
    async with pool_of(steps(dialer)) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_want_whatever_comes, pool, TARGETS[0])
            await trio.sleep(1)
            await pool.end(TARGETS[0])
        await borrow(pool, TARGETS[1])
    assert dialer.dials == 2


@pytest.mark.parametrize("after_s", [x * 0.25 for x in range(14)])
async def test_an_attempt_that_is_ended_at_any_moment_keeps_no_turn(
    after_s: float, autojump_clock: MockClock
) -> None:
    async def slowly(_attempt: Attempt) -> None:
        await trio.sleep(1)

    dialer = FakeDialer(ask=slowly, obtain_code=slowly)
    async with pool_of(steps(dialer)) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_want_whatever_comes, pool, TARGETS[0])
            nursery.start_soon(_want_whatever_comes, pool, TARGETS[1])
            await trio.sleep(after_s)
            await pool.end(TARGETS[0])
            await pool.end(TARGETS[1])
        with trio.fail_after(60):
            await borrow(pool, TARGETS[2])


async def test_a_seed_that_is_found_resting_is_looked_at_once(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("none is sent")
    asked: list[Target] = []

    async def rests(attempt: Attempt) -> None:
        await trio.lowlevel.checkpoint()
        asked.append(attempt.target)
        raise LoginRefusedError("none is sent", rest_s=600)

    dialer = FakeDialer(obtain_code=rests)
    assert len(await try_all(dialer)) == 11
    assert len(asked) == 1


async def _want_whatever_comes(pool: Pool, target: Target) -> None:
    with contextlib.suppress(PamfsError):
        await borrow(pool, target)


async def want_quietly(pool: Pool, target: Target) -> None:
    with contextlib.suppress(LoginError):
        await borrow(pool, target)
