"""Asks on a terminal, reading lines itself.

Law: the terminal's modes are put back whatever happens, and there is one question
at a time. It is read without a thread: a withdrawn question leaves no reader on
the terminal.
"""

from __future__ import annotations

import os
import termios
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import trio

from pamfs.errors import CannotAskError, DeclinedError
from pamfs.model import Secret
from pamfs.sessions.prompts.question import Question, until_fit

# A terminal's line in canonical mode is at most this long (termios(3)).
LONGEST_LINE: Final = 4096
_LOCAL_MODES: Final = 3
# xterm's rmcup, rmkx, cnorm and sgr0; other terminals ignore unknown ones.
_LEAVE_SCREEN: Final = b"\x1b[?1049l\x1b[?1l\x1b>\x1b[?25h\x1b[m"


class TerminalLocks:
    """One lock for each terminal, shared by all prompters that ask there."""

    def __init__(self) -> None:
        self._locks: dict[Path, trio.Lock] = {}

    def of(self, terminal: Path) -> trio.Lock:
        """Return the lock that is held during a question on ``terminal``."""
        return self._locks.setdefault(terminal, trio.Lock())


class ForegroundLostError(CannotAskError):
    """The asking process is not in the foreground; its input is discarded."""


class TerminalPrompter:
    """Asks on ``terminal``; ``check`` raises ``ForegroundLostError`` if we lost it."""

    def __init__(
        self, terminal: Path, check: Callable[[], object] = lambda: None
    ) -> None:
        self._terminal = terminal
        self._check = check
        self._turn = trio.Lock()

    async def ask(self, question: Question) -> Secret:
        """Return the line that was typed; an end of file declines."""
        async with self._turn:
            with opened(self._terminal) as fd, kept_modes(fd):
                read = partial(_read_line, fd, self._check)
                return await until_fit(question, partial(_ask_line, fd, read, question))


async def _read_line(fd: int, check: Callable[[], object]) -> bytes:
    while True:
        await trio.lowlevel.wait_readable(fd)
        check()
        with suppress(BlockingIOError):  # another process has read it
            return os.read(fd, LONGEST_LINE)


async def _ask_line(
    fd: int, read: Callable[[], Awaitable[bytes]], question: Question, remark: str
) -> Secret:
    set_echo(fd, echo=question.echo)
    lines = [remark, question.prompt] if remark else question.lines()
    try:
        os.write(fd, "\n{} ".format("\n".join(lines)).encode())
        line = await read()
    except OSError as exc:
        raise CannotAskError(f"the terminal is gone: {exc.strerror}") from None
    finally:
        with suppress(OSError):  # the terminal is gone
            os.write(fd, b"\n")
    if not line:
        termios.tcgetattr(fd)  # a terminal that hung up ends as a Ctrl-D does
        raise DeclinedError(f"the {question.kind.value} was declined")
    return Secret(line.decode("utf-8", "surrogateescape").rstrip("\r\n"))


@contextmanager
def opened(terminal: Path) -> Iterator[int]:
    """Open a terminal without making it ours; raise ``CannotAskError``."""
    try:
        flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(terminal, flags)
    except OSError as exc:
        raise CannotAskError(f"{terminal}: {exc.strerror}") from None
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def kept_modes(fd: int) -> Iterator[None]:
    """Put the terminal's modes back afterwards; drop what was typed too much.

    A terminal that hangs up meanwhile is a ``CannotAskError``. One that is lent to
    somebody else by then is left alone: its modes and what is typed are theirs.
    """
    try:
        before = termios.tcgetattr(fd)
    except termios.error as exc:
        raise CannotAskError(f"no terminal: {exc.args[-1]}") from None
    is_lent = True
    try:
        yield
    except ForegroundLostError:
        is_lent = False
        raise
    except termios.error as exc:
        raise CannotAskError(f"the terminal is gone: {exc.args[-1]}") from None
    finally:
        with suppress(termios.error):
            if is_lent:
                termios.tcsetattr(fd, termios.TCSAFLUSH, before)


def leave_screen(fd: int) -> None:
    """Undo what a full-screen program did to a terminal, in place of one killed."""
    with suppress(OSError):
        os.write(fd, _LEAVE_SCREEN)


def set_echo(fd: int, *, echo: bool) -> None:
    """Read by the line, without echo unless asked; drop what was typed ahead."""
    now = termios.tcgetattr(fd)
    now[_LOCAL_MODES] |= termios.ICANON
    if echo:
        now[_LOCAL_MODES] |= termios.ECHO
    else:
        now[_LOCAL_MODES] &= ~termios.ECHO
    termios.tcsetattr(fd, termios.TCSAFLUSH, now)
