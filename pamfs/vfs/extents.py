"""Byte ranges of a file: half open, from ``start`` up to ``stop``."""

from __future__ import annotations

from typing import NamedTuple


class Extent(NamedTuple):
    """The bytes from ``start`` up to, and without, ``stop``."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Return how many bytes it has."""
        return self.stop - self.start

    def overlaps(self, other: Extent) -> bool:
        """Whether a byte is in both."""
        return max(self.start, other.start) < min(self.stop, other.stop)
