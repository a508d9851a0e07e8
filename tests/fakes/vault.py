"""A checkout provider without a vault: the test says what it answers, and how fast.

``held`` is the ledger: what was granted and not given back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
import trio.testing

from pamfs.config import TenantConfig
from pamfs.model import Target
from pamfs.sessions.answers import Answers
from pamfs.sessions.checkout.base import ASKED, Answer, Lease, Pending, Request
from pamfs.sessions.checkout.custody import Custody
from pamfs.sessions.checkout.lease_requests import LeaseRequests
from pamfs.sessions.pool import Pool
from tests.fakes.dialer import FakeDialer
from tests.fakes.journals import MemoryJournal
from tests.fakes.logins import FreeAccounts, steps
from tests.fakes.people import FakePerson
from tests.fakes.tenants import tenant


@dataclass
class FakeVault:
    """Grants after ``takes_s``, unless ``answers`` has something else to say."""

    takes_s: float = 1.0
    release_takes_s: float = 0.0
    answers: list[Answer | Exception] = field(default_factory=list)
    release_failures: list[Exception] = field(default_factory=list)
    expires_at: float | None = None
    renewed_until: float | None = None
    one_id: str = ""
    held: list[str] = field(default_factory=list)
    asked: list[tuple[Request, Pending | None]] = field(default_factory=list)
    releases: int = 0

    async def acquire(self, request: Request, pending: Pending | None) -> Answer:
        self.asked.append((request, pending))
        await trio.sleep(self.takes_s)
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            if not isinstance(answer, Lease):
                return answer
        lease = Lease(request.target, self._id(request.target), self.expires_at)
        self.held.append(lease.id)
        return lease

    async def renew(self, lease: Lease) -> Lease | None:
        await trio.lowlevel.checkpoint()
        if self.renewed_until is None:
            return None
        return Lease(lease.target, lease.id, self.renewed_until, is_renewable=True)

    async def release(self, lease: Lease) -> None:
        self.releases += 1
        await trio.sleep(self.release_takes_s)
        if self.release_failures:
            raise self.release_failures.pop(0)
        is_any = lease.id == ASKED
        self.held = [one for one in self.held if one != lease.id and not is_any]

    def _id(self, target: Target) -> str:
        return self.one_id or f"{target.credential}@{target.device}"


@dataclass
class Site:
    """A pool whose tenant acme checks out of ``vault``."""

    vault: FakeVault = field(default_factory=FakeVault)
    dialer: FakeDialer = field(default_factory=FakeDialer)
    person: FakePerson = field(default_factory=FakePerson)
    journal: MemoryJournal = field(default_factory=MemoryJournal)

    @asynccontextmanager
    async def pool(self, acme: TenantConfig | None = None) -> AsyncIterator[Pool]:
        async with trio.open_nursery() as nursery:
            custody = Custody(nursery, self.journal)
            counter = LeaseRequests(Answers(self.person), custody)
            logins = steps(
                self.dialer,
                provider=self.vault,
                counter=counter,
                accounts=FreeAccounts(),
            )
            tenants = {"acme": acme or tenant(), "globex": tenant(name="globex")}
            now = trio.current_time
            pool = Pool(nursery, tenants, logins, now=now)
            yield pool
            assert await pool.close(60) == ()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert self.dialer.open_links == []
        assert self.dialer.open_logins == []
        assert not custody.held
