"""Waiting for another process: the one poll of the test suite.

A foreign process tells nobody when it has opened a port or let go of a mount;
all that is left is to look again. Everything else waits for an event.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.limits import HANG_S

LOOK_AGAIN_S = 0.05


def wait_until(
    condition: Callable[[], object], what: str, within_s: float = HANG_S
) -> None:
    """Return as soon as ``condition`` is true; fail after ``within_s`` seconds."""
    give_up_at = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up_at:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        time.sleep(LOOK_AGAIN_S)
