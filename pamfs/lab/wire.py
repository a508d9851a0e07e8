"""SFTP version 3 on the wire, as a server parses and writes it.

Packets and codes: draft-ietf-secsh-filexfer-02. Names of extensions and the status
texts: OpenSSH, PROTOCOL section 4 and sftp-server.c. ``PacketReader`` raises
``BadMessageError`` for a packet that is too short; it never returns a part of a field.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag


class Packet(IntEnum):
    """Packet types (filexfer-02 section 3)."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    REALPATH = 16
    STAT = 17
    RENAME = 18
    READLINK = 19
    SYMLINK = 20
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class Status(IntEnum):
    """Status codes (filexfer-02 section 7); version 3 has no others."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    BAD_MESSAGE = 5
    OP_UNSUPPORTED = 8


class Open(IntFlag):
    """Flags of OPEN (filexfer-02 section 6.3)."""

    READ = 0x01
    WRITE = 0x02
    APPEND = 0x04
    CREAT = 0x08
    TRUNC = 0x10
    EXCL = 0x20


_SIZE, _OWNER, _PERMISSIONS, _TIMES, _EXTENDED = 0x1, 0x2, 0x4, 0x8, 0x80000000

_TEXT = {
    Status.OK: b"Success",
    Status.EOF: b"End of file",
    Status.NO_SUCH_FILE: b"No such file",
    Status.PERMISSION_DENIED: b"Permission denied",
    Status.FAILURE: b"Failure",
    Status.BAD_MESSAGE: b"Bad message",
    Status.OP_UNSUPPORTED: b"Operation unsupported",
}

# errno_to_portable() of OpenSSH's sftp-server.c; all else is FAILURE.
_STATUS_OF = {
    errno.ENOENT: Status.NO_SUCH_FILE,
    errno.ENOTDIR: Status.NO_SUCH_FILE,
    errno.EBADF: Status.NO_SUCH_FILE,
    errno.ELOOP: Status.NO_SUCH_FILE,
    errno.EPERM: Status.PERMISSION_DENIED,
    errno.EACCES: Status.PERMISSION_DENIED,
    errno.EFAULT: Status.PERMISSION_DENIED,
    errno.ENAMETOOLONG: Status.BAD_MESSAGE,
    errno.EINVAL: Status.BAD_MESSAGE,
    errno.ENOSYS: Status.OP_UNSUPPORTED,
}


class BadMessageError(Exception):
    """A packet that does not hold what its type promises."""


@dataclass(frozen=True, slots=True)
class AttrsChange:
    """The attributes that a request wants to set; None leaves one as it is."""

    size: int | None = None
    owner: tuple[int, int] | None = None
    permissions: int | None = None
    times: tuple[int, int] | None = None


class PacketReader:
    """Takes the fields of one packet in order; raises ``BadMessageError``."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def _take(self, size: int) -> memoryview:
        end = self._at + size
        if end > len(self._data):
            raise BadMessageError("the packet is too short")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def u32(self) -> int:
        """Return the next 32-bit number."""
        return int.from_bytes(self._take(4), "big")

    def u64(self) -> int:
        """Return the next 64-bit number."""
        return int.from_bytes(self._take(8), "big")

    def view(self) -> memoryview:
        """Return the next string, not copied."""
        return self._take(self.u32())

    def string(self) -> bytes:
        """Return the next string."""
        return bytes(self.view())

    def change(self) -> AttrsChange:
        """Return the next attributes (filexfer-02 section 5)."""
        flags = self.u32()
        size = self.u64() if flags & _SIZE else None
        owner = (self.u32(), self.u32()) if flags & _OWNER else None
        permissions = self.u32() & 0o7777 if flags & _PERMISSIONS else None
        times = (self.u32(), self.u32()) if flags & _TIMES else None
        if flags & _EXTENDED:
            for _ in range(self.u32()):
                self.view()
                self.view()
        return AttrsChange(size, owner, permissions, times)


def string(data: bytes) -> bytes:
    """Return ``data`` with its length in front."""
    return len(data).to_bytes(4, "big") + data


def reply(kind: Packet, request: int, body: bytes) -> bytes:
    """Return a whole packet that answers ``request``."""
    return struct.pack(">IBI", 5 + len(body), kind, request) + body


def status(request: int, code: Status) -> bytes:
    """Return the STATUS that answers ``request`` with ``code``."""
    return reply(
        Packet.STATUS,
        request,
        struct.pack(">I", code) + string(_TEXT[code]) + string(b""),
    )


def status_of(exc: OSError) -> Status:
    """Return the code that OpenSSH gives for ``exc``."""
    return _STATUS_OF.get(exc.errno or 0, Status.FAILURE)


def attrs(found: os.stat_result) -> bytes:
    """Return ``found`` as attributes; version 3 has 32-bit seconds and no links."""
    return struct.pack(
        ">IQIIIII",
        _SIZE | _OWNER | _PERMISSIONS | _TIMES,
        found.st_size,
        found.st_uid,
        found.st_gid,
        found.st_mode,
        int(found.st_atime) & 0xFFFFFFFF,
        int(found.st_mtime) & 0xFFFFFFFF,
    )


def space(found: os.statvfs_result) -> bytes:
    """Return ``found`` as statvfs@openssh.com wants it (PROTOCOL 4.4)."""
    read_only, no_suid = 1, 2
    flags = (read_only if found.f_flag & os.ST_RDONLY else 0) | (
        no_suid if found.f_flag & os.ST_NOSUID else 0
    )
    return struct.pack(
        ">11Q",
        found.f_bsize,
        found.f_frsize,
        found.f_blocks,
        found.f_bfree,
        found.f_bavail,
        found.f_files,
        found.f_ffree,
        found.f_favail,
        found.f_fsid & 0xFFFFFFFFFFFFFFFF,
        flags,
        found.f_namemax,
    )
