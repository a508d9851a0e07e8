"""``OsLike`` on the real kernel: the module ``os``, and what it does not have."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

from tests.mount.posix import NOW, OMIT, SECOND_NS

_libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
# linux/stat.h
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2


class Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanos", ctypes.c_long))


class RealOs:
    """The system calls of this machine."""

    open = staticmethod(os.open)
    close = staticmethod(os.close)
    read = staticmethod(os.read)
    write = staticmethod(os.write)
    pread = staticmethod(os.pread)
    pwrite = staticmethod(os.pwrite)
    lseek = staticmethod(os.lseek)
    dup = staticmethod(os.dup)
    fsync = staticmethod(os.fsync)
    fstat = staticmethod(os.fstat)
    ftruncate = staticmethod(os.ftruncate)
    fchmod = staticmethod(os.fchmod)
    stat = staticmethod(os.stat)
    lstat = staticmethod(os.lstat)
    truncate = staticmethod(os.truncate)
    chmod = staticmethod(os.chmod)
    chown = staticmethod(os.chown)
    lchown = staticmethod(os.lchown)
    access = staticmethod(os.access)
    statvfs = staticmethod(os.statvfs)
    mkdir = staticmethod(os.mkdir)
    rmdir = staticmethod(os.rmdir)
    unlink = staticmethod(os.unlink)
    rename = staticmethod(os.rename)
    symlink = staticmethod(os.symlink)
    mknod = staticmethod(os.mknod)
    umask = staticmethod(os.umask)

    def link(self, old: bytes, new: bytes) -> None:
        # os.link follows or not as the platform likes; Linux does not.
        os.link(old, new, follow_symlinks=False)

    def readlink(self, path: bytes) -> bytes:
        return os.readlink(path)

    def scan(self, path: bytes) -> Iterator[bytes]:
        with os.scandir(path) as entries:
            for entry in entries:
                yield entry.name

    def rename2(self, old: bytes, new: bytes, flags: int) -> None:
        checked(_libc.renameat2(AT_FDCWD, old, AT_FDCWD, new, flags))

    def utimens(
        self, path: bytes, atime_ns: int, mtime_ns: int, *, follow: bool = True
    ) -> None:
        times = (Timespec * 2)(_timespec(atime_ns), _timespec(mtime_ns))
        flags = 0 if follow else AT_SYMLINK_NOFOLLOW
        checked(_libc.utimensat(AT_FDCWD, path, times, flags))


def _timespec(when_ns: int) -> Timespec:
    match when_ns:
        case _ if when_ns == NOW:
            return Timespec(0, UTIME_NOW)
        case _ if when_ns == OMIT:
            return Timespec(0, UTIME_OMIT)
        case _:
            return Timespec(*divmod(when_ns, SECOND_NS))


def checked(result: int) -> int:
    """Return what a C function returned, or raise what it said."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
