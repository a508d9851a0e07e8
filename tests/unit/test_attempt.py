"""The time limits of one attempt to log in."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from pamfs.app.mount import longest_request_s
from pamfs.errors import (
    LoginTimeoutError,
    UnreachableError,
)
from pamfs.sessions.attempt import Attempt, Limit
from tests.conftest import LogLedger
from tests.fakes.dialer import FakeDialer
from tests.fakes.pools import borrow, pool_of
from tests.fakes.tenants import tenant


async def test_a_proxy_that_never_speaks_is_unreachable_after_the_deadline(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("within 30 s")
    async with pool_of(FakeDialer(takes_s=9999)) as pool:
        began = trio.current_time()
        with pytest.raises(UnreachableError):
            await borrow(pool)
        assert trio.current_time() - began == pytest.approx(30)


async def test_a_login_that_is_not_finished_in_time_is_a_timeout(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    """The proxy waits for a push to a phone; the message names the key to raise."""
    expect_log("not finished within 120 s .login_timeout: raise it")
    began = trio.current_time()
    async with pool_of(FakeDialer(takes_s=9999, obtain_code=answer)) as pool:
        with pytest.raises(LoginTimeoutError):
            await borrow(pool)
    assert trio.current_time() - began == pytest.approx(20 + 120)


@pytest.mark.parametrize("login_timeout_s", [0.1, 120.0, 3600.0])
def test_a_request_does_not_end_before_the_login_that_it_waits_for(
    login_timeout_s: float,
) -> None:
    one = tenant(login_timeout_s=login_timeout_s, prompt_timeout_s=0.1)
    needed = one.session.connect_timeout_s + login_timeout_s
    needed += one.files.request_timeout_s
    assert longest_request_s([tenant(), one]) > needed


async def answer(attempt: Attempt) -> None:
    await trio.sleep(20)  # to connect
    attempt.answered()


async def test_a_login_may_take_longer_than_a_connection(
    autojump_clock: MockClock,
) -> None:
    dialer = FakeDialer(takes_s=119, obtain_code=answer)
    async with pool_of(dialer) as pool:
        await borrow(pool)
    assert dialer.dials == 1


async def test_a_second_connection_has_the_rest_of_the_time_for_the_first(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("not finished within 30 s .connect_timeout")

    async def dial_again(attempt: Attempt) -> None:
        await answer(attempt)
        await trio.sleep(60)
        attempt.deadline.use(Limit.CONNECT)

    began = trio.current_time()
    async with pool_of(FakeDialer(takes_s=9999, obtain_code=dial_again)) as pool:
        with pytest.raises(LoginTimeoutError):
            await borrow(pool)
    assert trio.current_time() - began == pytest.approx(20 + 60 + 10)


async def test_the_time_that_a_person_takes_does_not_count(
    autojump_clock: MockClock,
) -> None:
    async def slow_person(attempt: Attempt) -> None:
        with attempt.deadline.paused():
            await trio.sleep(100)

    dialer = FakeDialer(takes_s=20, ask=slow_person, obtain_code=slow_person)
    async with pool_of(dialer) as pool:
        await borrow(pool)
        assert dialer.dials == 1


async def test_the_time_before_a_person_is_asked_does_count(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("within 30 s")

    async def slow(attempt: Attempt) -> None:
        await trio.sleep(20)
        with attempt.deadline.paused():
            await trio.sleep(100)

    dialer = FakeDialer(takes_s=20, ask=slow)
    async with pool_of(dialer) as pool:
        began = trio.current_time()
        with pytest.raises(UnreachableError):
            await borrow(pool)
        assert trio.current_time() - began == pytest.approx(130)
