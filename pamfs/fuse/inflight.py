"""The requests in flight, and the ones whose callers want to leave.

Invariant: a request is in the table from its arrival to its answer. A caller
that is asked to end while it waits gets EINTR; without that it would stay in
D state until the device answers (PEERS.md D.3).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import trio

from pamfs.processes import wants_to_end

# Quick requests are never looked at: reading /proc costs more than they do.
_PATIENCE_S: Final = 0.3
_LOOK_EVERY_S: Final = 0.2


@dataclass(slots=True, eq=False)
class InFlight:
    """One request that waits for its answer."""

    number: int
    operation: str
    pid: int
    started_at: float
    scope: trio.CancelScope
    is_interrupted: bool = False


@dataclass(frozen=True, slots=True)
class InFlightStatistics:
    """How many requests wait, and how long the oldest has."""

    waiting: int
    oldest_s: float
    answered: int


@dataclass(slots=True)
class InFlightTable:
    """All requests that wait for an answer."""

    wants_to_end: Callable[[int], bool] = wants_to_end
    _requests: dict[int, InFlight] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _answered: int = 0
    _emptied: trio.Event = field(default_factory=trio.Event)

    @contextlib.contextmanager
    def track(self, operation: str, pid: int, within_s: float) -> Iterator[InFlight]:
        """Hold a request in the table until it is answered.

        The caller enters its ``scope``, which carries the deadline.
        """
        number = next(self._numbers)
        scope = trio.CancelScope(deadline=trio.current_time() + within_s)
        request = InFlight(number, operation, pid, trio.current_time(), scope)
        self._requests[number] = request
        try:
            yield request
        finally:
            del self._requests[number]
            self._answered += 1
            if not self._requests:
                self._emptied.set()

    async def wait_empty(self) -> None:
        """Wait until no request waits for an answer."""
        while self._requests:
            self._emptied = trio.Event()
            await self._emptied.wait()

    async def watch(self) -> None:
        """Interrupt, for ever, the requests whose callers were asked to end."""
        while True:
            await trio.sleep(_LOOK_EVERY_S)
            self.interrupt_leaving()

    def interrupt_leaving(self) -> None:
        """Interrupt every request that waits for a caller that wants to leave."""
        long_ago = trio.current_time() - _PATIENCE_S
        for request in list(self._requests.values()):
            if request.started_at > long_ago or request.is_interrupted:
                continue
            if request.pid and self.wants_to_end(request.pid):
                request.is_interrupted = True
                request.scope.cancel()

    def statistics(self) -> InFlightStatistics:
        """Return how many requests wait and how long."""
        now = trio.current_time()
        ages = [now - request.started_at for request in self._requests.values()]
        return InFlightStatistics(len(ages), max(ages, default=0.0), self._answered)
