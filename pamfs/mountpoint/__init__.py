"""The mount point: its options, whether it can be mounted on, and what is there."""

from __future__ import annotations

from pamfs.mountpoint.checks import (
    MountpointError,
    NoFuseError,
    clean_up,
    is_dead,
    prepare,
)
from pamfs.mountpoint.options import MountOptions, OptionError, parse_options
from pamfs.mountpoint.table import (
    MountEntry,
    find_mount,
    mounts_of_pamfs,
    own_mounts,
    real_mountpoint,
)

__all__ = [
    "MountEntry",
    "MountOptions",
    "MountpointError",
    "NoFuseError",
    "OptionError",
    "clean_up",
    "find_mount",
    "is_dead",
    "mounts_of_pamfs",
    "own_mounts",
    "parse_options",
    "prepare",
    "real_mountpoint",
]
