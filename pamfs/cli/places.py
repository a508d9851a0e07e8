"""A path on a mount as the mount and what follows, without touching the mount."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from pamfs.control import Daemon, NoAnswerError, find_daemon
from pamfs.errors import PamfsError
from pamfs.mountpoint import MountEntry, mounts_of_pamfs, real_mountpoint


class NoMountError(PamfsError):
    """No mount of pamfs is there."""


class NotYoursError(PamfsError):
    """The mount is another user's, who alone commands it."""

    def __init__(self, entry: MountEntry) -> None:
        super().__init__(
            f"{entry.mountpoint} is mounted by uid {entry.uid}, not by you"
        )


class Place(NamedTuple):
    """A mount point, and a path below it (``.`` for itself)."""

    mountpoint: Path
    below: str


def find_place(path: Path) -> Place:
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
            return Place(real, str(absolute.relative_to(ancestor)))
    raise NoMountError(f"{path} is on no mount of pamfs")


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
