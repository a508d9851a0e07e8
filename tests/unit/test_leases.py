"""A lease with a known end: renewed, or warned of, drained, read-only and over."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pamfs.errors import UnreachableError
from pamfs.model import Target
from pamfs.sessions.machine import State
from pamfs.sessions.notices import Notice, Notices
from pamfs.sessions.open_session import plan_lease
from pamfs.sessions.pool import Pool
from tests.conftest import LogLedger
from tests.fakes.dialer import FakeDialer, nothing
from tests.fakes.pools import borrow, pool_of, status_of
from tests.fakes.tenants import ME, WEB01, tenant

BUSY = tenant(idle_close_s=99999)


def dialer_for(lease_s: float, *later: float | Exception) -> FakeDialer:
    ends = trio.current_time() + lease_s
    return FakeDialer(takes_s=0, lease_expires_at=ends, later=list(later))


def test_a_long_lease_is_warned_of_in_minutes_and_a_short_one_in_its_half() -> None:
    long = plan_lease(0, 3600)
    assert (long.renew_at, long.warn_at, long.drain_at, long.close_at) == (
        1800,
        3300,
        3570,
        3598,
    )
    short = plan_lease(0, 4)
    assert (short.renew_at, short.warn_at, short.drain_at) == (2, 2, 3)
    assert short.drain_at < short.close_at < 4
    over = plan_lease(10, 5)
    assert over.close_at <= 10


async def test_before_a_lease_ends_data_is_stored_through_the_session(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("the lease ")
    began = trio.current_time()
    dialer = dialer_for(600)
    stored: list[float] = []

    async with pool_of(dialer, acme=BUSY) as pool:

        async def store(target: Target) -> None:
            async with pool.lend(target, ME):
                await trio.sleep(5)
                stored.append(trio.current_time() - began)

        pool.on_drain(store)
        await borrow(pool)
        assert status_of(pool).lease_expires_at == began + 600
        await trio.sleep(574)
        assert status_of(pool).state == "draining"
        assert not pool.is_read_only(WEB01)
        await trio.sleep(5)
        assert status_of(pool).state == "read-only"
        assert pool.is_read_only(WEB01)
        assert pool.ready(WEB01) is not None
        await trio.sleep(20)
        assert stored == [pytest.approx(575)]
        assert dialer.links[0].is_closed
        assert not pool.is_read_only(WEB01)
        assert status_of(pool).lease_expires_at is None
        assert dialer.dials == 1


async def test_data_that_cannot_be_stored_does_not_outlast_the_lease(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("the lease ")
    dialer = dialer_for(600)

    async def never(_target: Target) -> None:
        await trio.sleep(9999)

    async with pool_of(dialer, acme=BUSY) as pool:
        pool.on_drain(never)
        await borrow(pool)
        await trio.sleep(595)
        assert pool.is_read_only(WEB01)
        await trio.sleep(6)
        assert dialer.links[0].is_closed


async def test_a_lease_that_can_be_renewed_is_and_nobody_is_warned(
    autojump_clock: MockClock,
) -> None:
    began = trio.current_time()
    dialer = dialer_for(100, began + 200, began + 300)
    notices: list[Notice] = []
    async with pool_of(dialer, acme=BUSY) as pool:
        pool.notices.subscribe(notices.append)
        await borrow(pool)
        await trio.sleep(51)
        assert status_of(pool).lease_expires_at == began + 200
        await trio.sleep(79)
        assert status_of(pool).lease_expires_at == began + 300
        assert dialer.links[0].renewals == 2
        assert notices == []


async def test_what_cannot_be_renewed_is_warned_of_in_good_time(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("the lease ")
    began = trio.current_time()
    heard: list[tuple[int, str]] = []

    def hear(notice: Notice) -> None:
        heard.append(
            (round(trio.current_time() - began), notice.text.partition(" at ")[0])
        )

    async with pool_of(dialer_for(3600), acme=BUSY) as pool:
        pool.notices.subscribe(hear)
        await borrow(pool)
        await trio.sleep(3700)
    assert heard == [
        (3300, "the lease ends"),
        (3598, "the lease is over: closed"),
    ]


async def test_a_vault_that_is_away_is_asked_again_before_anybody_is_warned(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("renewing a lease failed")
    began = trio.current_time()
    dialer = dialer_for(3600, UnreachableError("vault is away"), began + 7200)
    async with pool_of(dialer, acme=BUSY) as pool:
        await borrow(pool)
        await trio.sleep(3200)
        assert dialer.links[0].renewals == 2
        assert status_of(pool).lease_expires_at == began + 7200


async def test_a_vault_that_stays_away_does_not_put_the_warning_off(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("renewing a lease failed")
    expect_log("the lease ")
    began = trio.current_time()
    dialer = dialer_for(3600, *[UnreachableError("vault is away")] * 50)
    heard: list[float] = []
    async with pool_of(dialer, acme=BUSY) as pool:
        pool.notices.subscribe(lambda _: heard.append(trio.current_time() - began))
        await borrow(pool)
        await trio.sleep(3305)
        assert heard == [pytest.approx(3300)]
        assert dialer.links[0].renewals < 15


async def test_a_renewal_that_gains_nothing_is_none(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("the lease ")
    began = trio.current_time()
    dialer = dialer_for(100, *[began + 100.1] * 50)
    async with pool_of(dialer, acme=BUSY) as pool:
        await borrow(pool)
        await trio.sleep(101)
        assert dialer.links[0].renewals == 1
        assert dialer.links[0].is_closed


async def test_a_machine_that_slept_past_the_end_closes_at_once(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("the lease ")
    dialer = dialer_for(3600)
    slept_s = 0.0
    async with trio.open_nursery() as nursery:
        pool = Pool(
            nursery, {"acme": BUSY}, dialer, now=lambda: trio.current_time() + slept_s
        )
        await borrow(pool)
        await wait_all_tasks_blocked()
        slept_s = 7200.0
        await trio.sleep(31)
        assert dialer.links[0].is_closed
        await pool.close(5)


async def test_a_session_lost_in_its_last_stretch_is_over_for_good(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("the lease ")
    expect_log("cable cut")
    dialer = dialer_for(600)
    revoked: list[Target] = []
    async with pool_of(dialer, acme=BUSY) as pool:
        pool.on_revoke(revoked.append)
        await borrow(pool)
        await trio.sleep(590)
        dialer.links[0].lose()
        await wait_all_tasks_blocked()
        assert revoked == [WEB01]
        assert dialer.links[0].is_closed


async def test_a_lost_session_revokes_nothing_until_somebody_locks(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("cable cut")
    dialer = FakeDialer(takes_s=0)
    revoked: list[Target] = []
    async with pool_of(dialer, acme=BUSY) as pool:
        pool.on_revoke(revoked.append)
        await borrow(pool)
        dialer.links[0].lose()
        await wait_all_tasks_blocked()
        assert revoked == []
        await pool.end(WEB01)
        assert revoked == [WEB01]


async def test_a_hang_up_waits_until_caches_are_dropped_but_not_for_ever(
    autojump_clock: MockClock,
) -> None:
    dialer = FakeDialer(takes_s=0, close_takes_s=1)
    async with pool_of(dialer, acme=BUSY) as pool:
        pool.on_settle(trio.sleep_forever)
        await borrow(pool)
        began = trio.current_time()
        await pool.end(WEB01)
        assert trio.current_time() - began == pytest.approx(5)
        assert dialer.links[0].is_closed


async def test_a_login_that_nobody_waits_for_is_given_up_before_it_is_sent(
    autojump_clock: MockClock,
) -> None:
    async def slowly(_attempt: object) -> None:
        await trio.sleep(60)

    dialer = FakeDialer(takes_s=0, ask=slowly)
    async with pool_of(dialer, acme=BUSY) as pool:
        with trio.move_on_after(5):
            await borrow(pool)
        await wait_all_tasks_blocked()
        assert status_of(pool).state == State.ABSENT.name.lower()
        assert dialer.dials == 0
        dialer.ask = nothing
        await borrow(pool)
        assert dialer.dials == 1


def test_a_subscriber_that_fails_fails_only_itself(expect_log: LogLedger) -> None:
    expect_log("save your work")
    expect_log("could not be passed on")
    notices, heard = Notices(), list[str]()

    def broken(_notice: Notice) -> None:
        raise RuntimeError("no desktop")

    def hear(notice: Notice) -> None:
        heard.append(str(notice))

    notices.subscribe(broken)
    with notices.subscribed(hear):
        notices.give(Notice(WEB01, "save your work"))
    assert heard == ["acme/root@web01: save your work"]
