"""Random schedules of programs, faults and reconnects over the whole stack.

``make schedules COUNT=10000`` plays more of them; docs/reliability.md has the figures.
"""

from __future__ import annotations

import pytest

from tests.model.schedules import Played, play

SCHEDULES = 1000
AT_ONCE = 50


@pytest.mark.parametrize("first", range(0, SCHEDULES, AT_ONCE))
def test_nothing_is_lost_invented_or_done_twice(first: int) -> None:
    played = Played()
    for seed in range(first, first + AT_ONCE):
        play(seed, played)
    assert played.schedules == AT_ONCE
    assert played.cuts.total() > AT_ONCE / 2
    assert played.logins > played.schedules
