"""Programs on a terminal of their own, and the person who sits at it."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.limits import HANG_S
from tests.mount.harness import Command, Place
from tests.mount.mounts import is_alive


@dataclass
class Seat:
    """A terminal: its screen and keyboard, and its line."""

    place: Place
    person: int
    line: int
    seen: bytes = b""
    environment: dict[str, str] = field(default_factory=lambda: {"TERM": "xterm"})
    programs: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, command: Command) -> subprocess.Popen[bytes]:
        """Start ``command`` in front, as a shell of this terminal would."""
        account = self.place.account
        is_me = account.uid == os.getuid()
        program = subprocess.Popen(
            # The child takes the terminal over; without an exec it stays the leader.
            [account.python, "-c", _TAKE_OVER, *command],
            stdin=self.line,
            stdout=self.line,
            stderr=self.line,
            cwd=self.place.folder,
            env=self.place.environment() | self.environment,
            start_new_session=True,
            user=None if is_me else account.uid,
            group=None if is_me else account.gid,
            extra_groups=None if is_me else [],
        )
        self.programs.append(program)
        return program

    def read_until(self, text: bytes, within_s: float = 30) -> None:
        """Wait until the screen has shown ``text`` since the last look."""
        give_up_at = time.monotonic() + within_s
        while text not in self.seen:
            left_s = give_up_at - time.monotonic()
            ready, _, _ = select.select([self.person], [], [], max(0, left_s))
            if not ready:
                shown = self.seen.decode(errors="backslashreplace")
                raise AssertionError(f"{text!r} is not shown: {shown}")
            self.seen += os.read(self.person, 65536)
        self.seen = self.seen.partition(text)[2]

    def read_rest(self) -> bytes:
        """Return what was shown meanwhile."""
        while select.select([self.person], [], [], 0)[0]:
            self.seen += os.read(self.person, 65536)
        return self.seen

    def type(self, text: str) -> None:
        """Press the keys of ``text``."""
        os.write(self.person, text.encode())

    def modes(self) -> object:
        """Return how the terminal behaves."""
        return termios.tcgetattr(self.line)


_TAKE_OVER = """\
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@contextmanager
def a_seat(place: Place) -> Iterator[Seat]:
    """Yield a terminal that belongs to the account of ``place``."""
    person, line = os.openpty()
    fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    os.chown(os.ttyname(line), place.account.uid, -1)  # as login(1) does
    seat = Seat(place, person, line)
    try:
        yield seat
    finally:
        for program in seat.programs:
            end(program)
        os.close(person)
        os.close(line)


def end(program: subprocess.Popen[bytes]) -> None:
    """Kill a program that is left."""
    if program.poll() is None:
        program.kill()
        with suppress(subprocess.TimeoutExpired):
            program.wait(HANG_S)


def children_of(pids: set[int], name: str) -> list[int]:
    """Return the living programs called ``name`` that ``pids`` have started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            _, _, rest = (entry / "stat").read_text().rpartition(")")
            parent = int(rest.split()[1])
            is_named = (entry / "comm").read_text().strip() == name[:15]
            if parent in pids and is_named and is_alive(int(entry.name)):
                found.append(int(entry.name))
    return found


def interrupt(programs: Sequence[subprocess.Popen[bytes]]) -> None:
    """Kill without mercy."""
    for program in programs:
        program.send_signal(signal.SIGKILL)
