"""A path on a mount as the mount and what follows, without touching the mount."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from pamfs.control import Daemon, NoAnswerError, find_daemon
from pamfs.errors import PamfsError
from pamfs.mountpoint import own_mounts, real_mountpoint


class NoMountError(PamfsError):
    """No mount of pamfs is there."""


class Place(NamedTuple):
    """A mount point, and a path below it (``.`` for itself)."""

    mountpoint: Path
    below: str


def find_place(path: Path) -> Place:
    """Return where ``path`` is; raise ``NoMountError`` if on no mount of ours."""
    mounts = {entry.mountpoint for entry in own_mounts()}
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - no ".." after a mount
    # From the top: nothing at or below a mount point is looked at.
    for ancestor in (*reversed(absolute.parents), absolute):
        real = real_mountpoint(ancestor)
        if real in mounts:
            return Place(real, str(absolute.relative_to(ancestor)))
    raise NoMountError(f"{path} is on no mount of pamfs")


def daemon_of(mountpoint: Path) -> Daemon:
    """Return the daemon that serves ``mountpoint``; raise ``NoAnswerError``."""
    daemon = find_daemon(mountpoint)
    if daemon is None:
        raise NoAnswerError(f"{mountpoint}: its daemon does not answer")
    return daemon
