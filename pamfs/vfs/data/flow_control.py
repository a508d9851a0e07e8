"""Flow control: the bytes in flight to and from one target, paced by its answers."""

from __future__ import annotations

from typing import Final

# Bounds of a window, whatever the pace.
MIN_WINDOW: Final = 256 << 10
MAX_WINDOW: Final = 16 << 20
# A later sample that is slower is believed after some tens of them.
_DECAY: Final = 0.98
# What is on its way to one target before its pace is known: TCP and the channel's
# window bound it anyway, so there is no slow start.
FIRST_BYTES: Final = 4 << 20
# The same where the answers come at once; more only grows old in buffers of the
# system, out of the processor's caches, and is slower for it.
NEAR_BYTES: Final = 1 << 20
# What one file may have queued, on its way or not; more is waited for.
FILE_BYTES: Final = 16 << 20
NEAR_FILE_BYTES: Final = 4 << 20
_FAR_S: Final = 0.005
# A line that takes longer for it than this is slow: whatever else is asked of the
# target waits behind the writes.
_LATE_S: Final = 1.0


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
    """How much may be on its way to one target: much, until it is seen to be slow."""

    def __init__(self) -> None:
        self.flying_bytes = 0
        self.pace = Pace()
        self._is_slow = False

    def came(self, nbytes: int, delivered_before: int, took_s: float) -> None:
        """Note an acknowledgement, as ``Pace.came``."""
        self._is_slow = self._is_slow or took_s > _LATE_S
        self.pace.came(nbytes, delivered_before, took_s)

    def window(self, round_trip_s: float, step: int) -> int:
        """Return how much to have under way, to keep the line full."""
        paced = self.pace.window(round_trip_s, step)
        if self._is_slow:
            return paced
        return max(paced, FIRST_BYTES if round_trip_s >= _FAR_S else NEAR_BYTES)


def queue_limit(round_trip_s: float) -> int:
    """Return how much one file may have queued."""
    return FILE_BYTES if round_trip_s >= _FAR_S else NEAR_FILE_BYTES
