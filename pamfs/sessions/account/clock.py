"""The clock of this machine, and signs that it is wrong (codes are then refused).

SSH does not transmit the time. There are two sources: the kernel's flag whether
anything keeps the clock synchronized, and the ``Date`` header of a vault.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

log = logging.getLogger(__name__)

# adjtimex(2): not synchronized; the call's buffer is struct timex, 208 bytes.
_TIME_ERROR: Final = 5
_TIMEX_BYTES: Final = 256
# A step each way is accepted by most servers (RFC 6238, 5.2), so this never hurts.
TOLERABLE_S: Final = 15.0


def time_of_day() -> float:
    """Return the seconds since the epoch."""
    return datetime.now(UTC).timestamp()


def is_synchronized() -> bool:
    """Whether the kernel reports the clock as synchronized; True if that is unknown."""
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        return int(ctypes.CDLL(None).adjtimex(timex)) != _TIME_ERROR
    except (OSError, AttributeError):
        return True  # unknown


def as_text(instant: float) -> str:
    """Return ``instant`` as a text to compare with another clock."""
    return datetime.fromtimestamp(instant, UTC).strftime("%H:%M:%S UTC")


class Clock:
    """The clock of this machine, and the evidence that it is wrong."""

    def __init__(
        self,
        now: Callable[[], float] = time_of_day,
        is_kept: Callable[[], bool] = is_synchronized,
    ) -> None:
        self.now = now
        self._is_kept = is_kept
        self._witness = ""
        self._behind_s = 0.0

    def compare(self, witness: str, their_now: float) -> None:
        """Note the time of ``witness``; the last one counts."""
        was_contradicted = self._is_contradicted
        self._witness = witness
        self._behind_s = their_now - self.now()
        if self._is_contradicted and not was_contradicted:
            log.warning(
                "%s: one-time codes may be refused because of it", self.doubts()
            )

    @property
    def _is_contradicted(self) -> bool:
        return abs(self._behind_s) > TOLERABLE_S

    def doubts(self) -> str:
        """Return the evidence against the clock; empty if there is none."""
        if self._is_contradicted:
            way = "behind" if self._behind_s > 0 else "ahead of"
            return f"this clock is {abs(self._behind_s):.0f} s {way} {self._witness}'s"
        if not self._witness and not self._is_kept():
            return "this machine's clock is not synchronized: check timedatectl"
        return ""
