"""When it is believed of a listing that a name is absent because it is not in it.

Law: the name may have been made on the device since, so the device is asked. It is not
asked on behalf of a program that looks up one absent name after the other (``git
status``, ``cp -r``, ``rsync``): once the device has said of three names in a row that
they are absent, the listing is believed while that goes on without a pause, and no
longer once the device has contradicted it.
"""

from __future__ import annotations

from typing import Final

from pamfs.model import Target

# So many names in a row, and a program counts as looking up many.
RUN: Final = 3
# It pauses when it does nothing here for so many round trips, and this long at least:
# time enough to make a file and go on, and too little to have run a command on the
# device.
PAUSE_ROUND_TRIPS: Final = 8
PAUSE_S: Final = 0.02
_REMEMBERED: Final = 64


def pause_s(round_trip_s: float) -> float:
    """Return how long a program may do nothing before it counts as pausing."""
    return PAUSE_S + PAUSE_ROUND_TRIPS * round_trip_s


class Absences:
    """Which programs look up many absent names at the moment."""

    def __init__(self) -> None:
        # How many names in a row, and until when the next one counts.
        self._runs: dict[tuple[Target, int], tuple[int, float]] = {}

    def is_run(self, target: Target, pid: int, now: float) -> bool:
        """Whether the program ``pid`` looks up many names now."""
        count, until = self._runs.get((target, pid), (0, 0.0))
        return count >= RUN and now < until

    def answered(self, target: Target, pid: int, now: float, pause: float) -> None:
        """Note that one more name was found to be absent, or was believed to be."""
        count, until = self._runs.pop((target, pid), (0, 0.0))
        self._runs[target, pid] = (count + 1 if now < until else 1, now + pause)
        if len(self._runs) > _REMEMBERED:
            del self._runs[next(iter(self._runs))]

    def contradicted(self, target: Target) -> None:
        """Note that a name was there that a listing did not hold."""
        for run in [run for run in self._runs if run[0] == target]:
            del self._runs[run]
