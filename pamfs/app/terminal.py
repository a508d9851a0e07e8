"""A mount is no job of the terminal that it was started from."""

from __future__ import annotations

import fcntl
import os
import signal
import termios
from pathlib import Path
from typing import Final

_TERMINAL: Final = Path("/dev/tty")  # ours, if we have one


def leave_terminal() -> None:
    """Have no controlling terminal, nor our pinentries: it would stop what they do.

    A program in front on that terminal may be asked there while the mount is in the
    background; who reads or writes there then gets SIGTTIN or SIGTTOU. Ctrl-C still
    comes: it goes to the process group in front.
    """
    # The leader of a session would take the terminal away from all of it; it is
    # in front, as a rule.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    if os.getsid(0) == os.getpid():
        return
    try:
        fd = os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return  # there is none
    try:
        fcntl.ioctl(fd, termios.TIOCNOTTY)
    finally:
        os.close(fd)
