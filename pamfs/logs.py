"""Log records and log files: level, format, and files that are opened for appending.

Law: opening a file for appending never waits. A pipe would block its opener until a
reader comes, and later each writer; so pipes, sockets and folders are refused.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
from pathlib import Path
from typing import Final

from pamfs.redaction import REDACTOR

LEVELS: Final = ("debug", "info", "warning", "error")
_FORMAT: Final = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s"
_TIME: Final = "%Y-%m-%dT%H:%M:%S"
# At INFO asyncssh logs each login's whole user name, and each channel.
_CHATTY: Final = ("asyncssh", "asyncio", "trio", "pyfuse3")


def set_up(level: str) -> None:
    """Send every record from ``level`` on to stderr, without secrets.

    A background mount's stderr is its log file.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT, _TIME))
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
    ``OSError`` also for what is neither a file nor a device like ``/dev/full``.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        fd = os.open(path, _FLAGS, 0o600)
    except OSError as exc:
        if exc.errno == errno.ENXIO:  # a pipe without a reader, or a socket
            raise _no_file() from None
        raise
    if _takes_lines(os.fstat(fd).st_mode):
        os.set_blocking(fd, True)
        return fd
    os.close(fd)
    raise _no_file()


def _takes_lines(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISCHR(mode)


def _no_file() -> OSError:
    return OSError(errno.EINVAL, "not a regular file")
