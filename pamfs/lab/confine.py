"""Paths of a device, resolved by the kernel inside the device's folder.

``openat2`` with ``RESOLVE_IN_ROOT`` (openat2(2), Linux 5.6) treats the folder
as the root for absolute links and for ``..``: nothing escapes, and links are
stored and shown exactly as they are given. There is no race to win.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SYS_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10

_libc = ctypes.CDLL(None, use_errno=True)


class Root:
    """A folder that is the whole world of a device; paths are bytes."""

    def __init__(self, folder: str) -> None:
        self._path = os.fsencode(os.path.realpath(folder))
        self._fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._fd)

    def open(self, path: bytes, flags: int, mode: int = 0) -> int:
        """Return a descriptor of ``path``; links are followed inside the folder.

        Raises ``OSError`` as open(2) does.
        """
        if b"\0" in path:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if not flags & os.O_CREAT:
            mode = 0  # openat2 refuses a mode that open(2) would ignore
        resolve = _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS
        how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, resolve)
        fd: int = _libc.syscall(_SYS_OPENAT2, self._fd, path or b".", how, len(how))
        if fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return fd

    @contextmanager
    def at(self, path: bytes, *, follow: bool) -> Iterator[int]:
        """Hold ``path`` itself, unopened: for fstat and ``/proc/self/fd``."""
        fd = self.open(path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Hold the folder of ``path``, and its last name, for the ``*at`` calls."""
        head, _, name = path.rstrip(b"/").rpartition(b"/")
        if name in {b"", b".", b".."}:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if b"\0" in name:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fd = self.open(head or b"/", os.O_PATH | os.O_DIRECTORY)
        try:
            yield fd, name
        finally:
            os.close(fd)

    def real(self, path: bytes) -> bytes:
        """Return ``path`` without links and dots; its last name may be missing."""
        try:
            with self.at(path, follow=True) as fd:
                return self._shown(fd)
        except FileNotFoundError:
            with self.parent(path) as (fd, name):
                return self._shown(fd).rstrip(b"/") + b"/" + name

    def _shown(self, fd: int) -> bytes:
        real = os.readlink(b"/proc/self/fd/%d" % fd)  # noqa: PTH115 - bytes
        return real.removeprefix(self._path.rstrip(b"/")) or b"/"
