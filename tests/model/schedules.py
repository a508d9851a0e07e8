"""Random schedules of the whole stack: ``make schedules COUNT=10000``.

A schedule is a number: it seeds programs, faults and the order in which trio runs
tasks. So one that fails is found again by its number.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field

import trio
from trio.testing import MockClock

from tests.model.programs import Program
from tests.model.world import Chaos, World, no_errors_logged, world_of

PROGRAMS = 2
STEPS = 25
RATES = (0.01, 0.03, 0.1, 0.3)


@dataclass
class Played:
    """What happened in some schedules."""

    schedules: int = 0
    logins: int = 0
    cuts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    story: list[str] = field(default_factory=list)
    world: World | None = None


async def _play(seed: int, played: Played) -> None:
    chance = random.Random(seed)
    chaos = Chaos(chance, chance.choice(RATES), is_gentle=seed % 2 == 0)
    try:
        async with world_of(chaos) as world:
            played.story, played.world = world.story, world
            async with trio.open_nursery() as nursery:
                for number in range(PROGRAMS):
                    program = Program(world, number, random.Random(chance.random()))
                    program.errors = played.errors
                    nursery.start_soon(program.run, STEPS)
            chaos.left = 0
    finally:
        played.schedules += 1
        played.cuts += chaos.cuts
        played.logins += 0 if played.world is None else played.world.dialer.dials


def play(seed: int, played: Played) -> None:
    """Play one schedule; raise if a law is broken."""
    random.seed(seed)  # the jitter of back-offs
    order = getattr(trio._core._run, "_r")  # noqa: B009 - the order of tasks
    order.seed(seed)
    with no_errors_logged():
        trio.run(_play, seed, played, clock=MockClock(autojump_threshold=0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep-going", action="store_true")
    given = parser.parse_args()
    setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)  # noqa: B010
    played, failed, began = Played(), [], time.monotonic()
    for seed in range(given.first, given.first + given.count):
        try:
            play(seed, played)
        except BaseException:  # noqa: BLE001 - each is shown
            failed.append(seed)
            traceback.print_exc(limit=-2)
            sys.stdout.write("\n".join((*played.story, f"schedule {seed} failed\n")))
            if not given.keep_going:
                break
    took_s = time.monotonic() - began
    sys.stdout.write(
        f"{played.schedules} schedules in {took_s:.0f} s, {played.logins} logins, "
        f"{played.cuts.total()} cuts, {played.errors.total()} errors to programs; "
        f"failed: {failed or 'none'}\n"
    )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
