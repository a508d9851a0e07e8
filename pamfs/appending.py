"""A file that lines are appended to: a log, the records of an audit.

Law: opening waits for nobody. A pipe would hold up whoever opens it until somebody
reads, and later whoever writes; so it is refused, as a socket and a folder are.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

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
