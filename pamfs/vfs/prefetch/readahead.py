"""When to read ahead of a program, and how far: decisions only, nothing waits.

Law: a stream is believed when a read begins where the one before it ended, or
when a whole request begins at the start of the file; until then exactly what was
asked for goes out. The window doubles each time a program had to wait, at most
once for each window, up to twice what is on the way at the rate that was seen.
"""

from __future__ import annotations

from typing import Final

from pamfs.vfs.extents import Extent

MIN_WINDOW: Final = 256 << 10
MAX_WINDOW: Final = 16 << 20
# As much as this the kernel asks for at once only when it reads ahead itself.
SURE_BYTES: Final = 64 << 10
# A later sample that is slower is believed after some tens of them.
_DECAY: Final = 0.98


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


class Stream:
    """One place in a file where a program reads on, as far as can be told.

    ``position`` is where its next read is expected, ``until`` where that ends
    which was fetched for it.
    """

    __slots__ = ("_grown_for", "is_sure", "position", "until", "window_bytes")

    def __init__(self, start: int, stop: int) -> None:
        self.is_sure = start == 0 and stop >= SURE_BYTES
        self.position = self.until = stop
        self.window_bytes = MIN_WINDOW
        self._grown_for = 0

    def follows(self, start: int) -> bool:
        """Whether a read at ``start`` carries on with this stream."""
        return start == self.position or (
            self.is_sure and self.position < start < self.until
        )

    def came(self, stop: int) -> None:
        """Note a read that follows, up to ``stop``."""
        self.is_sure = True
        self.position = max(self.position, stop)
        self.until = max(self.until, self.position)

    def lost(self) -> None:
        """Note that nothing is left of what was fetched beyond the position."""
        self.until = self.position

    def waited(self, at_most: int) -> None:
        """Note that a program had to wait for what was fetched: too late."""
        if self.position > self._grown_for:
            wider = min(2 * self.window_bytes, at_most)
            self.window_bytes = max(self.window_bytes, wider)
            self._grown_for = self.until

    def plan(self, size: int, step: int, asked: int = 0) -> Extent | None:
        """Return what to fetch next of a file of ``size``; None: enough is.

        Up to ``asked`` it is wanted, however wide the window is.
        """
        if not self.is_sure:
            return None
        wanted = min(max(self.position + self.window_bytes, asked), size)
        part = min(step, self.window_bytes // 2)
        if wanted - self.until >= part or self.until < min(asked, size):
            return Extent(self.until, min(self.until + part, size))
        if self.until < wanted == size:
            return Extent(self.until, size)
        return None

    def fetching(self, extent: Extent) -> None:
        """Note that ``extent``, the last plan, is being fetched."""
        self.until = extent.stop
