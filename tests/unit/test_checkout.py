"""Whatever the order of events, a lease taken is a lease given back."""

from __future__ import annotations

import errno

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pamfs.config import AnswerSource, HelperConfig, SeguraConfig, SourceKind
from pamfs.errors import (
    ApprovalPendingError,
    CredentialBusyError,
    LoginError,
    LoginRefusedError,
    UnreachableError,
)
from pamfs.model import Target
from pamfs.sessions.attempt import Attempt, Callers, PausableDeadline
from pamfs.sessions.checkout.base import ASKED, Busy, Denied, Lease, Pending, Request
from pamfs.sessions.checkout.custody import RELEASE_AGAIN_S, Custody, HeldLease
from pamfs.sessions.pool import Pool
from pamfs.sessions.prompts.question import Kind
from tests.conftest import LogLedger
from tests.fakes.dialer import FakeDialer
from tests.fakes.journals import MemoryJournal
from tests.fakes.people import FakePerson
from tests.fakes.pools import borrow, status_of
from tests.fakes.tenants import ME, WEB01, WEB02, tenant
from tests.fakes.vault import FakeVault, Site

WAITS = Pending("17", "bob")


async def test_forty_programs_at_once_are_one_checkout(
    autojump_clock: MockClock,
) -> None:
    site = Site()
    async with site.pool() as pool:
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(borrow, pool)
        assert len(site.vault.asked) == site.dialer.dials == 1
        assert [lease.target for lease in site.journal.leases] == [WEB01]
    assert site.vault.held == []
    assert site.journal.leases == []


async def test_a_tenant_without_a_provider_is_its_proxys_affair(
    autojump_clock: MockClock,
) -> None:
    site = Site()
    async with site.pool() as pool:
        await borrow(pool, Target("globex", "root", "app01"))
        assert site.vault.asked == []


async def test_what_is_asked_for_is_in_the_journal_until_the_answer_is(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("freeze")
    site = Site(FakeVault(answers=[Denied("freeze")]))
    async with site.pool() as pool:
        for target, left in ((WEB01, []), (WEB02, ["root@web02"])):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_borrow_if_open, pool, target)
                await wait_all_tasks_blocked()
                assert site.journal.leases == [Lease(target, ASKED)]
            assert [lease.id for lease in site.journal.leases] == left


@pytest.mark.parametrize("stage", ["ask", "obtain_code", "open"])
async def test_a_login_that_fails_gives_its_lease_back(
    stage: str, expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("no such luck")
    failure = LoginRefusedError("no such luck")

    async def fail(_attempt: Attempt) -> None:
        await trio.lowlevel.checkpoint()
        raise failure

    site = Site()
    if stage == "open":
        site.dialer.failures.append(failure)
    else:
        setattr(site.dialer, stage, fail)
    async with site.pool() as pool:
        with pytest.raises(LoginRefusedError):
            await borrow(pool)
        assert len(site.vault.asked) == 1
        assert site.vault.held == []
        assert site.journal.leases == []


@pytest.mark.parametrize("after_s", [x * 0.25 for x in range(18)])
async def test_a_target_that_is_closed_at_any_moment_keeps_no_lease(
    after_s: float, autojump_clock: MockClock
) -> None:
    async def slowly(_attempt: Attempt) -> None:
        await trio.sleep(1)

    site = Site()
    site.dialer.ask = site.dialer.obtain_code = slowly
    async with site.pool() as pool:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_borrow_if_open, pool)
                await trio.sleep(after_s)
                await pool.end(WEB01)
                scope.cancel()
        await trio.sleep(60)
        assert site.vault.held == []
        assert site.journal.leases == []


async def _borrow_if_open(pool: Pool, target: Target = WEB01) -> None:
    try:
        await borrow(pool, target)
    except Exception:  # noqa: BLE001 - how it ends is not the point here
        return


async def test_a_grant_that_comes_after_the_attempt_was_given_up_is_handed_back(
    autojump_clock: MockClock,
) -> None:
    site = Site(FakeVault(takes_s=10))
    async with site.pool() as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_borrow_if_open, pool)
            await wait_all_tasks_blocked()
            await pool.end(WEB01)
        assert trio.current_time() < 5  # nobody waits for the vault
        assert site.vault.releases == 0
        await trio.sleep(11)
        assert site.vault.releases == 1
        assert site.vault.held == []
        assert site.dialer.dials == 0


