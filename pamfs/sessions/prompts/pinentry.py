"""Asks with the installed pinentry: on the caller's terminal, or its desktop.

Law: only a process of the mount's own user is asked, where that very process
is, and on a terminal only while the shell has lent it to the process: a job in
the background never takes the keyboard away from the one in front.
"""

from __future__ import annotations

import os
import shutil
import termios
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import trio

from pamfs.errors import CannotAskError
from pamfs.model import Caller, Secret
from pamfs.processes import belongs_to, place_in, program_of, terminal_of
from pamfs.sessions.memory_files import read_memory_file
from pamfs.sessions.prompts.assuan import Assuan, started
from pamfs.sessions.prompts.question import Question, until_fit
from pamfs.sessions.prompts.terminal import (
    LeftError,
    TerminalPrompter,
    Turns,
    kept_modes,
    leave_screen,
    opened,
)

ON_TERMINAL: Final = ("pinentry-curses", "pinentry-tty")
ON_DESKTOP: Final = (
    "pinentry-gnome3",
    "pinentry-qt",
    "pinentry-qt5",
    "pinentry-gtk-2",
    "pinentry-fltk",
    "pinentry-x11",
)
DISPLAYS: Final = ("WAYLAND_DISPLAY", "DISPLAY")


class CallerTerminalPrompter:
    """Asks on the terminal of the program that wants in."""

    def __init__(self, pinentry: str | None = None, turns: Turns | None = None) -> None:
        self._pinentry = pinentry
        self._turns = turns or Turns()

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

    def __init__(self, turns: Turns) -> None:
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


async def desktop_of(caller: Caller) -> Mapping[str, str]:
    """Return the environment of ``caller``, who has a desktop that we may ask on.

    Raises ``CannotAskError`` if there is none.
    """
    environment = await environment_of(caller) if is_ours(caller) else {}
    if not any(name in environment for name in DISPLAYS):
        raise CannotAskError("the program has no desktop of this user")
    return environment


def is_ours(caller: Caller) -> bool:
    """Whether ``caller`` is of the mount's own user: nobody else is ever asked."""
    own = os.getuid()
    return caller.uid == own and belongs_to(caller.pid, own)


def find_program(names: tuple[str, ...], given: str | None) -> str | None:
    """Return the path of the configured program, or of the first one installed."""
    if given is not None:
        return shutil.which(os.path.expanduser(given))  # noqa: PTH111 - a text
    return next(filter(None, map(shutil.which, names)), None)


async def environment_of(caller: Caller) -> dict[str, str]:
    """Return the environment of a program that asks where ``caller`` is."""
    own = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    return {**own, **place_in(await read_memory_file(caller.pid, "environ"))}


def _terminal_for(caller: Caller) -> Path:
    if not is_ours(caller):
        raise CannotAskError("the program is not of this user")
    terminal = terminal_of(caller.pid)
    if terminal is None:
        raise CannotAskError(f"{program_of(caller.pid)} has no terminal")
    if not terminal.is_in_foreground:
        raise LeftError(f"{program_of(caller.pid)} runs in the background")
    return terminal.path


def _clear_up(program: str, fd: int) -> None:
    # The one that writes lines has no screen to leave, and its cursor stays.
    if "curses" in Path(program).resolve().name:
        leave_screen(fd)


def _own_terminal() -> Path:
    # By the session's leader: the mount itself has left the terminal.
    terminal = terminal_of(os.getsid(0), os.getpgrp())
    if terminal is None or not terminal.is_in_foreground:
        raise LeftError("the mount is not in front on a terminal")
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
        await pinentry.tell("SETDESC", "\n".join(question.about()))
        await pinentry.tell("SETPROMPT", question.prompt)
        return await until_fit(question, partial(_get, pinentry))


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
