"""Converts asyncssh's attribute records to ``Attrs`` and ``Space``, and changes back.

SFTP version 3 carries times as unsigned 32-bit seconds and sets owner and
group, and access and modification time, only in pairs
(draft-ietf-secsh-filexfer-02 section 5).
"""

from __future__ import annotations

import stat
from typing import Final

import asyncssh
from asyncssh.constants import (
    FILEXFER_TYPE_BLOCK_DEVICE,
    FILEXFER_TYPE_CHAR_DEVICE,
    FILEXFER_TYPE_DIRECTORY,
    FILEXFER_TYPE_FIFO,
    FILEXFER_TYPE_REGULAR,
    FILEXFER_TYPE_SOCKET,
    FILEXFER_TYPE_SYMLINK,
)

from pamfs.model import AttrChange, Attrs, Space

_NANOS: Final = 1_000_000_000
_MAX_SECONDS: Final = 0xFFFFFFFF
# The kernel's sizes are signed 64-bit numbers, the wire's are unsigned.
_MAX_BYTES: Final = (1 << 63) - 1
# Shown if the server sends no permissions; the server still checks each request.
_UNTOLD_FOLDER: Final = 0o700
_UNTOLD_FILE: Final = 0o600
_ST_RDONLY: Final = 1  # statvfs@openssh.com f_flag, PROTOCOL section 4.4

_TYPE_BITS: Final[dict[int, int]] = {
    FILEXFER_TYPE_REGULAR: stat.S_IFREG,
    FILEXFER_TYPE_DIRECTORY: stat.S_IFDIR,
    FILEXFER_TYPE_SYMLINK: stat.S_IFLNK,
    FILEXFER_TYPE_SOCKET: stat.S_IFSOCK,
    FILEXFER_TYPE_CHAR_DEVICE: stat.S_IFCHR,
    FILEXFER_TYPE_BLOCK_DEVICE: stat.S_IFBLK,
    FILEXFER_TYPE_FIFO: stat.S_IFIFO,
}

_KNOWN: Final = frozenset(_TYPE_BITS.values())


def attrs_of(found: asyncssh.SFTPAttrs, kind: int = stat.S_IFREG) -> Attrs:
    """Return ``found`` as ``Attrs``, as of type ``kind`` if it tells none.

    Missing permissions become 0600 or 0700, other missing fields 0, and the size is
    limited to 2**63 - 1.
    """
    kind = type_of(found) or kind
    mode = found.permissions
    if mode is None:
        mode = _UNTOLD_FOLDER if kind == stat.S_IFDIR else _UNTOLD_FILE
    return Attrs(
        mode=kind | stat.S_IMODE(mode),
        size=min(found.size or 0, _MAX_BYTES),
        uid=found.uid or 0,
        gid=found.gid or 0,
        atime_ns=_nanos(found.atime, found.atime_ns),
        mtime_ns=_nanos(found.mtime, found.mtime_ns),
        ctime_ns=None if found.ctime is None else _nanos(found.ctime, found.ctime_ns),
        nlink=found.nlink or 1,
    )


def type_of(found: asyncssh.SFTPAttrs) -> int:
    """Return the type bits (``S_IFMT``) that the server sent.

    0 if none, or unknown to Linux.
    """
    told = stat.S_IFMT(found.permissions or 0)
    return told if told in _KNOWN else _TYPE_BITS.get(found.type, 0)


def is_complete(found: asyncssh.SFTPAttrs) -> bool:
    """Whether the server gave what must be known of a file: type, mode, size.

    What is no regular file needs no size.
    """
    if found.permissions is None:
        return False
    kind = type_of(found)
    return bool(kind) and (kind != stat.S_IFREG or found.size is not None)


def needs_known(change: AttrChange) -> bool:
    """Whether only one half of a pair changes, so the other must be known."""
    return (change.uid is None) != (change.gid is None) or (
        change.atime_ns is None
    ) != (change.mtime_ns is None)


def _nanos(seconds: float | None, nanos: int | None) -> int:
    return int(seconds or 0) * _NANOS + (nanos or 0)


def sftp_attrs(change: AttrChange, known: Attrs | None) -> list[asyncssh.SFTPAttrs]:
    """Return the records that set ``change``, in safe order.

    ``known`` fills the other half of a pair. The size comes first, since it
    touches the times; the owner before the mode, since a chown clears the
    set-id bits; the times last, with the mode if that changes too.
    """
    records: list[asyncssh.SFTPAttrs] = []
    if change.size is not None:
        records.append(asyncssh.SFTPAttrs(size=change.size))
    if change.uid is not None or change.gid is not None:
        uid = _first(change.uid, known.uid if known else None)
        gid = _first(change.gid, known.gid if known else None)
        records.append(asyncssh.SFTPAttrs(uid=uid, gid=gid))
    mode = None if change.mode is None else stat.S_IMODE(change.mode)
    if change.atime_ns is not None or change.mtime_ns is not None:
        atime_ns = _first(change.atime_ns, known.atime_ns if known else None)
        mtime_ns = _first(change.mtime_ns, known.mtime_ns if known else None)
        times = _times(atime_ns, mtime_ns)
        times.permissions = mode
        records.append(times)
    elif mode is not None:
        records.append(asyncssh.SFTPAttrs(permissions=mode))
    return records


def _first(wanted: int | None, known: int | None) -> int:
    return wanted if wanted is not None else known or 0


def _times(atime_ns: int, mtime_ns: int) -> asyncssh.SFTPAttrs:
    atime, mtime = (
        min(max(nanos // _NANOS, 0), _MAX_SECONDS) for nanos in (atime_ns, mtime_ns)
    )
    return asyncssh.SFTPAttrs(
        atime=atime,
        atime_ns=atime_ns % _NANOS,
        mtime=mtime,
        mtime_ns=mtime_ns % _NANOS,
    )


def shows(seen: Attrs, change: AttrChange) -> bool:
    """Whether ``seen`` agrees with ``change`` in each field that it sets."""
    wanted = (
        (change.size, seen.size),
        (change.uid, seen.uid),
        (change.gid, seen.gid),
        (change.mode and stat.S_IMODE(change.mode), stat.S_IMODE(seen.mode)),
        (change.atime_ns and change.atime_ns // _NANOS, seen.atime_ns // _NANOS),
        (change.mtime_ns and change.mtime_ns // _NANOS, seen.mtime_ns // _NANOS),
    )
    return all(want is None or want == is_ for want, is_ in wanted)


def space_of(found: asyncssh.SFTPVFSAttrs) -> Space:
    """Return ``found`` as ``Space``, no number above what a program can hold."""
    fragment = min(max(found.frsize or found.bsize, 1), _MAX_BYTES)
    most = _MAX_BYTES // fragment  # so that the bytes are a signed 64-bit number too
    return Space(
        fragment_bytes=fragment,
        blocks=min(found.blocks, most),
        blocks_free=min(found.bfree, most),
        blocks_available=min(found.bavail, most),
        files=min(found.files, _MAX_BYTES),
        files_free=min(found.ffree, _MAX_BYTES),
        files_available=min(found.favail, _MAX_BYTES),
        name_max=found.namemax,
        is_read_only=bool(found.flags & _ST_RDONLY),
    )
