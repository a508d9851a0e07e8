"""A mount gives up its controlling terminal and leaves it to the others."""

from __future__ import annotations

import subprocess
import sys

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
