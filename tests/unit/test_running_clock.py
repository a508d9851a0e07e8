"""Time in which the process did not run ends no request."""

from __future__ import annotations

import asyncio

import outcome
import trio

from pamfs.app.clock import LONGEST_PAUSE_S, RunningClock
from tests.limits import HANG_S


class Time:
    """What the system says, moved by the test."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


def test_a_clock_counts_what_it_sees_pass() -> None:
    time = Time()
    clock = RunningClock(time)
    clock.start_clock()
    for _ in range(10):
        time.s += LONGEST_PAUSE_S / 2
        clock.current_time()
    assert clock.current_time() == 5 * LONGEST_PAUSE_S
    assert clock.deadline_to_sleep_time(clock.current_time() + 3) == 3


def test_a_pause_is_not_counted_and_time_goes_on_behind_it() -> None:
    time = Time()
    clock = RunningClock(time)
    clock.start_clock()
    time.s += 1
    before = clock.current_time()
    time.s += 60
    assert clock.current_time() == before
    time.s += 1
    assert clock.current_time() == before + 1


def test_a_long_sleep_is_no_pause() -> None:
    time = Time()
    clock = RunningClock(time)
    clock.start_clock()
    assert clock.deadline_to_sleep_time(600) == 600
    time.s += 600
    assert clock.current_time() == 600


def test_a_pause_during_a_sleep_is_not_counted() -> None:
    time = Time()
    clock = RunningClock(time)
    clock.start_clock()
    assert clock.deadline_to_sleep_time(2) == 2
    time.s += 60
    assert clock.current_time() == 2


def test_a_request_outlives_a_pause_in_which_its_answer_came() -> None:
    """The loop that stands still finds its deadlines as they were."""
    time = Time()
    loop = asyncio.new_event_loop()
    finished: asyncio.Future[outcome.Outcome[str]] = loop.create_future()

    async def waits() -> str:
        answered = trio.Event()

        def stand_still() -> None:
            time.s += 60
            loop.call_later(0.05, answered.set)

        loop.call_soon(stand_still)
        with trio.move_on_after(HANG_S / 2):
            await answered.wait()
            return "answered"
        return "given up"

    loop.call_soon(
        lambda: trio.lowlevel.start_guest_run(
            waits,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=finished.set_result,
            clock=RunningClock(time),
        )
    )
    try:
        assert loop.run_until_complete(finished).unwrap() == "answered"
    finally:
        loop.close()
