"""What an SFTP request does to a file of the device: flags, attributes, listings."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

from pamfs.lab.wire import Change, Open

if TYPE_CHECKING:
    from collections.abc import Iterator


def open_flags(flags: Open) -> int:
    """Return what open(2) calls the flags of OPEN."""
    if flags & Open.READ and flags & Open.WRITE:
        found = os.O_RDWR
    else:
        found = os.O_WRONLY if flags & Open.WRITE else os.O_RDONLY
    for asked, given in (
        (Open.APPEND, os.O_APPEND),
        (Open.CREAT, os.O_CREAT),
        (Open.TRUNC, os.O_TRUNC),
        (Open.EXCL, os.O_EXCL),
    ):
        if flags & asked:
            found |= given
    # A FIFO without a partner must not stop the device.
    return found | os.O_NONBLOCK | os.O_NOCTTY


def apply(where: int | str, change: Change) -> None:
    """Change a descriptor or a path, in OpenSSH's order."""
    if change.size is not None:
        os.truncate(where, change.size)
    if change.permissions is not None:
        os.chmod(where, change.permissions)  # noqa: PTH101 - may be a descriptor
    if change.times is not None:
        os.utime(where, change.times)
    if change.owner is not None:
        os.chown(where, *change.owner)


def apply_to_link(folder: int, name: bytes, change: Change) -> None:
    """Change a link itself; it has neither size nor mode to change."""
    if change.times is not None:
        os.utime(name, change.times, dir_fd=folder, follow_symlinks=False)
    if change.owner is not None:
        os.chown(name, *change.owner, dir_fd=folder, follow_symlinks=False)


def exists(folder: int, name: bytes) -> bool:
    """Return whether ``name`` is there, be it a link to nothing."""
    try:
        os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def entries_of(fd: int) -> Iterator[tuple[bytes, os.stat_result]]:
    """Own ``fd``; yield names with the attributes of the names themselves."""
    try:
        here = os.fstat(fd)
        fd_path = b"/proc/self/fd/%d" % fd
        yield b".", here
        yield b"..", here  # what is above the root is nobody's business
        for name in os.listdir(fd_path):  # noqa: PTH208 - bytes
            try:
                yield name, os.lstat(name, dir_fd=fd)
            except FileNotFoundError:
                continue
    finally:
        os.close(fd)


def long_name(name: bytes, found: os.stat_result) -> bytes:
    """Return a line as ``ls -l`` would show it."""
    when = time.strftime("%b %d %H:%M", time.localtime(found.st_mtime))
    line = (
        f"{stat.filemode(found.st_mode)} {found.st_nlink:>4} {found.st_uid:<8} "
        f"{found.st_gid:<8} {found.st_size:>8} {when} "
    )
    return line.encode() + name
