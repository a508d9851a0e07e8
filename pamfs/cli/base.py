"""What all commands share: exit codes, parser pieces, and the daemon behind a path.

``docs/exit-codes.md`` and ``pamfs --help`` show the table of exit codes; a test
compares them. A path on a mount is resolved without accessing the mount, whose daemon
may hang.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from pamfs.config import default_path
from pamfs.control.connection import Daemon, NoAnswerError, find_daemon
from pamfs.errors import ConfigError, PamfsError
from pamfs.mountpoint import (
    MountEntry,
    MountpointError,
    NoFuseError,
    OptionError,
    mounts_of_pamfs,
    real_mountpoint,
)
from pamfs.printable import printable


class Exit(IntEnum):
    """The exit codes; ``sentence`` is the meaning in words."""

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


if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001


def add_command(
    subparsers: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    epilog: str,
) -> argparse.ArgumentParser:
    """Add the command ``name``: ``text`` is its help, ``epilog`` its example."""
    parser = subparsers.add_parser(
        name,
        help=text[:1].lower() + text[1:].rstrip("."),
        description=text,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add ``--config FILE``, with the default place."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"default: {default_path()}".replace("%", "%%"),
    )


def config_path(args: argparse.Namespace) -> Path:
    """Return the configuration file that was asked for, absolute."""
    given: Path | None = args.config
    return (given or default_path()).absolute()


def plain(text: object) -> str:
    """Return ``text`` fit for a terminal: no control characters."""
    return printable(str(text))


class NoMountError(PamfsError):
    """The path is not on a mount of pamfs."""


class NotYoursError(PamfsError):
    """The mount belongs to another user; only that user and root control it."""

    def __init__(self, entry: MountEntry) -> None:
        super().__init__(
            f"{entry.mountpoint} is mounted by uid {entry.uid}, not by you"
        )


class MountedPath(NamedTuple):
    """A mount point, and a path below it (``.`` for itself)."""

    mountpoint: Path
    below: str


def find_place(path: Path) -> MountedPath:
    """Return where ``path`` is.

    Raises ``NoMountError`` if on no mount of pamfs, ``NotYoursError`` if on another's.
    """
    mounts = {entry.mountpoint: entry for entry in mounts_of_pamfs()}
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - no ".." after a mount
    # From the top: nothing at or below a mount point is looked at.
    for ancestor in (*reversed(absolute.parents), absolute):
        real = real_mountpoint(ancestor)
        if real in mounts:
            check_yours(mounts[real])
            return MountedPath(real, str(absolute.relative_to(ancestor)))
    raise NoMountError(f"{path} is not on a mount of pamfs")


def check_yours(entry: MountEntry) -> None:
    """Raise ``NotYoursError`` unless this user may command the mount."""
    if not entry.is_yours:
        raise NotYoursError(entry)


def daemon_of(mountpoint: Path) -> Daemon:
    """Return the daemon that serves ``mountpoint``; raise ``NoAnswerError``."""
    daemon = find_daemon(mountpoint)
    if daemon is None:
        raise NoAnswerError(f"{mountpoint}: its daemon does not answer")
    return daemon
