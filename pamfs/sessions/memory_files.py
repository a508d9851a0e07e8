"""Reads what the kernel fetches from another program's memory: arguments, environment.

Law: it is read in a thread of its own kind, for a second at most. The kernel locks
the program's memory for it, and the program may hold that lock until we have
answered it; whoever is stuck so takes no thread from anybody else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import trio

PROC: Final = Path("/proc")
# How long a program's memory is waited for; then it is unknown.
WITHIN_S: Final = 1.0
_LONGEST_BYTES: Final = 1 << 20
# Threads that may hang at once; whoever comes then learns nothing of its caller.
_THREADS: Final = 8

_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("memory")


async def read_memory_file(pid: int, name: str) -> bytes:
    """Return ``/proc/PID/NAME``, or nothing if it cannot be had in time."""
    with trio.move_on_after(WITHIN_S):
        return await trio.to_thread.run_sync(
            _read, PROC / str(pid) / name, abandon_on_cancel=True, limiter=_threads()
        )
    return b""


def _threads() -> trio.CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        made = trio.CapacityLimiter(_THREADS)
        _limiter.set(made)
        return made


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST_BYTES)
    except OSError:
        return b""
