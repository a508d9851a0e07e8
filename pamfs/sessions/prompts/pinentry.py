"""Asks with the installed pinentry: on the caller's terminal, or on its desktop.

Law: only a process of the mount's own user is asked, on its own terminal or desktop,
and on a terminal only while the process is in the foreground: a background job never
takes the keyboard from the foreground job.

``Assuan`` is the protocol: one line each way, ``D`` lines before ``OK`` or ``ERR`` (the
manuals of Assuan and pinentry). An answer leaves it as a ``Secret`` only, and no error
holds one. pinentry always gets a time limit: with one it ends its dialog cleanly at
SIGALRM, screen and terminal modes included.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import termios
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from pamfs.errors import CannotAskError, DeclinedError
from pamfs.model import Caller, Secret
from pamfs.processes import program_of, terminal_of
from pamfs.sessions.prompts.programs import (
    death_pipe,
    desktop_of,
    environment_of,
    find_program,
    is_ours,
)
from pamfs.sessions.prompts.question import Question, until_fit
from pamfs.sessions.prompts.terminal import (
    ForegroundLostError,
    TerminalLocks,
    TerminalPrompter,
    kept_modes,
    leave_screen,
    opened,
)

# gpg-error(1) numbers: the source is in the upper bits, the code in these.
_CODE_BITS: Final = 0xFFFF
_SAID_NO: Final = frozenset(
    {
        62,  # GPG_ERR_TIMEOUT
        99,  # GPG_ERR_CANCELED
        114,  # GPG_ERR_NOT_CONFIRMED
        198,  # GPG_ERR_FULLY_CANCELED
    }
)
_NUMBER: Final = re.compile(r"[0-9]{1,10}")
# Assuan: a line is at most 1000 bytes with its end.
_LONGEST_LINE: Final = 990
_START_S: Final = 10.0
_END_S: Final = 1.0
_AGAIN_S: Final = 0.05


class Assuan:
    """A pinentry that was started."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._rest = b""
        self.is_shown = False  # whether it holds a screen and a keyboard

    async def hear_greeting(self) -> None:
        """Wait for the first ``OK``."""
        await self._answer("the greeting")

    async def tell(self, command: str, argument: str) -> None:
        """Send a setting; raise ``CannotAskError`` if it is refused."""
        await self._send(command, argument)
        await self._answer(command)

    async def option(self, name: str, value: str = "") -> None:
        """Set an option; one that this flavor does not know is left."""
        await self._send("OPTION", f"{name}={value}" if value else name)
        try:
            await self._answer("OPTION")
        except CannotAskError:
            if self._process.returncode is not None:
                raise

    async def get_pin(self) -> Secret:
        """Return what was typed; raise ``DeclinedError`` if it was cancelled."""
        self.is_shown = True
        await self._send("GETPIN")
        return Secret(await self._answer("GETPIN"))

    async def _send(self, command: str, argument: str = "") -> None:
        line = f"{command} {escape(argument)}" if argument else command
        cut = line.encode()[:_LONGEST_LINE]
        assert self._process.stdin is not None  # noqa: S101 - started with a pipe
        try:
            await self._process.stdin.send_all(cut + b"\n")
        except trio.BrokenResourceError:
            raise CannotAskError("pinentry has ended") from None

    async def _answer(self, command: str) -> str:
        data = b""
        while True:
            word, _, rest = (await self._line()).partition(b" ")
            if word == b"D":
                data += rest
                continue
            self.is_shown = False
            if word == b"OK":
                return unescape(data)
            if word == b"ERR":
                raise _error_of(rest.decode(errors="replace"), command)

    async def _line(self) -> bytes:
        assert self._process.stdout is not None  # noqa: S101 - started with a pipe
        while b"\n" not in self._rest:
            more = await self._process.stdout.receive_some()
            if not more:
                raise CannotAskError("pinentry has ended")
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line


@asynccontextmanager
async def started(
    command: Sequence[str],
    environment: Mapping[str, str],
    on_torn: Callable[[], object] = lambda: None,
) -> AsyncIterator[Assuan]:
    """Start a pinentry, and end it whatever happens.

    ``on_torn`` is called if it was killed while it showed a question.
    """
    with death_pipe(command) as (argv, tether):
        # Not a session of its own: its leader would take the terminal over.
        process = await trio.lowlevel.open_process(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            pass_fds=(tether,),
        )
        assuan = Assuan(process)
        try:
            with trio.move_on_after(_START_S) as patience:
                await assuan.hear_greeting()
            if patience.cancelled_caught:
                raise CannotAskError(f"{command[0]} does not start")
            yield assuan
        finally:
            with trio.CancelScope(shield=True):
                await _end(process)
            if assuan.is_shown and (process.returncode or 0) < 0:
                on_torn()


async def _end(process: trio.Process) -> None:
    assert process.stdin is not None  # noqa: S101 - started with a pipe
    assert process.stdout is not None  # noqa: S101
    await process.stdin.aclose()
    with trio.move_on_after(_END_S):
        while process.poll() is None:
            # Again: one that comes just before it waits for a key is forgotten.
            process.send_signal(signal.SIGALRM)
            with trio.move_on_after(_AGAIN_S):
                await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
    await process.stdout.aclose()


def escape(text: str) -> str:
    """Return ``text`` fit for one line of Assuan."""
    return re.sub(r"[%\r\n]", lambda found: f"%{ord(found[0]):02X}", text)


def unescape(data: bytes) -> str:
    """Return the text of ``D`` lines."""
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), data)
    return raw.decode("utf-8", "surrogateescape")


