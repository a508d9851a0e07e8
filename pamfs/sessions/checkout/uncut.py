"""Talks with a provider that a cancelled caller does not cut short; a mount's end does.

Law: what is cut short stays in the journal, so the next daemon gives it back. Until
``end_within`` no such talk ends early, and after it none outlasts that time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Uncut:
    """The shields of all talks of a mount that are under way."""

    def __init__(self) -> None:
        self._scopes: set[trio.CancelScope] = set()
        self._deadline = math.inf
        self._quiet = trio.lowlevel.ParkingLot()

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Run the body to its end; what follows runs also if it was cut short."""
        with trio.CancelScope(shield=True, deadline=self._deadline) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)
                if not self._scopes:
                    self._quiet.unpark_all()

    def end_within(self, seconds: float) -> None:
        """Let every talk, also one that begins later, last so long at most."""
        self._deadline = min(self._deadline, trio.current_time() + seconds)
        for scope in self._scopes:
            scope.deadline = self._deadline

    async def wait_over(self) -> None:
        """Wait until no talk is under way."""
        while self._scopes:
            await self._quiet.park()
