"""Finds the errno behind a bare FAILURE by looking at the paths concerned.

SFTP version 3 has no status for EEXIST, ENOTEMPTY, EISDIR, ENOSPC and others; OpenSSH
answers FAILURE to all of them (sftp-server.c, errno_to_portable). Each function here is
called after a failure only, looks at the paths with further requests, and returns the
errno to report. If those show no reason, ``code`` is returned unchanged.
"""

from __future__ import annotations

import contextlib
import errno
import stat
from collections.abc import Awaitable, Callable

import trio

from pamfs.errors import RemoteError, ungrouped
from pamfs.model import Attrs, RemotePath, Space
from pamfs.transport.base import OpenMode, RemoteTree

# Servers use these codes only with this meaning, so no further request is needed.
EXACT = frozenset({errno.EACCES, errno.EOPNOTSUPP, errno.ENOSPC, errno.EDQUOT})


SpaceOf = Callable[[RemotePath], Awaitable[Space]]


async def _look(tree: RemoteTree, path: RemotePath) -> Attrs | None:
    try:
        return await tree.lstat(path)
    except RemoteError:
        return None


def _is_dir(attrs: Attrs | None) -> bool:
    return attrs is not None and stat.S_ISDIR(attrs.mode)


def parent_of(path: RemotePath) -> RemotePath:
    """Return the folder that holds ``path``."""
    return RemotePath(path.rpartition(b"/")[0] or b"/")


async def explain_storing(space_of: SpaceOf, path: RemotePath, code: int) -> int:
    """Return ENOSPC or EROFS if the file system of ``path`` says so, else ``code``."""
    if code != errno.EIO:
        return code
    try:
        space = await space_of(path)
    except RemoteError:
        return code
    if space.is_read_only:
        return errno.EROFS
    if space.blocks and not space.blocks_available:
        return errno.ENOSPC
    if space.files and not space.files_available:
        return errno.ENOSPC
    return code


async def _look_at_both(
    tree: RemoteTree, path: RemotePath, code: int
) -> tuple[Attrs | None, bool]:
    """Return what is at ``path``, and whether its file system is read-only.

    Both are asked in one round trip; the second only after a bare failure.
    """
    is_read_only = False

    async def ask_space() -> None:
        nonlocal is_read_only
        with contextlib.suppress(RemoteError):
            is_read_only = (await tree.space(parent_of(path))).is_read_only

    with ungrouped():
        async with trio.open_nursery() as nursery:
            if code == errno.EIO:
                nursery.start_soon(ask_space)
            attrs = await _look(tree, path)
    return attrs, is_read_only


async def explain_making(tree: RemoteTree, path: RemotePath, code: int) -> int:
    """Return why a new name could not be made at ``path``."""
    if code not in {errno.EIO, errno.ENOENT, errno.EINVAL}:
        return code
    if code == errno.EIO and await _look(tree, path) is not None:
        return errno.EEXIST
    if code == errno.ENOENT:
        parent = await _look(tree, parent_of(path))
        return errno.ENOTDIR if parent and not _is_dir(parent) else code
    return await explain_storing(tree.space, parent_of(path), code)


async def explain_opening(
    tree: RemoteTree, path: RemotePath, code: int, mode: OpenMode
) -> int:
    """Return why ``path`` could not be opened with ``mode``.

    A full or read-only file system refuses no open for reading, and only a new name
    takes room.
    """
    if code == errno.EIO and _is_dir(await _look(tree, path)):
        return errno.EISDIR
    if not mode & ~OpenMode.READ:
        return code
    found = await explain_storing(tree.space, parent_of(path), code)
    return code if found == errno.ENOSPC and OpenMode.CREATE not in mode else found


async def explain_unlink(tree: RemoteTree, path: RemotePath, code: int) -> int:
    """Return why the name ``path`` could not be removed."""
    if code not in EXACT and _is_dir(await _look(tree, path)):
        return errno.EISDIR
    return await explain_storing(tree.space, parent_of(path), code)


async def explain_rmdir(tree: RemoteTree, path: RemotePath, code: int) -> int:
    """Return why the directory ``path`` could not be removed."""
    if code in EXACT:
        return code
    attrs, is_read_only = await _look_at_both(tree, path, code)
    if attrs is None:
        return code
    if not _is_dir(attrs):
        return errno.ENOTDIR
    if is_read_only:
        return errno.EROFS  # rmdir(2) reports it before ENOTEMPTY
    if code == errno.EIO and await _has_entries(tree, path):
        return errno.ENOTEMPTY
    return await explain_storing(tree.space, parent_of(path), code)


async def _has_entries(tree: RemoteTree, path: RemotePath) -> bool:
    try:
        return bool(await tree.list_dir(path))
    except RemoteError:
        return False


async def explain_rename(
    tree: RemoteTree, old: RemotePath, new: RemotePath, code: int
) -> int:
    """Return why ``old`` could not be renamed over ``new``."""
    if code in EXACT - {errno.EOPNOTSUPP}:
        return code
    source = await _look(tree, old)
    if source is None:
        return errno.ENOENT
    if _is_dir(source) and new.startswith(old + b"/"):
        return errno.EINVAL
    there, is_read_only = await _look_at_both(tree, new, code)
    if is_read_only:
        return errno.EROFS  # rename(2) reports it first
    if there is not None:
        refusal = await _replacing_refused(tree, source, there, new)
        if refusal is not None:
            return refusal
    return await explain_storing(tree.space, parent_of(new), code)


async def _replacing_refused(
    tree: RemoteTree, source: Attrs, there: Attrs, new: RemotePath
) -> int | None:
    if _is_dir(source) and not _is_dir(there):
        return errno.ENOTDIR
    if not _is_dir(source) and _is_dir(there):
        return errno.EISDIR
    if _is_dir(there) and await _has_entries(tree, new):
        return errno.ENOTEMPTY
    return None


async def explain_link(
    tree: RemoteTree, old: RemotePath, new: RemotePath, code: int
) -> int:
    """Return why ``new`` could not be made a hard link of ``old``."""
    if code in EXACT and code != errno.EACCES:
        return code
    source = await _look(tree, old)
    if source is None:
        return errno.ENOENT
    if _is_dir(source):
        return errno.EPERM
    return await explain_making(tree, new, code)


async def explain_setting(tree: RemoteTree, path: RemotePath, code: int) -> int:
    """Return why attributes of ``path`` could not be set; EPERM as chmod(2) says."""
    code = await explain_storing(tree.space, path, code)
    return errno.EPERM if code in {errno.EIO, errno.EACCES} else code
