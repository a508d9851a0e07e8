"""Work that no request waits for: its tasks, and the memory its results may hold.

Law of the budget: a target may hold up to twice the free bytes. One target alone
gets two thirds of the memory. A new target finds room at once; the others get no
more until they are below the new bound. A request of a program is never refused
for lack of memory: without room its work is done without a cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import trio

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
            evict(whose)
            for whose in dict.fromkeys((most, target))
            for evict in self._evictors
        )


# Starts a task that outlives the request: the mount's ``nursery.start_soon``.
Spawn = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Background:
    """The tasks and the memory of a mount; without a mount, those of the loop."""

    spawn: Spawn = trio.lowlevel.spawn_system_task
    budget: Budget = field(default_factory=Budget)
