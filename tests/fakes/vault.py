"""A checkout provider without a vault: the test says what it answers, and how fast.

``held`` is the ledger: what was granted and not given back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from pamfs.model import Target
from pamfs.sessions.checkout.base import Answer, Lease, Pending, Request


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
        self.held = [number for number in self.held if number != lease.id]

    def _id(self, target: Target) -> str:
        return self.one_id or f"{target.credential}@{target.device}"
