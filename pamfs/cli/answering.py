"""A person at this terminal answers the questions of a mount, one at a time.

Law: the terminal's modes are put back whatever happens, and what was typed for a
question that was withdrawn meanwhile is dropped.
"""

from __future__ import annotations

import os
import select
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from pamfs.cli.parsers import plain
from pamfs.control import Daemon

Message = Mapping[str, object]

_LOCAL_MODES: Final = 3
_LONGEST_LINE: Final = 4096


class Answerer:
    """Talks to ``daemon`` until it says its last word, which is returned."""

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
                # Somebody else may be there to be asked.
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
