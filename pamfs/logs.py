"""Log records without secrets, their level and format; files opened for appending.

Law of appending: opening a file for appending never waits. A pipe would block its
opener until a reader comes, and later each writer; so pipes, sockets and folders are
refused. So is a file of another user, or one that others can read or write: it holds
paths, and whoever can write it can forge a record.

Law of lines: a record begins a line, and nothing in it begins another one. File names
and texts of servers come with newlines, terminal escapes and bidirectional marks; they
are shown as Python writes them in a string.

Law of secrets: a secret is registered before its first use, and forgotten only when no
log record can contain it any more. asyncssh logs the user name of a login, which
contains the one-time code with many PAMs (facts/pam.md#segura-user-names).
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
from pathlib import Path
from typing import Final

from pamfs.model import Secret
from pamfs.printable import printable

MASK: Final = "[secret]"


class Redactor(logging.Filter):
    """Removes registered secrets from messages, arguments and tracebacks.

    Add it to handlers: a logger's own filters do not see its children's records.
    """

    def __init__(self) -> None:
        super().__init__()
        # Replaced, never changed: records are filtered in other threads too.
        self._secrets: tuple[Secret, ...] = ()

    def register(self, secret: Secret) -> None:
        """Keep ``secret`` out of every later record; twice counts twice."""
        if secret:
            self._secrets = (*self._secrets, secret)

    def forget(self, secret: Secret) -> None:
        """Undo one ``register`` of this very object; unknown ones are ignored."""
        kept = list(self._secrets)
        for index, known in enumerate(kept):
            if known is secret:
                del kept[index]
                break
        self._secrets = tuple(kept)

    def clean(self, text: str) -> str:
        """Return ``text`` with every registered secret replaced."""
        for form in self._forms():
            text = text.replace(form, MASK)
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record in place; always let it through."""
        if self._secrets:
            record.msg = self.clean(_message_of(record))
            record.args = ()
            if record.exc_info and not record.exc_text:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
            if record.exc_text:
                record.exc_text = self.clean(record.exc_text)
            if record.stack_info:
                record.stack_info = self.clean(record.stack_info)
        return True

    def _forms(self) -> list[str]:
        forms: set[str] = set()
        for secret in self._secrets:
            text = secret.reveal()
            # The text itself, and as repr() of a str or bytes shows it.
            forms |= {text, repr(text)[1:-1], repr(text.encode())[2:-1]}
        return sorted(forms, key=len, reverse=True)  # a part must not hide the whole


def _message_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a wrong format string must not stop the program
        return f"{record.msg} {record.args!r}"


REDACTOR: Final = Redactor()


LEVELS: Final = ("debug", "info", "warning", "error")
_FORMAT: Final = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s"
_TIME: Final = "%Y-%m-%dT%H:%M:%S"
# At INFO asyncssh logs each login's whole user name, and each channel.
_CHATTY: Final = ("asyncssh", "asyncio", "trio", "pyfuse3")


class LineFormatter(logging.Formatter):
    """Formats a record as one line of printable text, and a traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; those of a traceback are indented, so they are no record."""
        head, *below = super().format(record).split("\n")
        return "\n".join([head, *(f"  {printable(line)}" for line in below)])

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        """Return the record's own line, without a newline in it."""
        return printable(super().formatMessage(record))


def set_up(level: str) -> None:
    """Send every record from ``level`` on to stderr, without secrets.

    A background mount's stderr is its log file.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(_FORMAT, _TIME))
    handler.addFilter(REDACTOR)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _CHATTY:
        chatty = logging.getLogger(name)
        chatty.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.captureWarnings(capture=True)


_FLAGS: Final = (
    os.O_WRONLY
    | os.O_APPEND
    | os.O_CREAT
    | os.O_CLOEXEC
    | os.O_NOCTTY
    | os.O_NOFOLLOW
    | os.O_NONBLOCK  # for the opening alone: without it a pipe waits for a reader
)


def open_to_append(path: Path) -> int:
    """Return a descriptor for ``path``, made with its folders if there is none.

    The file is made for its owner alone: paths in it may be confidential. Raises
    ``OSError`` also for what is neither a file nor a device like ``/dev/full``, and for
    a file of another user or one that others can read or write.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        fd = os.open(path, _FLAGS, 0o600)
    except OSError as exc:
        if exc.errno == errno.ENXIO:  # a pipe without a reader, or a socket
            raise _no_file() from None
        raise
    try:
        _check_ours(os.fstat(fd))
    except OSError:
        os.close(fd)
        raise
    os.set_blocking(fd, True)
    return fd


def _check_ours(found: os.stat_result) -> None:
    if stat.S_ISCHR(found.st_mode):
        return
    if not stat.S_ISREG(found.st_mode):
        raise _no_file()
    if found.st_uid != os.geteuid():
        raise OSError(errno.EPERM, f"belongs to another user (uid {found.st_uid})")
    mode = stat.S_IMODE(found.st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise OSError(errno.EPERM, f"has mode {mode:04o}: chmod 600 it")
    if found.st_nlink > 1:
        raise OSError(errno.EPERM, "has a second name (a hard link)")


def _no_file() -> OSError:
    return OSError(errno.EINVAL, "not a regular file")
