"""Work that no request waits for: its tasks, its memory, its bounds.

Law of the budget: a target may hold up to twice the free bytes. One target alone
gets two thirds of the memory. A new target finds room at once; the others get no
more until they are below the new bound. A request of a program is never refused
for lack of memory: without room its work is done without a cache.

Law of the window: nothing is fetched before a pattern was seen. From then on, as much
is fetched ahead as was used before: the window doubles with each use, up to a bound,
and halves with each result that was not used in time. A fetch belongs to the mount,
not to a request; its failure is only logged, because the program that needs the data
sends its own request.

Flow control: the bytes in flight to and from one target are paced by its answers
(``Pace``).
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from pamfs.errors import PamfsError
from pamfs.model import Target

_DEFAULT_BYTES: Final = 128 << 20
# Frees something of the target and returns True, or has nothing left of it.
Evict = Callable[[Target], bool]


class Budget:
    """The bytes that the caches hold, by target."""

    def __init__(self, limit_bytes: int = _DEFAULT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._held: Counter[Target] = Counter()
        self._evictors: list[Evict] = []

    def on_pressure(self, evict: Evict) -> None:
        """Have ``evict`` asked to free something when there is no room."""
        self._evictors.append(evict)

    def take(self, target: Target, nbytes: int) -> bool:
        """Count ``nbytes`` more for ``target``, or return False: there is no room."""
        while not self._has_room(target, nbytes):
            if not self._evicted(target):
                return False
        self._held[target] += nbytes
        self.held_bytes += nbytes
        return True

    def give_back(self, target: Target, nbytes: int) -> None:
        """Count ``nbytes`` less for ``target``."""
        self.held_bytes -= nbytes
        self._held[target] -= nbytes
        if not self._held[target]:
            del self._held[target]

    def held(self) -> Mapping[Target, int]:
        """Return what each target holds."""
        return dict(self._held)

    def _has_room(self, target: Target, nbytes: int) -> bool:
        free = self.limit_bytes - self.held_bytes
        return nbytes <= free and self._held[target] + nbytes <= 2 * free

    def _evicted(self, target: Target) -> bool:
        """Evict something of the target that holds most, or else of ``target``."""
        most = max(self._held, key=self._held.__getitem__, default=target)
        return any(
            evict(holder)
            for holder in dict.fromkeys((most, target))
            for evict in self._evictors
        )


# Starts a task that outlives the request: the mount's ``nursery.start_soon``.
Spawn = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Background:
    """The tasks and the memory of a mount; without a mount, those of the loop."""

    spawn: Spawn = trio.lowlevel.spawn_system_task
    budget: Budget = field(default_factory=Budget)


log = logging.getLogger(__name__)


class Window:
    """How much is fetched ahead at once: listings, files or bytes."""

    __slots__ = ("size",)

    def __init__(self, first: int) -> None:
        self.size = first

    def widen(self, at_most: int) -> None:
        """Double it, after a use."""
        self.size = max(self.size, min(2 * self.size, at_most))

    def narrow(self) -> None:
        """Halve it, after a waste."""
        self.size = max(self.size // 2, 1)


@contextlib.contextmanager
def fetching(target: Target, what: str) -> Iterator[None]:
    """Fetch in the body; no failure leaves it, because that would end the mount."""
    try:
        yield
    except (PamfsError, trio.TooSlowError) as exc:
        log.debug("%s: prefetch of %s: %s", target, what, exc)
    except Exception:
        log.exception("%s: prefetch of %s failed", target, what)


# Bounds of a window, whatever the pace.
MIN_WINDOW: Final = 256 << 10
MAX_WINDOW: Final = 16 << 20
# A later sample that is slower is believed after some tens of them.
_DECAY: Final = 0.98
# What is on its way to one target at most, where its pace does not ask for more.
FIRST_BYTES: Final = 4 << 20
# What is on its way before the first acknowledgement says how fast the line is.
UNKNOWN_BYTES: Final = 512 << 10
# Reads and names wait behind writes in flight, and `ls` asks twice or more in turn.
QUEUED_S: Final = 0.25
# What every server takes in one request (filexfer-02, section 3).
LEAST_STEP: Final = 32768
# The same where the answers come at once; more only grows old in buffers of the
# system, out of the processor's caches, and is slower for it.
NEAR_BYTES: Final = 1 << 20
# What one file may have queued, on its way or not; more is waited for.
FILE_BYTES: Final = 16 << 20
NEAR_FILE_BYTES: Final = 4 << 20
_FAR_S: Final = 0.005


class Pace:
    """How fast data comes from a target, as the answers themselves show it."""

    def __init__(self) -> None:
        self.delivered = 0
        self.bytes_per_s = 0.0

    def came(self, nbytes: int, delivered_before: int, took_s: float) -> None:
        """Note an answer; ``delivered_before`` is the count when it was asked for.

        Whatever came meanwhile came over the same line, so the rate is that of
        all that was under way, and not of one answer.
        """
        self.delivered += nbytes
        rate = (self.delivered - delivered_before) / max(took_s, 1e-6)
        self.bytes_per_s = max(rate, self.bytes_per_s * _DECAY)

    def window(self, round_trip_s: float, step: int) -> int:
        """Return how much to have under way, to keep the line full."""
        on_the_way = int(self.bytes_per_s * round_trip_s)
        return min(max(2 * (on_the_way + step), MIN_WINDOW), MAX_WINDOW)


class FlowControl:
    """How much may be in flight to one target: what its line takes in ``QUEUED_S``.

    ``is_slow`` once an acknowledgement came later than that: from then on one packet
    is the least, and before that ``UNKNOWN_BYTES``.
    """

    def __init__(self) -> None:
        self.flying_bytes = 0
        self.pace = Pace()
        self.is_slow = False
        # The least: a small request that waits behind the writes takes longer.
        self._round_trip_s = 0.0

    def came(
        self, nbytes: int, before: int, took_s: float, round_trip_s: float
    ) -> None:
        """Note an acknowledgement; ``before`` as in ``Pace.came``."""
        known_s = self._round_trip_s or round_trip_s
        self._round_trip_s = min(known_s, round_trip_s or known_s)
        if took_s - self._round_trip_s > QUEUED_S:
            # Believed at once: what was faster is over, or was a buffer.
            self.is_slow, self.pace.bytes_per_s = True, 0.0
        self.pace.came(nbytes, before, took_s)

    def window(self, round_trip_s: float, step: int) -> int:
        """Return how much to have under way: the line is full, and no queue is long."""
        first = FIRST_BYTES if round_trip_s >= _FAR_S else NEAR_BYTES
        wanted = max(self.pace.window(round_trip_s, step), first) + step
        return min(wanted, max(self._drained(), step))

    def step(self, step: int) -> int:
        """Return the size of one write: several fit into what may be under way."""
        if not self.is_slow:
            return step
        return min(step, max(self._drained() // 4, LEAST_STEP))

    def _drained(self) -> int:
        within_s = QUEUED_S + self._round_trip_s
        drained = int(self.pace.bytes_per_s * within_s)
        return drained if self.is_slow else max(drained, UNKNOWN_BYTES)


def queue_limit(round_trip_s: float) -> int:
    """Return how much one file may have queued."""
    return FILE_BYTES if round_trip_s >= _FAR_S else NEAR_FILE_BYTES
