"""A mount gives up its controlling terminal and leaves it to the others."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import outcome
import trio

from pamfs.app.process import LONGEST_PAUSE_S, RunningClock
from tests.fakes.terminals import Desk, a_desk
from tests.limits import HANG_S

# The leader of a session on a terminal, and a program that it starts there.
LEADER = """
import fcntl, subprocess, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
print("leader", open("/dev/tty").fileno() > 0)
"""
LEAVES = """
import signal
from pamfs.app.process import leave_terminal
leave_terminal()
leave_terminal()  # there is none now
try:
    open("/dev/tty")
except OSError as exc:
    print("left", exc.errno)
print("ignored", signal.getsignal(signal.SIGTTOU) is signal.SIG_IGN, flush=True)
"""
IS_LEADER = """
import fcntl, termios
from pamfs.app.process import leave_terminal
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
leave_terminal()
print("kept", open("/dev/tty").fileno() > 0)
"""


def run_on(desk: Desk, *argv: str) -> list[str]:
    """Run Python as the leader of a session; return the lines that it printed."""
    done = subprocess.run(
        [sys.executable, "-c", *argv],
        stdin=desk.line,
        capture_output=True,
        start_new_session=True,
        check=False,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines()


def test_the_mount_has_no_terminal_and_the_shell_keeps_its_own() -> None:
    with a_desk() as desk:
        lines = run_on(desk, LEADER, LEAVES)
    assert lines == ["left 6", "ignored True", "leader True"]  # 6: ENXIO


def test_the_leader_of_a_session_keeps_it_for_the_others() -> None:
    with a_desk() as desk:
        assert run_on(desk, IS_LEADER) == ["kept True"]


def test_without_a_terminal_there_is_none_to_leave() -> None:
    text = "from pamfs.app.process import leave_terminal\nleave_terminal()"
    argv = [sys.executable, "-c", text]
    subprocess.run(argv, check=True, start_new_session=True, timeout=HANG_S)


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


def test_a_question_while_trio_sleeps_makes_no_pause_of_the_sleep() -> None:
    time = Time()
    clock = RunningClock(time)
    clock.start_clock()
    assert clock.deadline_to_sleep_time(600) == 600
    time.s += 1  # a callback of the host loop asks
    assert clock.current_time() == 1
    time.s += 599
    assert clock.current_time() == 600


def test_a_pause_after_a_question_while_trio_sleeps_is_not_counted() -> None:
    time = Time()
    clock = RunningClock(time)
    clock.start_clock()
    assert clock.deadline_to_sleep_time(2) == 2
    time.s += 1
    assert clock.current_time() == 1
    time.s += 60
    assert clock.current_time() == 2
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
