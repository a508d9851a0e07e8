"""Logins that are cancelled, refused or overtaken at an awkward moment.

Each test here fails without one line of ``sessions`` that no other test needs: see
``tests/mutants.toml``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pamfs.config import OtpPlace
from pamfs.errors import LoginError, LoginRefusedError, UnreachableError
from pamfs.model import Secret, Target
from pamfs.sessions.account.codes import Codes
from pamfs.sessions.account.ledger import (
    AccountHistory,
    LedgerContents,
    MemoryStore,
    plan_rest_s,
)
from pamfs.sessions.account.policy import UNATTENDED_BACK_OFF_S, AccountRestingError
from pamfs.sessions.attempt import Attempt, Callers, Login, PausableDeadline
from pamfs.sessions.checkout.base import Lease
from pamfs.sessions.checkout.custody import Custody, HeldLease
from pamfs.sessions.checkout.journal import LeaseJournal
from pamfs.sessions.login.dial import WireLogin
from pamfs.sessions.login.secrets import LoginSecrets
from pamfs.sessions.login.steps import LoginSteps
from pamfs.sessions.machine import Event
from pamfs.tasks import AbandonedError
from pamfs.transport.wires import WireLink
from tests.conftest import LogLedger
from tests.fakes.dialer import FakeDialer, on
from tests.fakes.journals import MemoryJournal
from tests.fakes.logins import steps
from tests.fakes.pools import borrow, pool_of, status_of
from tests.fakes.tenants import ME, WEB01, WEB02, tenant
from tests.fakes.vault import FakeVault
from tests.fakes.wire import FakeWire
from tests.unit.test_login_secrets_codes import PASSWORD, Site, send

# -- the ledger of logins: what is written down there survives a caller who leaves --


class Ledger(MemoryStore):
    """A state on a slow disk."""

    @property
    def record(self) -> AccountHistory:
        return self._sheet.record(b"alice")


class AnswersLate(Ledger):
    """Makes a change at once, and answers a second later."""

    async def change(self, act: Callable[[LedgerContents], bool]) -> bool:
        result = act(self._sheet)
        await trio.sleep(1)
        return result


class ChangesLate(Ledger):
    """Makes a change a second later."""

    async def change(self, act: Callable[[LedgerContents], bool]) -> bool:
        await trio.sleep(1)
        return act(self._sheet)


def conversation(state: Ledger) -> LoginSecrets:
    site = Site()
    site.codes = Codes(clock=site.clock, store=state)
    return site.begin(password=PASSWORD, otp=None, otp_in=OtpPlace.NONE)


async def sent(state: Ledger) -> LoginSecrets:
    """Return a conversation that has sent the password to a proxy that answers."""
    talk = conversation(state)
    await talk.prepare_password()
    await talk.begin()
    await talk.password()
    talk._attempt.is_answered = True
    assert len(state.record.tried) == 1
    return talk


async def test_who_leaves_while_a_try_is_written_down_strikes_it_out(
    autojump_clock: MockClock,
) -> None:
    state = AnswersLate()
    talk = conversation(state)
    with trio.move_on_after(1.5):  # behind the look whether the account rests
        await talk.begin()
    assert len(state.record.tried) == 1
    await talk.end()
    assert state.record == AccountHistory()


async def test_who_leaves_while_a_try_is_struck_out_counts_none(
    autojump_clock: MockClock,
) -> None:
    state = ChangesLate()
    talk = await sent(state)
    with trio.move_on_after(0.5):
        await talk.refused(UnreachableError("the cable was cut"))
    await talk.end()
    assert state.record == AccountHistory()


async def test_who_leaves_while_a_refusal_is_written_down_counts_one(
    autojump_clock: MockClock,
) -> None:
    state = AnswersLate()
    talk = await sent(state)
    with trio.move_on_after(0.5):
        await talk.refused(LoginRefusedError("no"))
    await talk.end()
    assert (len(state.record.refused), state.record.tried) == (1, [])


class Dials(WireLogin):
    """Is let in at once."""

    link = cast("WireLink", object())

    async def _dial_once(self) -> WireLink:
        await trio.lowlevel.checkpoint()
        return self.link


def login(talk: LoginSecrets) -> Dials:
    return Dials(
        talk._attempt, talk, FakeWire().begin(tenant(), WEB01), has_host_key=True
    )


async def test_a_login_that_is_made_is_kept_while_it_is_written_down(
    autojump_clock: MockClock,
) -> None:
    state = AnswersLate()
    attempt = login(await sent(state))
    found: list[WireLink] = []
    with trio.move_on_after(0.5):
        found.append(await attempt._dial_until_settled())
    assert found == [Dials.link]
    assert state.record.accepted_at is not None


async def test_a_login_that_is_cut_short_counts_what_it_has_sent() -> None:
    state = Ledger()
    attempt = login(await sent(state))
    with trio.CancelScope() as scope:
        scope.cancel()
        await attempt.close()
    assert (len(state.record.refused), state.record.tried) == (1, [])


def test_refusals_that_are_far_apart_are_no_reason_to_rest() -> None:
    assert (
        plan_rest_s(
            AccountHistory(refused=[0, UNATTENDED_BACK_OFF_S - 1]),
            now=UNATTENDED_BACK_OFF_S,
        )
        == UNATTENDED_BACK_OFF_S - 1
    )
    assert (
        plan_rest_s(
            AccountHistory(refused=[0, UNATTENDED_BACK_OFF_S]),
            now=UNATTENDED_BACK_OFF_S,
        )
        == 0
    )


def begin(logins: LoginSteps) -> Login:
    return logins.begin(Attempt(WEB01, tenant(), Callers(ME), PausableDeadline(30)))


async def test_a_login_whose_account_was_refused_meanwhile_sends_nothing(
    autojump_clock: MockClock,
) -> None:
    dialer = FakeDialer(takes_s=0)
    logins = steps(dialer)
    ends: list[type[Exception]] = []
    may_dial = [trio.Event() for _ in range(3)]

    async def run(number: int) -> None:
        async def wait(event: Event) -> None:
            if event is Event.CODE_OBTAINED:
                await may_dial[number].wait()

        login = begin(logins)
        try:
            await login.run(wait)
        except LoginError as exc:
            ends.append(type(exc))
        await login.close()

    first = await begin(logins).run(on)
    # Side by side, for the account was accepted just now.
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(run, number)
        await wait_all_tasks_blocked()
        dialer.failures = [LoginRefusedError("no") for _ in range(3)]
        for event in may_dial:
            event.set()
            await wait_all_tasks_blocked()
    assert ends == [LoginRefusedError, LoginRefusedError, AccountRestingError]
    assert dialer.dials == 3
    await first.close()


async def test_a_login_that_ends_early_gives_its_turn_to_the_next(
    autojump_clock: MockClock,
) -> None:
    async def end(event: Event) -> None:
        if event is Event.CODE_OBTAINED:
            raise LoginRefusedError("no")

    logins = steps(FakeDialer())
    for _ in range(2):
        login = begin(logins)
        with pytest.raises(LoginRefusedError), trio.fail_after(10):
            await login.run(end)
        await login.close()


async def test_no_secret_outlives_its_login() -> None:
    def secrets() -> list[Secret]:
        return [secret for secret in (talk._password, talk._code) if secret]

    talk = Site().begin(password=PASSWORD)
    await send(talk)
    assert len(secrets()) == 2
    talk.forget()  # the session keeps the conversation, for the spent codes
    assert secrets() == []


# -- sessions --------------------------------------------------------------------


async def test_an_idle_session_whose_lease_ends_is_left_to_that_end(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("the lease ")
    ends = trio.current_time() + 100
    dialer = FakeDialer(takes_s=0, lease_expires_at=ends)
    async with pool_of(dialer, acme=tenant(idle_close_s=80)) as pool:
        await borrow(pool)
        await trio.sleep(90)
        assert status_of(pool).state == "read-only"
        await trio.sleep(10)
        assert pool.ready(WEB01) is None


async def test_an_idle_session_that_still_stores_is_left_to_the_end_of_its_lease(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("the lease ")
    ends = trio.current_time() + 100
    dialer = FakeDialer(takes_s=0, lease_expires_at=ends)
    async with pool_of(dialer, acme=tenant(idle_close_s=80)) as pool:

        async def store(_: Target) -> None:
            await trio.sleep(10)

        pool.on_drain(store)
        await borrow(pool)
        await trio.sleep(82)
        assert status_of(pool).state == "draining"
        await trio.sleep(20)


async def test_an_ending_mount_opens_nothing_again_that_was_lost(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("the session was lost")
    dialer = FakeDialer(takes_s=0)
    async with pool_of(dialer) as pool:
        await borrow(pool)
        pool.stop_opening()
        await borrow(pool)
        dialer.links[0].lose()
        await wait_all_tasks_blocked()
        with pytest.raises(AbandonedError):
            await borrow(pool)
        assert dialer.dials == 1


# -- leases ---------------------------------------------------------------


async def test_a_lease_is_given_back_once() -> None:
    vault, journal = FakeVault(), MemoryJournal()
    async with trio.open_nursery() as nursery:
        held = HeldLease(Lease(WEB01, "one"), vault, Custody(nursery, journal))
        for _ in range(2):
            await held.give_back()
    assert vault.releases == 1
    assert journal.leases == []


def test_a_lease_is_on_the_disk_and_not_only_in_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "leases" / "ours.jsonl"
    stored: list[tuple[str, bool, int]] = []

    def note(fd: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{fd}")).name
        lines = path.read_text().count("\n") if path.exists() else 0
        stored.append((name, path.exists(), lines))

    monkeypatch.setattr(os, "fsync", note)
    journal = LeaseJournal(path)
    journal.held(Lease(WEB01, "one"))
    # The file before it has its name, then the folder that has the name.
    assert stored == [("ours.new", False, 0), ("leases", True, 1)]
    stored.clear()
    journal.held(Lease(WEB02, "two"))
    assert stored == [("ours.jsonl", True, 2)]
    journal.close()
