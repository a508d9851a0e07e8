"""Opening and making files on a device, so that nothing is left open on failure.

Law: from the moment a remote handle exists it is either returned or closed.
A mode that cannot be corrected is no failure: the file is there, with the mode
that the server gave it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Final

import trio

from pamfs.errors import PamfsError, RemoteError
from pamfs.model import AttrChange, Attrs, RemotePath
from pamfs.transport.base import OpenMode, RemoteFile, RemoteTree

log = logging.getLogger(__name__)

# What mkdir(2) honours of a mode; set-id bits of a directory are inherited.
PERMISSION_BITS: Final = 0o1777
# What open(2) and mknod(2) honour.
FILE_BITS: Final = 0o7777
SET_ID_BITS: Final = stat.S_ISUID | stat.S_ISGID
_CLOSE_S: Final = 10.0

NewHandle = tuple[RemoteFile, Attrs]


def open_mode(flags: int) -> OpenMode:
    """Return the ``OpenMode`` of ``flags`` (open(2)).

    O_CREAT and O_EXCL are ignored.
    """
    access = flags & os.O_ACCMODE
    mode = OpenMode(0)
    if access in {os.O_RDONLY, os.O_RDWR}:
        mode |= OpenMode.READ
    if access in {os.O_WRONLY, os.O_RDWR}:
        mode |= OpenMode.WRITE
    if flags & os.O_APPEND and OpenMode.WRITE in mode:
        mode |= OpenMode.APPEND
    if flags & os.O_TRUNC:
        mode |= OpenMode.WRITE | OpenMode.TRUNCATE
    return mode


@contextlib.asynccontextmanager
async def closed_on_error(remote: RemoteFile) -> AsyncIterator[None]:
    """Close ``remote`` if the body fails or is cancelled."""
    try:
        yield
    except BaseException:
        with (
            trio.move_on_after(_CLOSE_S, shield=True),
            contextlib.suppress(PamfsError),
        ):
            await remote.close()
        raise


async def open_file(tree: RemoteTree, path: RemotePath, mode: OpenMode) -> NewHandle:
    """Open ``path``; return the handle and the attributes of the file."""
    return await tree.open(path, mode)


async def create_file(
    tree: RemoteTree, path: RemotePath, wanted: OpenMode, flags: int, mode: int
) -> tuple[RemoteFile, Attrs, bool]:
    """Make a file with exactly ``mode``, or open the one made meanwhile.

    Returns the handle, the attributes, and whether this call created the file.
    """
    exclusive = wanted & ~OpenMode.TRUNCATE | OpenMode.CREATE | OpenMode.EXCLUSIVE
    try:
        remote, attrs = await tree.open(path, exclusive, mode & FILE_BITS)
    except RemoteError as exc:
        if exc.code != errno.EEXIST or flags & os.O_EXCL:
            raise
        # It was made by another program, with its own mode.
        return *await open_file(tree, path, wanted), False
    async with closed_on_error(remote):
        return remote, await exact_file_mode(remote, attrs, mode), True


async def exact_file_mode(remote: RemoteFile, attrs: Attrs, mode: int) -> Attrs:
    """Return the attributes of a new file, its mode corrected if it was masked."""
    if (attrs.mode ^ mode) & FILE_BITS:
        with _tolerated():
            attrs = await remote.set_attrs(AttrChange(mode=mode & FILE_BITS))
    return attrs


async def exact_mode(
    tree: RemoteTree, path: RemotePath, attrs: Attrs, mode: int
) -> Attrs:
    """Return the attributes of a new name, its mode corrected if it was masked."""
    if (attrs.mode ^ mode) & PERMISSION_BITS:
        # Set-id bits of a directory are inherited from its parent; they stay.
        wanted = (attrs.mode & 0o6000) | (mode & PERMISSION_BITS)
        with _tolerated():
            attrs = await tree.set_attrs(path, AttrChange(mode=wanted))
    return attrs


async def chown_file(
    remote: RemoteFile, attrs: Attrs, change: AttrChange | None
) -> Attrs:
    """Give a new file to its maker by its handle; return its attributes then.

    If the device refuses the chown, the file keeps its owner. A chown clears the set-id
    bits, so the same request sets them again.
    """
    if change is not None:
        if attrs.mode & SET_ID_BITS:
            change = replace(change, mode=stat.S_IMODE(attrs.mode))
        async with closed_on_error(remote):
            with _tolerated():
                return await remote.set_attrs(change)
    return attrs


async def chown_name(
    tree: RemoteTree, path: RemotePath, attrs: Attrs, change: AttrChange | None
) -> Attrs:
    """Give a new folder or link to its maker; return its attributes then.

    Only by a request that does not follow links: another user of the device may
    have put a link to another file in the place of the new name.
    """
    if change is not None and tree.capabilities.lsetstat:
        with _tolerated():
            return await tree.set_attrs(path, change)
    return attrs


@contextlib.contextmanager
def _tolerated() -> Iterator[None]:
    try:
        yield
    except RemoteError as exc:
        log.info("a new name keeps the mode or owner that the server gave it: %s", exc)
