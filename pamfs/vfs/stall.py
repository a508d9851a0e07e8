"""The reads that wait for their devices, and those given up for the neighbours.

The kernel has twelve reads and releases of one mount in flight in the background
(``max_background``, PEERS.md D.3), whatever their targets. A silent target would
hold them all until its deadline, and nothing else on the mount could be read.

Law: while a target is silent, ``SPARED`` of these wait and the others fail with
ETIMEDOUT. It is silent when it was asked and nothing has come for
``STALL_S``; the first answer ends that. A login that takes its time, with a
person or for an unused code, is no silence.

Invariant: a target has its line exactly while requests of it wait.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

import trio

from pamfs.errors import PamfsError, RemoteError, SessionLostError
from pamfs.model import Target

W = TypeVar("W")

# A line of 13 KB/s brings a whole read (128 KiB) in this time.
STALL_S: Final = 10.0
# Enough to hear of the end of the silence; a quarter of the kernel's twelve.
SPARED: Final = 3
# What a close is left to be sent in, so that the device's handle is freed later.
CLOSE_S: Final = 0.5
_LOOK_EVERY_S: Final = 0.5


class StalledError(PamfsError):
    """Nothing has come from the target, and too many reads wait for it."""

    code = errno.ETIMEDOUT


def plan_given_up(waiting: Sequence[W], silent_s: float) -> Sequence[W]:
    """Return which of the requests ``waiting``, oldest first, have to fail."""
    return waiting[SPARED:] if silent_s >= STALL_S else ()


@dataclass(slots=True, eq=False)
class _Line:
    """The requests that wait for one target, oldest first."""

    waiting: dict[Waiting, None] = field(default_factory=dict)
    silent_since: float = math.inf

    def judge(self) -> None:
        now = trio.current_time()
        silent_s = now - self.silent_since
        for waiting in plan_given_up(tuple(self.waiting), silent_s):
            leaves_at = now + waiting.leeway_s
            waiting.scope.deadline = min(waiting.scope.deadline, leaves_at)

    @property
    def is_stalled(self) -> bool:
        return trio.current_time() - self.silent_since >= STALL_S


@dataclass(slots=True, eq=False)
class Waiting:
    """One request that waits, from its arrival to its answer."""

    line: _Line
    leeway_s: float
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Hold while the device, and no longer the login, is waited for."""
        self.line.silent_since = min(self.line.silent_since, trio.current_time())
        try:
            yield
        except SessionLostError:
            if not self.line.is_stalled:
                self.line.silent_since = math.inf
            raise
        except RemoteError:
            self._heard()
            raise
        self._heard()

    def _heard(self) -> None:
        self.line.silent_since = trio.current_time()


class Stalls:
    """All requests that may be given up, by target."""

    def __init__(self) -> None:
        self._lines: dict[Target, _Line] = {}

    @contextmanager
    def waiting(self, target: Target, leeway_s: float = 0) -> Iterator[Waiting]:
        """Hold a request in the line of ``target``, or raise ``StalledError``.

        One that is given up is left ``leeway_s``, to be sent at least.
        """
        line = self._lines.setdefault(target, _Line())
        waiting = Waiting(line, leeway_s)
        line.waiting[waiting] = None
        line.judge()
        try:
            with waiting.scope:
                yield waiting
            if waiting.scope.cancelled_caught:
                raise StalledError(f"{target}: nothing has come for {STALL_S:g} s")
        finally:
            del line.waiting[waiting]
            if not line.waiting:
                del self._lines[target]

    async def watch(self) -> None:
        """Give up, for ever, the requests that wait for silent targets."""
        while True:
            await trio.sleep(_LOOK_EVERY_S)
            for line in self._lines.values():
                line.judge()
