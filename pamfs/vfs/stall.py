"""Reads of a silent target fail early, so that other targets can be read.

The kernel has twelve reads and releases of one mount in flight in the background
(``max_background``, facts/peers.md#requests-in-flight), whatever their targets. A
silent target would hold them all until its deadline, and nothing else on the mount
could be read.

Law: while a target is silent, ``SPARED`` of these wait and the others fail with
ETIMEDOUT. It is silent when it was asked and nothing has come for
``STALL_S``; the first answer ends that. A login that takes its time, with a
person or for an unused code, is no silence.

Invariant: a target has its line exactly while requests of it wait.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self, TypeVar

import trio

from pamfs.errors import PamfsError, RemoteError, SessionLostError
from pamfs.model import Target

W = TypeVar("W")

# A line of 13 KB/s brings a whole read (128 KiB) in this time.
STALL_S: Final = 10.0
# These notice the end of the silence; a quarter of the kernel's twelve.
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
class _WaitingLine:
    """The requests that wait for one target, oldest first."""

    target: Target
    waiting: dict[WaitingRequest, None] = field(default_factory=dict)
    silent_since: float = math.inf

    def judge(self) -> None:
        now = trio.current_time()
        silent_s = now - self.silent_since
        if silent_s < STALL_S:
            return  # the plan would be empty; it is made for every read
        for waiting in plan_given_up(tuple(self.waiting), silent_s):
            leaves_at = now + waiting.leeway_s
            waiting.scope.deadline = min(waiting.scope.deadline, leaves_at)

    @property
    def is_stalled(self) -> bool:
        return trio.current_time() - self.silent_since >= STALL_S


@dataclass(slots=True, eq=False)
class WaitingRequest:
    """One request that waits, from its arrival to its answer: inside ``with``."""

    stalls: SilentTargets
    line: _WaitingLine
    leeway_s: float
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def __enter__(self) -> Self:
        self.line.waiting[self] = None
        self.line.judge()
        self.scope.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        target = self.line.target
        try:
            self.scope.__exit__(kind, exc, trace)
            if self.scope.cancelled_caught:
                raise StalledError(
                    f"{target}: nothing has come for {STALL_S:g} s"
                ) from None
        finally:
            self.stalls.leave(self)

    def asked(self) -> DeviceWait:
        """Hold by ``with`` while the device, and not the login, is waited for."""
        return DeviceWait(self.line)


@dataclass(slots=True, eq=False)
class DeviceWait:
    """The part of a wait in which the device's silence counts."""

    line: _WaitingLine

    def __enter__(self) -> None:
        self.line.silent_since = min(self.line.silent_since, trio.current_time())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if exc is None or isinstance(exc, RemoteError):
            self.line.silent_since = trio.current_time()
        elif isinstance(exc, SessionLostError) and not self.line.is_stalled:
            self.line.silent_since = math.inf


class SilentTargets:
    """All requests that may be given up, by target."""

    def __init__(self) -> None:
        self._lines: dict[Target, _WaitingLine] = {}

    def waiting(self, target: Target, leeway_s: float = 0) -> WaitingRequest:
        """Return what holds a request in line, or raises ``StalledError``, by ``with``.

        One that is given up is left ``leeway_s``, to be sent at least.
        """
        line = self._lines.get(target)
        if line is None:
            line = self._lines[target] = _WaitingLine(target)
        return WaitingRequest(self, line, leeway_s)

    def leave(self, waiting: WaitingRequest) -> None:
        """Take ``waiting`` out of its line; the last of a line ends it."""
        line = waiting.line
        del line.waiting[waiting]
        if not line.waiting:
            del self._lines[line.target]

    async def watch(self) -> None:
        """Give up, for ever, the requests that wait for silent targets."""
        while True:
            await trio.sleep(_LOOK_EVERY_S)
            for line in self._lines.values():
                line.judge()
