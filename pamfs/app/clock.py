"""The clock of all deadlines: time in which this process did not run is not counted.

A process that was stopped (SIGSTOP, a debugger, a virtual machine that was paused)
finds all its deadlines over when it goes on, and would give up requests whose answers
wait in its sockets. Leases are counted by the clock of the day, not by this one.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Final

import trio

# Longer than a busy machine lets a process wait for its turn.
LONGEST_PAUSE_S: Final = 5.0


class RunningClock(trio.abc.Clock):
    """Monotonic, in seconds since it was started.

    trio asks for the time before it sleeps and when it wakes. What lies between two
    questions, beyond the sleep, is a pause; a long one is not counted.
    """

    def __init__(self, read: Callable[[], float] = perf_counter) -> None:
        self._read = read
        self._asked_at = self._began_at = read()
        self._sleep_s = 0.0

    def start_clock(self) -> None:
        """Count from now on."""
        self._asked_at = self._began_at = self._read()

    def current_time(self) -> float:
        """Return the time."""
        now = self._read()
        pause_s = now - self._asked_at - self._sleep_s
        if pause_s > LONGEST_PAUSE_S:
            self._began_at += pause_s
        self._asked_at, self._sleep_s = now, 0.0
        return now - self._began_at

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return how long to sleep until ``deadline``."""
        left_s = deadline - self.current_time()
        self._sleep_s = max(0.0, left_s)
        return left_s
