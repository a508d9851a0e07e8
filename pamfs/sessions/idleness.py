"""The use of one session: loans and open files, and the wait until there are none."""

from __future__ import annotations

import math

import trio


class Use:
    """Counts loans and open files; while there are any, the session is not idle.

    Each request of the kernel changes the counts, so they are plain attributes, and
    a request sets no timer: the end of the last use notes its instant, and
    ``wait_idle`` compares that with the time when it wakes.
    """

    def __init__(self, close_after_s: float) -> None:
        self.loans = 0
        self.pins = 0
        self._close_after_s = close_after_s
        self._idle_since = -math.inf
        self._released = trio.Event()

    def __enter__(self) -> None:
        """Count one loan more in the body."""
        self.loans += 1

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Count one loan less."""
        self.loans -= 1
        if not self.loans:
            self._note_end()

    def pin(self, count: int) -> None:
        """Add ``count`` to the open files."""
        self.pins += count
        self._note_end()

    def _note_end(self) -> None:
        self._idle_since = trio.current_time()
        self._released.set()

    async def wait_idle(self) -> None:
        """Return ``close_after_s`` after the last use."""
        self._idle_since = trio.current_time()
        while True:
            if self.loans or self.pins:
                self._released = trio.Event()
                await self._released.wait()
            elif (left_s := self._left_s) > 0:
                await trio.sleep(left_s)
            else:
                return

    @property
    def _left_s(self) -> float:
        return self._idle_since + self._close_after_s - trio.current_time()
