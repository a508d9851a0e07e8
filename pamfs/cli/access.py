"""``pamfs unlock``, ``lock`` and ``agent``: open and close targets, answer questions.

All three send one command to the daemon and keep the connection. The daemon may send
questions and notices before its reply; ``Answerer`` shows them on this terminal.

Law: the terminal's modes are restored in every case, and input that was typed for a
question that was withdrawn meanwhile is discarded.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
import termios
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pamfs.cli.base import Exit, NoMountError, add_command, daemon_of, find_place, plain
from pamfs.control.connection import Daemon
from pamfs.mountpoint import own_mounts

if TYPE_CHECKING:
    from pamfs.cli.base import Subparsers

Message = Mapping[str, object]

_LOCAL_MODES: Final = 3
_LONGEST_LINE: Final = 4096
_UNLOCK_EPILOG: Final = """\
example:
  pamfs unlock ~/pam/acme/root@web01

PATH is a target, or below it. A target that cools down after a refusal is tried again
at once.
"""
_LOCK_EPILOG: Final = """\
example:
  pamfs lock ~/pam/acme/root@web01

PATH is a target, or below it. If it is a tenant's folder or the mount point, all
targets in it are closed.
"""
_AGENT_EPILOG: Final = """\
example:
  pamfs agent ~/pam

Ctrl-D instead of an answer declines; Ctrl-C ends the agent.
"""


def add_parsers(subparsers: Subparsers) -> None:
    """Add ``unlock``, ``lock`` and ``agent``."""
    text = "Log in to a target now; questions are asked on this terminal."
    parser = add_command(subparsers, "unlock", unlock, text, _UNLOCK_EPILOG)
    parser.add_argument("path", type=Path, metavar="PATH")
    text = "Close a target: its session ends, its credential is checked in."
    parser = add_command(subparsers, "lock", lock, text, _LOCK_EPILOG)
    parser.add_argument("path", type=Path, metavar="PATH")
    text = "Show the questions of a mount on this terminal, and answer them."
    parser = add_command(subparsers, "agent", agent, text, _AGENT_EPILOG)
    parser.add_argument(
        "mountpoint",
        type=Path,
        nargs="?",
        metavar="MOUNTPOINT",
        help="default: the only mount",
    )


def unlock(args: argparse.Namespace) -> int:
    """Open the target of PATH; print why it could not be opened."""
    return _send_path(
        "unlock", args.path, lambda daemon: Answerer(daemon).run(), Exit.REFUSED
    )


def lock(args: argparse.Namespace) -> int:
    """Close what is at PATH; return when no session is left there."""
    return _send_path("lock", args.path, Daemon.receive, Exit.FAILED)


def agent(args: argparse.Namespace) -> int:
    """Answer the questions of a mount until the mount ends."""
    try:
        point = _the_mount(args.mountpoint)
    except NoMountError as exc:
        return _fail("agent", Exit.NOT_MOUNTED, exc)
    with daemon_of(point) as daemon:
        daemon.wait_for_ever()
        daemon.send({"command": "agent"})
        print(f"pamfs agent: answering for {plain(point)}", flush=True)
        Answerer(daemon).run()
    return Exit.OK


def _the_mount(given: Path | None) -> Path:
    if given is not None:
        return find_place(given).mountpoint
    points = sorted({entry.mountpoint for entry in own_mounts()})
    if len(points) != 1:
        raise NoMountError(
            f"{len(points)} mounts: name the mount point; pamfs status shows them"
        )
    return points[0]


def _send_path(
    command: str,
    path: Path,
    receive: Callable[[Daemon], Mapping[str, object]],
    refusal: Exit,
) -> Exit:
    """Send ``command`` for ``path``; ``receive`` returns the daemon's final reply.

    Errors go to stderr; ``refusal`` is the exit code if the daemon refuses.
    """
    try:
        place = find_place(path)
    except NoMountError as exc:
        return _fail(command, Exit.NOT_MOUNTED, exc)
    with daemon_of(place.mountpoint) as daemon:
        daemon.wait_for_ever()
        daemon.send({"command": command, "path": place.below})
        reply = receive(daemon)
    if reply.get("ok") is True:
        return Exit.OK
    return _fail(command, refusal, reply.get("error"))


def _fail(command: str, code: Exit, problem: object) -> Exit:
    print(f"pamfs {command}: {plain(problem)}", file=sys.stderr)
    return code


class Answerer:
    """Shows the questions and notices of ``daemon``, and returns its final reply."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._waiting: list[Message] = []

    def run(self) -> Message:
        """Answer what comes; return the object that is no question."""
        while True:
            while not self._waiting:
                if last := self._take(self._daemon.receive()):
                    return last
            try:
                fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            except OSError:
                # There is no terminal here; the daemon may ask in another way.
                self._daemon.send({"cannot": self._waiting.pop(0).get("question")})
                continue
            try:
                last = self._ask(fd, self._waiting[0])
            finally:
                os.close(fd)
            if last:
                return last

    def _take(self, message: Message) -> Message | None:
        """Note a question, a withdrawal or a notice; return whatever else it is."""
        if "notice" in message:
            print(f"pamfs: {plain(str(message['notice']))}", flush=True)
        elif "question" in message:
            self._waiting.append(message)
        elif "withdrawn" in message:
            number = message["withdrawn"]
            self._waiting = [m for m in self._waiting if m.get("question") != number]
        else:
            return message
        return None

    def _ask(self, fd: int, question: Message) -> Message | None:
        """Answer ``question``, unless it is withdrawn or everything ends."""
        with _modes(fd, echo=question.get("echo") is True):
            _write(fd, _lines(question))
            while not self._is_typed(fd):
                last = self._take(self._daemon.receive())
                if last or question not in self._waiting:
                    _write(fd, "\n(withdrawn)\n")
                    return last
            line = os.read(fd, _LONGEST_LINE)
        _write(fd, "\n")
        self._waiting.remove(question)
        self._daemon.send(_reply(question, line))
        return None

    def _is_typed(self, fd: int) -> bool:
        """Wait for the person (true) or for the daemon (false)."""
        if self._daemon.has_received():
            return False
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(self._daemon.fileno(), select.POLLIN)
        ready = {number for number, _ in poll.poll()}
        return self._daemon.fileno() not in ready


def _reply(question: Message, line: bytes) -> Message:
    number = question.get("question")
    if not line:
        return {"decline": number}
    text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
    return {"answer": number, "text": text}


def _lines(question: Message) -> str:
    about = question.get("about")
    lines = about if isinstance(about, list) else []
    remark, prompt = question.get("remark"), question.get("prompt")
    shown = [*lines, *([remark] if remark else []), f"{prompt} "]
    return "\n" + "\n".join(map(plain, shown))


def _write(fd: int, text: str) -> None:
    os.write(fd, text.encode(errors="backslashreplace"))


@contextmanager
def _modes(fd: int, *, echo: bool) -> Iterator[None]:
    before = termios.tcgetattr(fd)
    now = before.copy()
    now[_LOCAL_MODES] |= termios.ICANON
    if not echo:
        now[_LOCAL_MODES] &= ~termios.ECHO
    termios.tcsetattr(fd, termios.TCSAFLUSH, now)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSAFLUSH, before)
