"""A lease in custody: what is recorded of it, and that it is written down first."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from pamfs.errors import UnreachableError
from pamfs.sessions.answers import Answers
from pamfs.sessions.attempt import Attempt, Callers, PausableDeadline
from pamfs.sessions.checkout.base import ASKED, JournalError, Lease
from pamfs.sessions.checkout.custody import Custody, HeldLease
from pamfs.sessions.checkout.lease_requests import LeaseRequests
from tests.conftest import LogLedger
from tests.fakes.guarded import Records
from tests.fakes.journals import MemoryJournal
from tests.fakes.people import FakePerson
from tests.fakes.tenants import ME, WEB01, tenant
from tests.fakes.vault import FakeVault

LEASE = Lease(WEB01, "17")


class Unwritable(MemoryJournal):
    """A journal on a disk that is full after ``lines``."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.lines_left = lines

    def held(self, lease: Lease) -> None:
        super().held(lease)
        self.lines_left -= 1
        if self.lines_left < 0:
            raise JournalError("the disk is full")


async def ask(custody: Custody, vault: FakeVault) -> HeldLease:
    attempt = Attempt(WEB01, tenant(), Callers(ME), PausableDeadline(30))
    return await LeaseRequests(Answers(FakePerson()), custody).check_out(attempt, vault)


async def test_a_vault_is_asked_for_nothing_that_cannot_be_written_down(
    autojump_clock: MockClock,
) -> None:
    vault = FakeVault()
    async with trio.open_nursery() as nursery:
        journal = Unwritable(0)
        custody = Custody(nursery, journal)
        with pytest.raises(JournalError, match="the disk is full"):
            await ask(custody, vault)
        assert journal.leases == []
    assert vault.asked == []


async def test_a_grant_that_cannot_be_written_down_is_used_and_given_back(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("acme/root@web01: the disk is full")
    vault = FakeVault()
    async with trio.open_nursery() as nursery:
        held = await ask(Custody(nursery, Unwritable(1)), vault)
        assert vault.held == [held.lease.id]
        await held.give_back()
    assert vault.held == []


@pytest.mark.parametrize("ends_after_s", [0.0, 5.0])
async def test_a_vault_that_hangs_while_it_is_asked_is_not_waited_for_at_the_end(
    ends_after_s: float, expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("acme/root@web01: asked for, and the mount ended before the answer")
    vault, journal = FakeVault(takes_s=1000), MemoryJournal()
    async with trio.open_nursery() as nursery:
        custody = Custody(nursery, journal)
        with trio.move_on_after(1):
            await ask(custody, vault)
        await trio.sleep(ends_after_s)
        custody.calls.end_within(10)
        began = trio.current_time()
        await custody.calls.wait_over()
        assert trio.current_time() - began == 10
    assert journal.leases == [Lease(WEB01, ASKED)]  # for the next start


async def test_a_vault_that_hangs_while_it_takes_back_is_not_waited_for_at_the_end(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("acme/root@web01: the lease is not given back: the mount ends")
    journal, began = MemoryJournal(), trio.current_time()
    with trio.CancelScope() as mount:
        async with trio.open_nursery() as nursery:
            custody = Custody(nursery, journal)
            custody.calls.end_within(3)
            await HeldLease(LEASE, FakeVault(release_takes_s=1000), custody).give_back()
            mount.cancel()
    assert trio.current_time() - began == 3
    assert journal.leases == [LEASE]


async def test_a_record_names_the_lease_that_went_out_and_came_back() -> None:
    records = Records()
    async with trio.open_nursery() as nursery:
        custody = Custody(nursery, MemoryJournal(), records)
        await HeldLease(LEASE, FakeVault(), custody).give_back()
    told = [(event, facts["lease"]) for event, facts in records.kept]
    assert told == [("checkout", "17"), ("checkin", "17")]


async def test_of_what_perhaps_went_out_no_return_is_recorded() -> None:
    records = Records()
    async with trio.open_nursery() as nursery:
        custody = Custody(nursery, MemoryJournal(), records)
        await HeldLease(Lease(WEB01, ASKED), FakeVault(), custody).give_back()
    assert records.kept == []


@pytest.mark.parametrize(
    ("error", "releases"), [(ValueError("a bug"), 1), (UnreachableError("away"), 0)]
)
async def test_what_a_provider_granted_before_it_failed_is_given_back(
    error: Exception, releases: int, autojump_clock: MockClock
) -> None:
    vault, journal = FakeVault(answers=[error]), MemoryJournal()
    async with trio.open_nursery() as nursery:
        with pytest.raises(type(error)):
            await ask(Custody(nursery, journal), vault)
        assert journal.leases == [Lease(WEB01, ASKED)] * releases
    assert vault.releases == releases
    assert journal.leases == []
