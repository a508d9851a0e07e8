"""A journal of held leases in memory: nothing of it outlives its process."""

from __future__ import annotations

from pamfs.sessions.checkout.base import Lease


class MemoryJournal:
    """Where ``Custody`` writes in tests without a crash."""

    def __init__(self) -> None:
        self.leases: list[Lease] = []

    def held(self, lease: Lease) -> None:
        """Remember ``lease``."""
        self.leases.append(lease)

    def returned(self, lease: Lease) -> None:
        """Forget ``lease``."""
        self.leases.remove(lease)
