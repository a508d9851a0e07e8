"""A terminal within this process, and the person who sits at it."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio


@dataclass
class Desk:
    """A terminal, with the person's side of it."""

    person: int
    line: int
    path: Path
    seen: bytes = b""

    async def read_until(self, text: bytes) -> None:
        """Wait until the screen has shown ``text``."""
        while text not in self.seen:
            await trio.lowlevel.wait_readable(self.person)
            self.seen += os.read(self.person, 4096)

    def read_rest(self) -> None:
        """Look at what else is on the screen."""
        while select.select([self.person], [], [], 0)[0]:
            self.seen += os.read(self.person, 4096)

    def read_line(self) -> bytes:
        """Return what was typed and nobody has read, as a program there would."""
        return os.read(self.line, 4096)

    def type(self, text: bytes) -> None:
        """Press keys."""
        os.write(self.person, text)

    def hang_up(self) -> None:
        """Close the terminal's window."""
        os.close(self.person)
        self.person = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def modes(self) -> object:
        """Return how the terminal behaves."""
        return termios.tcgetattr(self.line)

    def echoes(self) -> bool:
        """Whether what is typed is seen."""
        return bool(termios.tcgetattr(self.line)[3] & termios.ECHO)


@contextmanager
def a_desk() -> Iterator[Desk]:
    """Yield a terminal that is nobody's."""
    person, line = os.openpty()
    fcntl.ioctl(line, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    desk = Desk(person, line, Path(os.ttyname(line)))
    try:
        yield desk
    finally:
        os.close(desk.person)
        os.close(line)
