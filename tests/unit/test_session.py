"""The failures, cooldowns and ends of one session."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pamfs.errors import (
    CannotAskError,
    CoolingError,
    CredentialBusyError,
    DeclinedError,
    GuardRefusedError,
    LoginClosedError,
    LoginError,
    LoginRefusedError,
    NameRefusedError,
    UnreachableError,
)
from pamfs.model import Caller, Target
from pamfs.sessions.account.policy import plan_cooldown
from pamfs.sessions.attempt import Attempt, Link, Reached
from pamfs.sessions.guard import NoGuard
from pamfs.sessions.open_session import RECENT_S
from pamfs.sessions.pool import Pool
from tests.conftest import LogLedger
from tests.fakes.dialer import FakeDialer
from tests.fakes.pools import borrow, pool_of, reborrow, status_of
from tests.fakes.tenants import ME, WEB01, WEB02, tenant

# -- failures --------------------------------------------------------------------


async def test_a_wrong_code_is_one_attempt_and_then_the_target_cools(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("wrong code")
    dialer = FakeDialer(failures=[LoginRefusedError("wrong code")])
    failures: list[LoginError] = []

    async def want(pool: Pool) -> None:
        try:
            await borrow(pool)
        except LoginError as exc:
            failures.append(exc)

    async with pool_of(dialer, acme=tenant(cooldown_s=30)) as pool:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(want, pool)
        assert [type(exc) for exc in failures] == [LoginRefusedError] * 5

        before = trio.current_time()
        with pytest.raises(CoolingError, match="wrong code") as caught:
            await borrow(pool)
        assert caught.value.code == errno.EACCES
        assert trio.current_time() == before
        assert dialer.dials == 1

        await trio.sleep(31)
        await borrow(pool)
        assert dialer.dials == 2


async def test_a_server_that_breaks_the_protocol_twice_in_a_minute_is_given_a_rest(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    """A device that answers with a wrong id: five accesses, two logins."""
    expect_log("the session was lost: the server broke the SFTP protocol")
    expect_log("the session was lost: cable cut")
    dialer = FakeDialer(takes_s=0)
    async with pool_of(dialer, acme=tenant(cooldown_s=30)) as pool:
        refusals: list[CoolingError] = []
        for _ in range(5):
            try:
                await borrow(pool)
            except CoolingError as exc:
                refusals.append(exc)
                continue
            dialer.links[-1].break_protocol()
            await wait_all_tasks_blocked()
        assert dialer.dials == 2
        assert [exc.code for exc in refusals] == [errno.EIO] * 3
        assert "Invalid response id" in str(refusals[0])
        await trio.sleep(31)
        await borrow(pool)
        assert dialer.dials == 3
        # What is not the server's fault costs nobody a rest.
        await trio.sleep(61)
        for _ in range(3):
            await borrow(pool)
            dialer.links[-1].lose()
            await wait_all_tasks_blocked()
        assert dialer.dials == 5


async def test_a_mount_that_ends_does_not_wait_for_such_a_rest(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("the session was lost: the server broke the SFTP protocol")
    dialer = FakeDialer(takes_s=0, close_takes_s=2)
    async with pool_of(dialer, acme=tenant(cooldown_s=30)) as pool:
        for _ in range(2):
            await borrow(pool)
            dialer.links[-1].break_protocol()
            await wait_all_tasks_blocked()
        assert await pool.close(60) == ()
        assert trio.current_time() < 10


class AtOnce:
    """Refuses each login before any other task runs."""

    def __init__(self) -> None:
        self.runs = 0

    def begin(self, _attempt: Attempt) -> AtOnce:
        return self

    async def run(self, _reached: Reached) -> Link:
        self.runs += 1
        raise LoginRefusedError("wrong code")

    async def close(self) -> None:
        """Hold nothing."""


async def test_the_timer_of_an_ended_cooldown_leaves_the_next_one_alone(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    """An unlock whose attempt fails before the old timer's task runs again."""
    expect_log("wrong code")
    tasks_in_any_order = 20
    dialer = AtOnce()
    async with pool_of(dialer, acme=tenant(cooldown_s=30)) as pool:
        for _ in range(tasks_in_any_order):
            with pytest.raises(LoginRefusedError):
                await borrow(pool)
            with pytest.raises(LoginRefusedError):
                await pool.unlock(WEB01, ME)
            await wait_all_tasks_blocked()
            with pytest.raises(CoolingError):
                await borrow(pool)
            await pool.end(WEB01)
        assert dialer.runs == 2 * tasks_in_any_order


