"""Conformance: what a program may expect of a file system, as functions.

A check is a function of ``(fs, root)``: ``fs`` is the part of the module ``os``
that programs use, ``root`` an empty folder. The same checks run on a plain
folder (the oracle), in process and on real mounts (drivers.py). A check that
pamfs cannot pass has a row in docs/posix.md and, under the same name, a
``deviant`` check that says what happens instead.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol


class StatLike(Protocol):
    """What checks look at in the result of stat(2)."""

    @property
    def st_mode(self) -> int: ...
    @property
    def st_ino(self) -> int: ...
    @property
    def st_nlink(self) -> int: ...
    @property
    def st_uid(self) -> int: ...
    @property
    def st_gid(self) -> int: ...
    @property
    def st_size(self) -> int: ...
    @property
    def st_atime_ns(self) -> int: ...
    @property
    def st_mtime_ns(self) -> int: ...
    @property
    def st_ctime_ns(self) -> int: ...


class SpaceLike(Protocol):
    """What checks look at in the result of statvfs(3)."""

    @property
    def f_frsize(self) -> int: ...
    @property
    def f_blocks(self) -> int: ...
    @property
    def f_bfree(self) -> int: ...
    @property
    def f_bavail(self) -> int: ...
    @property
    def f_namemax(self) -> int: ...


class OsLike(Protocol):
    """The system calls that checks may use; names and meanings as in ``os``."""

    def open(self, path: bytes, flags: int, mode: int = 0o777, /) -> int: ...
    def close(self, fd: int, /) -> None: ...
    def read(self, fd: int, size: int, /) -> bytes: ...
    def write(self, fd: int, data: bytes, /) -> int: ...
    def pread(self, fd: int, size: int, offset: int, /) -> bytes: ...
    def pwrite(self, fd: int, data: bytes, offset: int, /) -> int: ...
    def lseek(self, fd: int, position: int, whence: int, /) -> int: ...
    def dup(self, fd: int, /) -> int: ...
    def fsync(self, fd: int, /) -> None: ...
    def fstat(self, fd: int, /) -> StatLike: ...
    def ftruncate(self, fd: int, size: int, /) -> None: ...
    def fchmod(self, fd: int, mode: int, /) -> None: ...
    def stat(self, path: bytes, /) -> StatLike: ...
    def lstat(self, path: bytes, /) -> StatLike: ...
    def truncate(self, path: bytes, size: int, /) -> None: ...
    def chmod(self, path: bytes, mode: int, /) -> None: ...
    def chown(self, path: bytes, uid: int, gid: int, /) -> None: ...
    def lchown(self, path: bytes, uid: int, gid: int, /) -> None: ...
    def access(self, path: bytes, mode: int, /) -> bool: ...
    def statvfs(self, path: bytes, /) -> SpaceLike: ...
    def mkdir(self, path: bytes, mode: int = 0o777, /) -> None: ...
    def rmdir(self, path: bytes, /) -> None: ...
    def unlink(self, path: bytes, /) -> None: ...
    def rename(self, old: bytes, new: bytes, /) -> None: ...
    def link(self, old: bytes, new: bytes, /) -> None: ...
    def symlink(self, content: bytes, path: bytes, /) -> None: ...
    def readlink(self, path: bytes, /) -> bytes: ...
    def mknod(self, path: bytes, mode: int, /) -> None: ...
    def umask(self, mask: int, /) -> int: ...

    def scan(self, path: bytes, /) -> Iterator[bytes]:
        """Yield the names in a directory while it is being read."""
        ...

    def rename2(self, old: bytes, new: bytes, flags: int, /) -> None:
        """renameat2(2)."""
        ...

    def utimens(
        self, path: bytes, atime_ns: int, mtime_ns: int, *, follow: bool = True
    ) -> None:
        """utimensat(2); ``NOW`` and ``OMIT`` are values of their own."""
        ...


# utimensat(2): these stand in the place of the nanoseconds.
NOW = -1
OMIT = -2
# linux/fs.h
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

SECOND_NS = 1_000_000_000

Check = Callable[[OsLike, bytes], None]


class Checks(dict[str, Check]):
    """Some checks by name; an instance is a decorator that adds to it."""

    def __call__(self, function: Check) -> Check:
        name: str = getattr(function, "__name__", "").removeprefix("deviant_")
        assert name not in self, name
        self[name] = function
        return function


@contextlib.contextmanager
def refused(*codes: int) -> Iterator[None]:
    """Hold that the block fails with one of ``codes``."""
    right = " or ".join(errno.errorcode[code] for code in codes)
    try:
        yield
    except OSError as exc:
        if exc.errno not in codes:
            raise AssertionError(f"{exc}, where {right} is right") from exc
    else:
        raise AssertionError(f"allowed, where {right} is right")


@contextlib.contextmanager
def opened(fs: OsLike, path: bytes, flags: int, mode: int = 0o666) -> Iterator[int]:
    fd = fs.open(path, flags, mode)
    try:
        yield fd
    finally:
        fs.close(fd)


@contextlib.contextmanager
def masked(fs: OsLike, mask: int) -> Iterator[None]:
    before = fs.umask(mask)
    try:
        yield
    finally:
        fs.umask(before)


def put(fs: OsLike, path: bytes, content: bytes = b"", mode: int = 0o666) -> None:
    """Make or overwrite a file."""
    with opened(fs, path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode) as fd:
        write_all(fs, fd, content)


def write_all(fs: OsLike, fd: int, content: bytes) -> None:
    while content:
        content = content[fs.write(fd, content) :]


def get(fs: OsLike, path: bytes) -> bytes:
    """Return what is in a file."""
    with opened(fs, path, os.O_RDONLY) as fd:
        return read_all(fs, fd)


def read_all(fs: OsLike, fd: int) -> bytes:
    parts: list[bytes] = []
    while part := fs.read(fd, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def names(fs: OsLike, path: bytes) -> Sequence[bytes]:
    """Return the names in a directory, sorted."""
    return sorted(fs.scan(path))


def exists(fs: OsLike, path: bytes) -> bool:
    try:
        fs.lstat(path)
    except FileNotFoundError:
        return False
    return True
