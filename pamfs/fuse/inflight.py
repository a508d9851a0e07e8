"""The table of FUSE requests in flight; interrupts those whose process was told to end.

Invariant: a request is in the table from its arrival to its answer. A request whose
process has a pending fatal signal gets EINTR; otherwise the process would stay in state
D until the device answers (facts/peers.md#waiting-processes).

Once the kernel has unmounted, no process waits any more. pyfuse3's main loop ends with
its last handler: a read that was begun ahead of a program that was killed, from a
silent device, delayed the unmount until the session was given up. So requests that only
ask are interrupted then; those that store or change something go on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import trio

from pamfs.processes import wants_to_end

# Requests younger than this are not checked: reading /proc costs more than most
# requests.
_PATIENCE_S: Final = 0.3
_LOOK_EVERY_S: Final = 0.2
# Interrupted once there is no mount: they neither store nor change anything.
ASKING: Final = frozenset(
    {
        *("lookup", "getattr", "readlink", "access", "statfs", "getxattr", "listxattr"),
        *("open", "read", "opendir", "readdir"),
    }
)


@dataclass(slots=True, eq=False)
class InFlight:
    """One request that waits for its answer; in the table inside ``with``."""

    table: InFlightTable
    number: int
    operation: str
    pid: int
    started_at: float
    scope: trio.CancelScope
    is_interrupted: bool = False

    def __enter__(self) -> Self:
        self.table.arrived(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.table.left(self)


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
    # Whether the kernel has unmounted, and what is stopped besides then.
    is_unmounted: Callable[[], bool] = lambda: False
    on_unmounted: Callable[[], object] = lambda: None
    _requests: dict[int, InFlight] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _answered: int = 0
    _emptied: trio.Event = field(default_factory=trio.Event)

    def track(self, operation: str, pid: int, within_s: float) -> InFlight:
        """Return a request, to be held in the table by ``with`` until it is answered.

        The caller enters its ``scope``, which carries the deadline.
        """
        now = trio.current_time()
        scope = trio.CancelScope(deadline=now + within_s)
        return InFlight(self, next(self._numbers), operation, pid, now, scope)

    def arrived(self, request: InFlight) -> None:
        """Take ``request`` into the table."""
        self._requests[request.number] = request

    def left(self, request: InFlight) -> None:
        """Take ``request`` out of the table: it is answered."""
        del self._requests[request.number]
        self._answered += 1
        if not self._requests:
            self._emptied.set()

    def answered_at_once(self) -> int:
        """Count a request that waited for nothing, and return its number."""
        self._answered += 1
        return next(self._numbers)

    async def wait_empty(self) -> None:
        """Wait until no request waits for an answer."""
        while self._requests:
            self._emptied = trio.Event()
            await self._emptied.wait()

    async def watch(self) -> None:
        """Call ``interrupt_leaving`` periodically, until cancelled."""
        while True:
            await trio.sleep(_LOOK_EVERY_S)
            self.interrupt_leaving()

    def interrupt_leaving(self) -> None:
        """Interrupt every request that waits for a caller that wants to leave."""
        long_ago = trio.current_time() - _PATIENCE_S
        waiting = [
            request
            for request in self._requests.values()
            if request.started_at <= long_ago and not request.is_interrupted
        ]
        is_unmounted = bool(waiting) and self.is_unmounted()
        if is_unmounted:
            self.on_unmounted()
        for request in waiting:
            is_over = is_unmounted and request.operation in ASKING
            if is_over or (request.pid and self.wants_to_end(request.pid)):
                request.is_interrupted = True
                request.scope.cancel()

    def statistics(self) -> InFlightStatistics:
        """Return how many requests wait and how long."""
        now = trio.current_time()
        ages = [now - request.started_at for request in self._requests.values()]
        return InFlightStatistics(len(ages), max(ages, default=0.0), self._answered)