def _error_of(rest: str, command: str) -> CannotAskError | DeclinedError:
    number, _, words = rest.partition(" ")
    if _NUMBER.fullmatch(number) and int(number) & _CODE_BITS in _SAID_NO:
        return DeclinedError(f"the question was declined: {words}")
    return CannotAskError(f"pinentry: {command}: {words or number}")


ON_TERMINAL: Final = ("pinentry-curses", "pinentry-tty")
ON_DESKTOP: Final = (
    "pinentry-gnome3",
    "pinentry-qt",
    "pinentry-qt5",
    "pinentry-gtk-2",
    "pinentry-fltk",
    "pinentry-x11",
)


class CallerTerminalPrompter:
    """Asks on the terminal of the program that wants in."""

    def __init__(
        self, pinentry: str | None = None, turns: TerminalLocks | None = None
    ) -> None:
        self._pinentry = pinentry
        self._turns = turns or TerminalLocks()

    async def ask(self, question: Question) -> Secret:
        """Ask with pinentry; read a line here if it is to be seen while typed."""
        check = partial(_terminal_for, question.caller)
        path = check()
        async with self._turns.of(path):
            check()  # it may have left while it waited
            program = find_program(ON_TERMINAL, self._pinentry)
            if question.echo or program is None:
                return await TerminalPrompter(path, check).ask(question)
            try:
                with opened(path) as fd, kept_modes(fd):
                    # What was typed before it was asked is no yes.
                    termios.tcflush(fd, termios.TCIFLUSH)
                    torn = partial(_clear_up, program, fd)
                    return await _ask_with(program, question, path, torn)
            except CannotAskError:
                # A pinentry that is broken, or does not know this kind of terminal.
                return await TerminalPrompter(path, check).ask(question)


class OwnTerminalPrompter:
    """Asks on the terminal that the mount was started from, while it is in front."""

    def __init__(self, turns: TerminalLocks) -> None:
        self._turns = turns

    async def ask(self, question: Question) -> Secret:
        """Read a line there."""
        path = _own_terminal()
        async with self._turns.of(path):
            _own_terminal()  # the mount may have left while it waited
            # It belongs to that terminal no more, so nothing stops it from reading
            # what is typed to the shell.
            return await TerminalPrompter(path, _own_terminal).ask(question)


class DesktopPrompter:
    """Asks on the desktop of the program that wants in."""

    def __init__(self, pinentry: str | None = None) -> None:
        self._pinentry = pinentry
        self._turn = trio.Lock()

    async def ask(self, question: Question) -> Secret:
        """Ask with a graphical pinentry."""
        await desktop_of(question.caller)
        program = find_program(ON_DESKTOP, self._pinentry)
        if program is None:
            raise CannotAskError("no graphical pinentry is installed")
        async with self._turn:
            return await _ask_with(program, question, None)


def _terminal_for(caller: Caller) -> Path:
    if not is_ours(caller):
        raise CannotAskError("the program is not of this user")
    terminal = terminal_of(caller.pid)
    if terminal is None:
        raise CannotAskError(f"{program_of(caller.pid)} has no terminal")
    if not terminal.is_in_foreground:
        raise ForegroundLostError(f"{program_of(caller.pid)} runs in the background")
    return terminal.path


def _clear_up(program: str, fd: int) -> None:
    # The one that writes lines has no screen to leave, and its cursor stays.
    if "curses" in Path(program).resolve().name:
        leave_screen(fd)


def _own_terminal() -> Path:
    # By the session's leader: the mount itself has left the terminal.
    terminal = terminal_of(os.getsid(0), os.getpgrp())
    if terminal is None or not terminal.is_in_foreground:
        raise ForegroundLostError("the mount is not in front on a terminal")
    return terminal.path


async def _ask_with(
    program: str,
    question: Question,
    terminal: Path | None,
    on_torn: Callable[[], object] = lambda: None,
) -> Secret:
    environment = await environment_of(question.caller)
    async with started([program], environment, on_torn) as pinentry:
        for name, value in _options(environment, terminal).items():
            await pinentry.option(name, value)
        left_s = question.deadline - trio.current_time()
        await pinentry.tell("SETTIMEOUT", str(max(1, int(left_s))))
        await pinentry.tell("SETTITLE", "pamfs")
        await pinentry.tell("SETDESC", _description(question))
        await pinentry.tell("SETPROMPT", question.prompt)
        return await until_fit(question, partial(_get, pinentry))


def _description(question: Question) -> str:
    """Return the head of the question; of a server only what fits in Assuan's line.

    No ``<`` of a server's: Qt takes a text with tags for rich text.
    """
    own = "\n".join(question.own_lines())
    left = _LONGEST_LINE - len("SETDESC ") - len(escape(own).encode())
    said = []
    for line in question.said_lines():
        shown = line.replace("<", "(").replace(">", ")")
        left -= len(escape(f"{shown}\n").encode())
        if left < 0:
            break
        said.append(shown)
    return "\n".join([*said, own])


async def _get(pinentry: Assuan, remark: str) -> Secret:
    if remark:
        await pinentry.tell("SETERROR", remark)
    return await pinentry.get_pin()


def _options(environment: Mapping[str, str], terminal: Path | None) -> dict[str, str]:
    options = {"no-grab": ""}
    if terminal is not None:
        options["ttyname"] = str(terminal)
        options["ttytype"] = environment.get("TERM", "dumb")
    locales = (environment.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    options["lc-ctype"] = next(filter(None, locales), "C.UTF-8")
    return options
