"""The exit codes of every command: one table, one sentence each.

``docs/exit-codes.md`` and ``pamfs --help`` show this table; a test compares them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Self

from pamfs.control import NoAnswerError
from pamfs.errors import ConfigError, PamfsError
from pamfs.mountpoint import MountpointError, NoFuseError, OptionError


class Exit(IntEnum):
    """What a command's exit code says; ``sentence`` says it in words."""

    sentence: str

    def __new__(cls, code: int, sentence: str) -> Self:
        """Make a member that is the number, with its sentence."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.sentence = sentence
        return member

    OK = 0, "Everything was done."
    FAILED = 1, "It could not be done, or pamfs has a bug; stderr says what."
    USAGE = 2, "The command line, or a mount option, is wrong."
    CONFIG = 3, "The configuration is wrong; every message names file and key."
    MOUNTPOINT = 4, "The mount point is missing, in use, or not empty."
    NO_FUSE = 5, "The machine has no FUSE, or does not let this user mount."
    MOUNT_FAILED = 6, "The mount was refused, or did not become usable."
    NOT_MOUNTED = 7, "No living mount of pamfs is there."
    BUSY = 8, "Programs still use the mount; it stays mounted."
    LOST = 9, "The mount ended, and some data could not be stored."
    NO_ANSWER = 10, "The mount's daemon does not answer."
    REFUSED = 11, "The target was not opened: refused, declined, or out of reach."
    INTERRUPTED = 130, "It was interrupted from the keyboard."


_OF_ERROR: Final[tuple[tuple[type[PamfsError], Exit], ...]] = (
    (ConfigError, Exit.CONFIG),
    (OptionError, Exit.USAGE),
    (MountpointError, Exit.MOUNTPOINT),
    (NoFuseError, Exit.NO_FUSE),
    (NoAnswerError, Exit.NO_ANSWER),
)


def exit_of(error: PamfsError) -> Exit:
    """Return the exit code for a failure that we can explain."""
    for kind, code in _OF_ERROR:
        if isinstance(error, kind):
            return code
    return Exit.FAILED


def table() -> str:
    """Return the table as ``pamfs --help`` shows it."""
    return "\n".join(f"  {code.value:>3}  {code.sentence}" for code in Exit)
