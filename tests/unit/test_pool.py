"""What the pool promises those who borrow."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import pamfs
from pamfs.errors import (
    LoginRefusedError,
    NameRefusedError,
    UnreachableError,
)
from pamfs.model import Target
from pamfs.sessions.attempt import Attempt
from pamfs.sessions.pool import CrowdedError, Pool
from pamfs.sessions.session import TargetStatus
from pamfs.tasks import AbandonedError
from tests.conftest import LogLedger
from tests.fakes.dialer import FakeDialer
from tests.fakes.pools import borrow, pool_of, status_of
from tests.fakes.tenants import ME, WEB01, WEB02, tenant

# -- one login -------------------------------------------------------------------


async def test_twenty_wanters_share_one_dial(autojump_clock: MockClock) -> None:
    dialer = FakeDialer()
    trees = []

    async def want(pool: Pool) -> None:
        async with pool.lend(WEB01, ME) as tree:
            trees.append(tree)

    async with pool_of(dialer) as pool:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(want, pool)
        assert dialer.dials == 1
        assert len(trees) == 20
        assert set(map(id, trees)) == {id(dialer.links[0].tree)}


async def test_two_targets_are_dialed_at_the_same_time(
    autojump_clock: MockClock,
) -> None:
    dialer = FakeDialer(takes_s=10)
    async with pool_of(dialer) as pool:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(borrow, pool, WEB01)
            nursery.start_soon(borrow, pool, WEB02)
        assert trio.current_time() - began == pytest.approx(10)


async def test_an_impatient_caller_takes_only_itself_away(
    autojump_clock: MockClock,
) -> None:
    dialer = FakeDialer(takes_s=10)
    async with pool_of(dialer) as pool, trio.open_nursery() as nursery:
        impatient = trio.CancelScope(deadline=trio.current_time() + 1)

        async def want_briefly() -> None:
            with impatient:
                await borrow(pool)

        nursery.start_soon(want_briefly)
        await wait_all_tasks_blocked()
        await borrow(pool)
        assert impatient.cancelled_caught
        assert dialer.dials == 1


async def test_a_login_that_nobody_waits_for_any_more_still_lands(
    autojump_clock: MockClock,
) -> None:
    dialer = FakeDialer(takes_s=10)
    async with pool_of(dialer, acme=tenant(idle_close_s=60)) as pool:
        with trio.move_on_after(1):
            await borrow(pool)
        assert pool.ready(WEB01) is None
        await trio.sleep(10)
        assert pool.ready(WEB01) is dialer.links[0].tree
        await trio.sleep(61)
        assert pool.ready(WEB01) is None
        assert dialer.links[0].is_closed


async def test_ready_never_dials(autojump_clock: MockClock) -> None:
    dialer = FakeDialer()
    async with pool_of(dialer) as pool:
        assert pool.ready(WEB01) is None
        await wait_all_tasks_blocked()
        assert dialer.dials == 0


async def test_an_open_session_is_announced_before_it_is_lent(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("cable cut")
    dialer = FakeDialer()
    told: list[tuple[Target, bool]] = []
    async with pool_of(dialer) as pool:
        pool.on_open(lambda target: told.append((target, pool.ready(target) is None)))
        async with pool.lend(WEB01, ME):
            assert told == [(WEB01, False)]
        await borrow(pool)
        dialer.links[0].lose()
        await wait_all_tasks_blocked()
        await borrow(pool)
        assert told == [(WEB01, False)] * 2


async def test_a_session_is_gone_for_those_that_are_told_of_its_end(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("cable cut")
    dialer = FakeDialer()
    seen: list[bool] = []
    async with pool_of(dialer) as pool:
        for add in (pool.on_forget, pool.on_revoke):
            add(lambda target: seen.append(pool.ready(target) is None))
        await borrow(pool)
        dialer.links[0].lose()
        await wait_all_tasks_blocked()
        await borrow(pool)
        await pool.end(WEB01)
    assert seen == [True] * len(seen)
    assert len(seen) > 2


_CODE: Final = str(Path(pamfs.__file__).parent) + os.sep


@contextmanager
def calls_of_pamfs() -> Iterator[list[str]]:
    """Collect the functions of pamfs that are called in the body."""
    calls: list[str] = []

    def note(frame: FrameType, event: str, _arg: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_CODE):
            calls.append(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


async def test_an_open_session_is_borrowed_with_three_calls(
    autojump_clock: MockClock,
) -> None:
    async with pool_of(FakeDialer()) as pool:
        await borrow(pool)
        with calls_of_pamfs() as calls:
            loan = pool.lend(WEB01, ME)
            tree = await loan.__aenter__()
        assert calls == ["Pool.lend", "Loan.__init__", "Loan.__aenter__"]
        with calls_of_pamfs() as calls:
            assert pool.ready(WEB01) is tree
        assert calls == ["Pool.ready"]
        with calls_of_pamfs() as calls:
            await loan.__aexit__(None, None, None)
        assert len(calls) <= 4
        assert pool.statistics().callers == 0


async def test_a_tenant_that_is_not_configured_is_no_name(
    autojump_clock: MockClock,
) -> None:
    async with pool_of(FakeDialer()) as pool:
        with pytest.raises(NameRefusedError, match="globex"):
            await borrow(pool, Target("globex", "root", "web01"))


# -- shutting down ---------------------------------------------------------------


@pytest.mark.parametrize("stage", ["ask", "obtain_code", "open"])
async def test_closing_ends_an_attempt_wherever_it_is(
    stage: str, autojump_clock: MockClock
) -> None:
    async def forever(_attempt: Attempt) -> None:
        await trio.sleep(9999)

    dialer = FakeDialer(takes_s=9999)
    if stage != "open":
        setattr(dialer, stage, forever)

    async def want(pool: Pool) -> None:
        with pytest.raises(AbandonedError):
            await borrow(pool)

    async with pool_of(dialer) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(want, pool)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        assert await pool.close(10) == ()
        assert trio.current_time() == began


async def test_a_login_that_lands_after_closing_is_handed_straight_back(
    autojump_clock: MockClock,
) -> None:
    dialer = FakeDialer(takes_s=10, is_deaf_to_cancelling=True)

    async def want(pool: Pool) -> None:
        with pytest.raises(AbandonedError):
            await borrow(pool)

    async with pool_of(dialer) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(want, pool)
        await wait_all_tasks_blocked()
        assert await pool.close(60) == ()
        assert dialer.links[0].is_closed
        assert pool.ready(WEB01) is None


async def test_closing_names_what_was_not_closed_in_time(
    autojump_clock: MockClock,
) -> None:
    dialer = FakeDialer(close_takes_s=4)
    async with pool_of(dialer) as pool:
        await borrow(pool, WEB01)
        assert await pool.close(1) == (WEB01,)


async def test_a_closed_pool_lends_nothing(autojump_clock: MockClock) -> None:
    dialer = FakeDialer()
    async with pool_of(dialer) as pool:
        await borrow(pool, WEB01)
        await pool.close(1)
        for target in (WEB01, WEB02):
            with pytest.raises(AbandonedError):
                await borrow(pool, target)
        assert dialer.dials == 1


async def test_closing_lets_nobody_wait_for_a_cooling_target(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("no")
    dialer = FakeDialer(failures=[LoginRefusedError("no")])
    async with pool_of(dialer, acme=tenant(cooldown_s=500)) as pool:
        with pytest.raises(LoginRefusedError):
            await borrow(pool)
        began = trio.current_time()
    assert trio.current_time() == began


# -- admission and figures -------------------------------------------------------


async def test_a_target_that_hangs_takes_no_more_callers_than_its_share(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("within 30 s")
    dialer = FakeDialer(takes_s=9999)
    async with pool_of(dialer, max_callers=3) as pool:
        async with trio.open_nursery() as nursery:

            async def want() -> None:
                with pytest.raises(UnreachableError):
                    await borrow(pool, WEB01)

            for _ in range(3):
                nursery.start_soon(want)
            await wait_all_tasks_blocked()
            with pytest.raises(CrowdedError) as caught:
                await borrow(pool, WEB01)
            assert caught.value.code == errno.EBUSY
            dialer.takes_s = 0
            await borrow(pool, WEB02)
            assert pool.statistics().callers == 3
        assert pool.statistics().callers == 0


async def test_an_open_target_has_so_many_callers_at_most(
    autojump_clock: MockClock,
) -> None:
    async with pool_of(FakeDialer(), max_callers=2) as pool:
        async with pool.lend(WEB01, ME), pool.lend(WEB01, ME):
            with pytest.raises(CrowdedError):
                await borrow(pool)
        await borrow(pool)
        assert pool.statistics().callers == 0


async def test_the_status_says_what_an_operator_asks(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    dialer = FakeDialer(takes_s=2)
    async with pool_of(dialer, acme=tenant(idle_close_s=60)) as pool:
        await borrow(pool)
        assert status_of(pool) == TargetStatus(
            tenant="acme",
            target="root@web01",
            state="ready",
            since=began + 2,
            lease_expires_at=None,
            open_files=0,
            logins=1,
            host_key="SHA256:fake",
            last_error=None,
        )
        assert pool.statistics().sessions == {"ready": 1}
        await pool.end(WEB01)
        await borrow(pool)
        assert status_of(pool).logins == 2


@pytest.mark.parametrize("k", range(1, 8))
async def test_a_caller_may_leave_at_any_checkpoint(
    k: int, autojump_clock: MockClock
) -> None:
    """Cancelled at the k-th schedule point, it leaves no loan and no second dial."""
    dialer = FakeDialer(takes_s=0)
    async with pool_of(dialer, acme=tenant(idle_close_s=9999)) as pool:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(borrow, pool)
                for _ in range(k):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        assert pool.statistics().callers == 0
        await borrow(pool)
        assert dialer.dials == 1


async def test_an_ending_mount_asks_nobody_any_more_and_keeps_what_is_open(
    autojump_clock: MockClock,
) -> None:
    async def ask(attempt: Attempt) -> None:
        if attempt.target == WEB02:
            await trio.sleep_forever()  # nobody types

    dialer = FakeDialer(ask=ask)
    ends: list[type[Exception]] = []

    async def want(target: Target) -> None:
        try:
            await borrow(pool, target)
        except AbandonedError as exc:
            ends.append(type(exc))

    async with pool_of(dialer) as pool, trio.open_nursery() as nursery:
        await borrow(pool, WEB01)
        nursery.start_soon(want, WEB02)
        await wait_all_tasks_blocked()
        start = trio.current_time()
        pool.stop_opening()
        await wait_all_tasks_blocked()
        assert ends == [AbandonedError]
        assert trio.current_time() == start
        await want(Target("acme", "root", "web03"))
        assert ends == [AbandonedError] * 2
        assert pool.ready(WEB01) is not None
        await borrow(pool, WEB01)