async def test_a_cooling_target_slows_no_other(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("wrong code")
    dialer = FakeDialer(failures=[LoginRefusedError("wrong code")])
    async with pool_of(dialer) as pool:
        with pytest.raises(LoginRefusedError):
            await borrow(pool, WEB01)
        await borrow(pool, WEB02)
        assert dialer.dials == 2


async def test_each_refusal_doubles_the_rest_and_a_login_resets_it(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("no")
    dialer = FakeDialer(takes_s=0, failures=[LoginRefusedError("no")] * 2)
    async with pool_of(dialer, acme=tenant(cooldown_s=30)) as pool:
        rests = []
        for rest in (30, 60):
            with pytest.raises(LoginRefusedError):
                await borrow(pool)
            with pytest.raises(CoolingError) as caught:
                await borrow(pool)
            rests.append(str(caught.value))
            await trio.sleep(rest + 1)
        assert "for 30 s" in rests[0]
        assert "for 60 s" in rests[1]
        await borrow(pool)

        dialer.failures.append(LoginRefusedError("no"))
        await pool.end(WEB01)
        with pytest.raises(LoginRefusedError):
            await borrow(pool)
        with pytest.raises(CoolingError, match="for 30 s"):
            await borrow(pool)


def test_the_rest_is_at_most_ten_minutes_unless_configured_longer() -> None:
    assert [plan_cooldown(n, 30) for n in (1, 2, 3, 5, 6, 1000)] == [
        30,
        60,
        120,
        480,
        600,
        600,
    ]
    assert plan_cooldown(3, 3600) == 3600


async def test_a_proxy_that_is_down_is_tried_again_after_five_seconds(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("connection refused")
    dialer = FakeDialer(takes_s=0, failures=[UnreachableError("connection refused")])
    async with pool_of(dialer, acme=tenant(cooldown_s=300)) as pool:
        with pytest.raises(UnreachableError):
            await borrow(pool)
        with pytest.raises(CoolingError) as caught:
            await borrow(pool)
        assert caught.value.code == errno.EHOSTUNREACH
        assert dialer.dials == 1
        await trio.sleep(5.1)
        await borrow(pool)


AWAY = UnreachableError("connection refused")
STRANGER = Caller(pid=1 << 29, uid=ME.uid, gid=ME.gid)  # no process has that number


async def test_open_files_wait_for_a_proxy_that_is_away(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("the session was lost")
    expect_log("connection refused")
    dialer = FakeDialer(takes_s=0, failures=[])
    async with pool_of(dialer, acme=tenant(reconnect_s=60)) as pool:
        await borrow(pool)
        dialer.failures.extend([AWAY] * 5)
        dialer.links[0].lose()
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(reborrow, pool)
            await wait_all_tasks_blocked()
            # A program that did not use the session gets the error at once.
            with pytest.raises(CoolingError):
                async with pool.lend(WEB01, STRANGER):
                    pass
        assert dialer.dials == 7
        assert trio.current_time() < 12


async def test_a_program_without_open_files_goes_on_with_a_lost_session(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("the session was lost")
    expect_log("connection refused")
    dialer = FakeDialer(takes_s=0, failures=[])
    async with pool_of(dialer, acme=tenant(reconnect_s=60)) as pool:
        parent = Caller(pid=os.getpid(), uid=ME.uid, gid=ME.gid)
        async with pool.lend(WEB01, parent):
            pass
        dialer.failures.extend([AWAY] * 2)
        dialer.links[0].lose()
        await wait_all_tasks_blocked()
        pool.guard_with(LetsNobodyIn())
        with processes_of_one_job() as child:
            async with pool.lend(WEB01, Caller(child, ME.uid, ME.gid)):
                pass
        assert dialer.dials == 4


async def test_a_program_that_used_the_session_long_ago_is_a_new_one(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("the session was lost")
    expect_log("connection refused")
    dialer = FakeDialer(takes_s=0, failures=[])
    async with pool_of(dialer, acme=tenant(reconnect_s=60)) as pool:
        async with pool.lend(WEB01, STRANGER):
            pass
        for _ in range(2):
            await trio.sleep(RECENT_S + 1)
            await borrow(pool)
        dialer.failures.append(AWAY)
        dialer.links[0].lose()
        await wait_all_tasks_blocked()
        with pytest.raises(UnreachableError):
            async with pool.lend(WEB01, STRANGER):
                pass


@contextlib.contextmanager
def processes_of_one_job() -> Iterator[int]:
    """Start a process of this job; the value is its number."""
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            yield child.pid
        finally:
            child.kill()


async def test_a_proxy_that_stays_away_is_waited_for_as_long_as_configured(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("the session was lost")
    expect_log("connection refused")
    dialer = FakeDialer(takes_s=0)
    async with pool_of(dialer, acme=tenant(reconnect_s=20)) as pool:
        await borrow(pool)
        dialer.failures.extend([AWAY] * 100)
        dialer.links[0].lose()
        await wait_all_tasks_blocked()
        with pytest.raises(UnreachableError):
            await reborrow(pool)
        assert 20 <= trio.current_time() < 28
        dialer.failures.clear()


async def test_a_reconnect_that_is_refused_is_not_tried_again(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("the session was lost")
    expect_log("wrong password")
    dialer = FakeDialer(takes_s=0)
    async with pool_of(dialer, acme=tenant(reconnect_s=60)) as pool:
        await borrow(pool)
        dialer.failures.append(LoginRefusedError("wrong password"))
        dialer.links[0].lose()
        await wait_all_tasks_blocked()
        with pytest.raises(LoginRefusedError):
            await reborrow(pool)
        assert dialer.dials == 2


class LetsNobodyIn(NoGuard):
    """Refuses every login."""

    async def admit(self, target: Target, caller: Caller) -> None:
        await trio.lowlevel.checkpoint()
        raise GuardRefusedError(str(target), pid=caller.pid)


async def test_the_guard_has_no_say_behind_an_open_file(
    expect_log: LogLedger,
) -> None:
    expect_log("the session was lost")
    dialer = FakeDialer(takes_s=0)
    async with pool_of(dialer, acme=tenant()) as pool:
        await borrow(pool)
        pool.guard_with(LetsNobodyIn())
        dialer.links[0].lose()
        await wait_all_tasks_blocked()
        with pytest.raises(GuardRefusedError):
            async with pool.lend(WEB01, STRANGER):
                pass
        await reborrow(pool)


async def test_pages_do_not_hold_up_the_next_session_of_a_lost_one(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("the session was lost")
    dialer = FakeDialer(takes_s=0)
    async with pool_of(dialer, acme=tenant()) as pool:
        pool.on_settle(trio.sleep_forever)
        await borrow(pool)
        dialer.links[0].lose()
        await wait_all_tasks_blocked()
        began = trio.current_time()
        await reborrow(pool)
        assert trio.current_time() - began < 1


@pytest.mark.parametrize(
    ("stage", "error"),
    [
        ("ask", DeclinedError("alice said no")),
        ("ask", CannotAskError("nobody there")),
        ("obtain_code", DeclinedError("alice said no")),
        ("obtain_code", CannotAskError("nobody there")),
        ("open", DeclinedError("alice said no")),
        ("open", CredentialBusyError("in use")),
    ],
)
async def test_whatever_ends_an_attempt_ends_it_for_every_waiter(
    stage: str, error: LoginError, expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log(str(error))

    async def fail(_attempt: Attempt) -> None:
        await trio.sleep(1)
        raise error

    dialer = FakeDialer(takes_s=0)
    if stage == "open":
        dialer.failures.append(error)
    else:
        setattr(dialer, stage, fail)
    async with pool_of(dialer) as pool:
        with pytest.raises(type(error)):
            await borrow(pool)
        assert dialer.dials == (1 if stage == "open" else 0)
        assert status_of(pool).state == "cooling"
        assert status_of(pool).last_error == str(error)


async def test_a_name_that_the_dialect_refuses_keeps_its_errno(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("breaks out")
    dialer = FakeDialer(takes_s=0, failures=[NameRefusedError("breaks out")])
    async with pool_of(dialer) as pool:
        with pytest.raises(LoginError, match="breaks out") as caught:
            await borrow(pool)
        assert caught.value.code == errno.ENOENT


async def test_a_bug_in_the_dialer_costs_one_attempt_and_not_the_mount(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("internal error")
    expect_log("internal error: ZeroDivisionError")
    dialer = FakeDialer(failures=[ZeroDivisionError("secret text")])
    async with pool_of(dialer) as pool:
        with pytest.raises(LoginError, match=r"^internal error: ZeroDivisionError$"):
            await borrow(pool)
        await borrow(pool, WEB02)


async def test_a_stored_failure_holds_no_frames(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("wrong code")
    dialer = FakeDialer(failures=[LoginRefusedError("wrong code")])
    async with pool_of(dialer) as pool:
        with pytest.raises(LoginRefusedError):
            await borrow(pool)
        with pytest.raises(CoolingError) as caught:
            await borrow(pool)
        assert caught.value.cause.__traceback__ is None
        assert caught.value.cause.__context__ is None


@pytest.mark.parametrize("stage", ["ask", "obtain_code", "open"])
async def test_who_waits_for_a_login_that_is_locked_out_has_no_access(
    stage: str, autojump_clock: MockClock
) -> None:
    async def forever(_attempt: Attempt) -> None:
        await trio.sleep_forever()

    dialer = FakeDialer(takes_s=9999)
    if stage != "open":
        setattr(dialer, stage, forever)

    async def want(pool: Pool) -> None:
        with pytest.raises(LoginClosedError, match="was closed") as caught:
            await borrow(pool)
        assert caught.value.code == errno.EACCES

    async with pool_of(dialer) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(want, pool)
        await wait_all_tasks_blocked()
        await pool.end(WEB01)
        assert status_of(pool).state == "absent"


# -- the end of a session --------------------------------------------------------


async def test_after_a_loss_the_next_want_dials_anew(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("cable cut")
    dialer = FakeDialer()
    forgotten: list[Target] = []
    async with pool_of(dialer) as pool:
        pool.on_forget(forgotten.append)
        await borrow(pool)
        dialer.links[0].lose()
        await wait_all_tasks_blocked()
        assert pool.ready(WEB01) is None
        assert forgotten == [WEB01]
        assert status_of(pool).last_error == "the session was lost: cable cut"
        await borrow(pool)
        assert dialer.dials == 2
        assert status_of(pool).logins == 2
        assert status_of(pool).last_error is None


async def test_nobody_dials_while_the_last_session_is_being_hung_up(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("cable cut")
    dialer = FakeDialer(close_takes_s=3)
    async with pool_of(dialer) as pool:
        await borrow(pool)
        dialer.links[0].lose()
        await wait_all_tasks_blocked()
        async with pool.lend(WEB01, ME):
            assert dialer.links[0].is_closed
        assert dialer.dials == 2


async def test_an_idle_session_is_closed_and_a_busy_one_is_not(
    autojump_clock: MockClock,
) -> None:
    dialer = FakeDialer()
    async with pool_of(dialer, acme=tenant(idle_close_s=60)) as pool:
        async with pool.lend(WEB01, ME):
            await trio.sleep(1000)
            assert dialer.open_links
        await trio.sleep(59)
        assert dialer.open_links
        await borrow(pool)
        await trio.sleep(59)
        assert dialer.open_links
        await trio.sleep(2)
        assert not dialer.open_links
        assert status_of(pool).state == "absent"


async def test_an_open_file_keeps_the_session_open(autojump_clock: MockClock) -> None:
    dialer = FakeDialer()
    async with pool_of(dialer, acme=tenant(idle_close_s=60)) as pool:
        await borrow(pool)
        pool.pin(WEB01)
        assert status_of(pool).open_files == 1
        await trio.sleep(1000)
        assert dialer.open_links
        pool.unpin(WEB01)
        await trio.sleep(59)
        assert dialer.open_links
        await trio.sleep(2)
        assert not dialer.open_links


async def test_a_hook_that_fails_fails_only_itself(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("dropping what was cached failed")
    forgotten: list[Target] = []

    def broken(_target: Target) -> None:
        raise RuntimeError("broken hook")

    async with pool_of(FakeDialer()) as pool:
        pool.on_forget(broken)
        pool.on_forget(forgotten.append)
        await borrow(pool)
        await pool.end(WEB01)
        assert forgotten == [WEB01]


async def test_a_login_goes_no_further_when_it_was_closed_meanwhile(
    autojump_clock: MockClock,
) -> None:
    async def end(_attempt: Attempt) -> None:
        # A step that is shielded to its end does not see that it was cancelled.
        with trio.CancelScope(shield=True):
            await trio.sleep(1)

    obtained: list[Attempt] = []

    async def obtain(attempt: Attempt) -> None:
        obtained.append(attempt)

    dialer = FakeDialer(ask=end, obtain_code=obtain)
    async with pool_of(dialer) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(_want_quietly, pool)
        await trio.sleep(0.5)
        await pool.end(WEB01)
        await wait_all_tasks_blocked()
    assert obtained == []
    assert dialer.dials == 0


async def _want_quietly(pool: Pool) -> None:
    with contextlib.suppress(LoginError):
        await borrow(pool)