async def test_a_new_want_does_not_lose_its_lease_to_the_late_one(
    autojump_clock: MockClock,
) -> None:
    site = Site(FakeVault(takes_s=10, release_takes_s=5))
    async with site.pool() as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_borrow_if_open, pool)
            await wait_all_tasks_blocked()
            await pool.end(WEB01)
        await borrow(pool)
        await trio.sleep(30)
        assert site.vault.held


async def test_two_targets_of_one_lease_give_it_back_with_the_last(
    autojump_clock: MockClock,
) -> None:
    site = Site(FakeVault(one_id="5"))
    other = Target("acme", "root", "web01", port=2222)
    async with site.pool() as pool:
        await borrow(pool, WEB01)
        await borrow(pool, other)
        await pool.end(WEB01)
        assert site.vault.releases == 0
        await pool.end(other)
        assert site.vault.releases == 1


async def test_a_release_that_fails_is_tried_again_and_stays_in_the_journal(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("not given back: gone")
    site = Site(FakeVault(release_failures=[UnreachableError("gone")]))
    async with site.pool() as pool:
        await borrow(pool)
        await pool.end(WEB01)
        assert len(site.journal.leases) == 1
        await trio.sleep(RELEASE_AGAIN_S + 1)
        assert site.journal.leases == []
        assert site.vault.held == []


async def test_a_vault_that_hangs_at_the_end_does_not_hang_the_end(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("no answer within 8 s")
    site = Site(FakeVault(release_takes_s=1000))
    async with site.pool() as pool:
        await borrow(pool)
        before = trio.current_time()
        await pool.end(WEB01)
        assert trio.current_time() - before < 10
    assert len(site.journal.leases) == 1  # for the next start


async def test_an_approval_is_polled_and_the_lease_comes_with_it(
    autojump_clock: MockClock,
) -> None:
    site = Site(FakeVault(answers=[WAITS] * 3))
    heard: list[str] = []
    async with site.pool() as pool:
        pool.notices.subscribe(lambda notice: heard.append(str(notice)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(borrow, pool)
            await trio.sleep(2)
            assert status_of(pool).awaiting == "bob"
            assert heard == [f"{WEB01}: waits for bob"]
        assert [pending for _, pending in site.vault.asked] == [None, *[WAITS] * 3]
        assert status_of(pool).awaiting is None
        assert status_of(pool).state == "ready"


async def test_an_approval_outlives_the_access_and_the_target_does_not_cool(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("waits for bob")
    site = Site(FakeVault(takes_s=0, answers=[WAITS] * 10))
    acme = tenant(prompt_timeout_s=20, connect_timeout_s=5)
    async with site.pool(acme) as pool:
        before = trio.current_time()
        with pytest.raises(ApprovalPendingError) as caught:
            await borrow(pool)
        assert caught.value.code == errno.ETIMEDOUT
        assert trio.current_time() - before == pytest.approx(20)
        await wait_all_tasks_blocked()
        assert status_of(pool).state == "absent"
        assert "waits for bob" in (status_of(pool).last_error or "")
        site.vault.answers.clear()
        await borrow(pool)
        assert site.vault.asked[-1][1] == WAITS


async def test_a_pending_answer_that_comes_late_is_not_asked_for_twice(
    autojump_clock: MockClock,
) -> None:
    site = Site(FakeVault(takes_s=10, answers=[WAITS]))
    async with site.pool() as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_borrow_if_open, pool)
            await wait_all_tasks_blocked()
            await pool.end(WEB01)
        await trio.sleep(11)
        await borrow(pool)
        assert [pending for _, pending in site.vault.asked] == [None, WAITS]


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (Busy("mallory", 0.0), CredentialBusyError, errno.EBUSY),
        (Denied("freeze"), LoginRefusedError, errno.EACCES),
        (UnreachableError("away"), UnreachableError, errno.EHOSTUNREACH),
    ],
)
async def test_what_is_no_lease_is_an_error_with_its_reason(
    answer: Busy | Denied | Exception,
    kind: type[LoginError],
    code: int,
    expect_log: LogLedger,
    autojump_clock: MockClock,
) -> None:
    expect_log("mallory until 1970-01-01T00:00:00|freeze|away")
    site = Site(FakeVault(answers=[answer]))
    async with site.pool() as pool:
        with pytest.raises(kind) as caught:
            await borrow(pool)
        assert caught.value.code == code
        assert site.dialer.dials == 0


async def test_the_vault_has_a_time_of_its_own(autojump_clock: MockClock) -> None:
    site = Site(FakeVault(takes_s=40))
    async with site.pool(tenant(connect_timeout_s=5)) as pool:
        await borrow(pool)


async def test_a_provider_that_sends_details_gets_the_reason_and_the_ticket(
    autojump_clock: MockClock,
) -> None:
    person = FakePerson({Kind.REASON: " patching "})
    site = Site(person=person)
    helper = HelperConfig(
        "x", ticket=AnswerSource(SourceKind.VALUE, "CHG-1"), duration_s=60
    )
    asks = AnswerSource(SourceKind.PROMPT)
    async with site.pool(tenant(reason=asks, checkout=helper)) as pool:
        await borrow(pool)
    (request, _), *_ = site.vault.asked
    assert (request.reason, request.ticket) == ("patching", "CHG-1")
    assert request.duration_s == 60
    (question,) = person.asked
    assert question.kind is Kind.REASON


async def test_for_a_provider_that_sends_no_details_no_person_is_asked(
    autojump_clock: MockClock,
) -> None:
    site = Site()
    asks = AnswerSource(SourceKind.PROMPT)
    vault = SeguraConfig("https://vault", asks, asks, ticket=asks, duration_s=60)
    async with site.pool(tenant(reason=asks, checkout=vault)) as pool:
        await borrow(pool)
    assert site.vault.asked == [(Request(WEB01), None)]
    assert site.person.asked == []


async def test_a_renewed_lease_ends_later_and_is_in_the_journal_once() -> None:
    journal, vault = MemoryJournal(), FakeVault(renewed_until=200.0)
    async with trio.open_nursery() as nursery:
        custody = Custody(nursery, journal)
        lease = Lease(WEB02, "5", 100.0, is_renewable=True)
        held = HeldLease(lease, vault, custody)
        link = await FakeDialer(takes_s=0).begin(_attempt()).dial()
        link.lease = held
        assert link.lease_expires_at == 100.0
        assert await link.renew() == 200.0
        assert link.lease_expires_at == 200.0
        assert [one.expires_at for one in journal.leases] == [200.0]
        vault.renewed_until = None
        assert await link.renew() is None
        await held.give_back()
        assert journal.leases == []


async def test_a_lease_that_is_not_renewable_is_not_asked_to_be_renewed() -> None:
    class Asked(FakeVault):
        async def renew(self, lease: Lease) -> Lease | None:
            raise AssertionError(f"{lease.id} is asked to be renewed")

    async with trio.open_nursery() as nursery:
        held = HeldLease(
            Lease(WEB02, "5", 100.0), Asked(), Custody(nursery, MemoryJournal())
        )
        assert not await held.renew()


def _attempt() -> Attempt:
    return Attempt(WEB02, tenant(), Callers(ME), PausableDeadline(30))


async def test_a_lease_that_is_renewed_while_it_is_closed_is_given_back(
    autojump_clock: MockClock,
) -> None:
    class Slow(FakeVault):
        async def renew(self, lease: Lease) -> Lease | None:
            await trio.sleep(5)
            self.held.append(lease.id)  # as taking custody anew does
            return await super().renew(lease)

    journal, vault = MemoryJournal(), Slow(renewed_until=200.0)
    async with trio.open_nursery() as nursery:
        lease = Lease(WEB02, "5", 100.0, is_renewable=True)
        held = HeldLease(lease, vault, Custody(nursery, journal))
        nursery.start_soon(held.renew)
        await wait_all_tasks_blocked()
        await held.give_back()
        assert vault.held == []
        assert journal.leases == []
        assert not await held.renew()
    assert vault.held == []
