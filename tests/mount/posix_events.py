"""Checks of inotify(7): what a watch tells of changes made through the same mount."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections import Counter
from collections.abc import Iterator, Sequence

from tests.mount.posix import Checks, OsLike, exists, opened, put
from tests.mount.posix_real import checked

EVENTS = Checks()

# sys/inotify.h
IN_ACCESS, IN_MODIFY, IN_CLOSE_WRITE, IN_OPEN = 0x1, 0x2, 0x8, 0x20
IN_DELETE, IN_ALL = 0x200, 0xFFF
_HEADER = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)

Event = tuple[int, bytes]


@contextlib.contextmanager
def watching(path: bytes, mask: int) -> Iterator[int]:
    fd = checked(_libc.inotify_init1(os.O_NONBLOCK))
    try:
        checked(_libc.inotify_add_watch(fd, path, mask))
        yield fd
    finally:
        os.close(fd)


def told(fd: int) -> Sequence[Event]:
    """Return the events so far: what happened, and the name in the folder."""
    events: list[Event] = []
    with contextlib.suppress(BlockingIOError):
        while data := os.read(fd, 1 << 16):
            while data:
                _, mask, _, length = _HEADER.unpack_from(data)
                end = _HEADER.size + length
                events.append((mask, data[_HEADER.size : end].rstrip(b"\0")))
                data = data[end:]
    return events


@EVENTS
def a_watch_tells_of_each_read_and_write(fs: OsLike, root: bytes) -> None:
    """Do what LTP's inotify05 does, a hundred times instead of 16,384."""
    put(fs, root + b"/f", b"x" * 256)
    with watching(root + b"/f", IN_ALL) as watch:
        with opened(fs, root + b"/f", os.O_RDWR) as fd:
            for _ in range(100):
                assert fs.pread(fd, 256, 0) == b"x" * 256
                # The same event twice in a row would be told as one.
                fs.pwrite(fd, b"x" * 256, 0)
        assert Counter(mask for mask, _ in told(watch)) == {
            IN_ACCESS: 100,
            IN_MODIFY: 100,
            IN_OPEN: 1,
            IN_CLOSE_WRITE: 1,
        }


@EVENTS
def a_file_is_gone_once_its_removal_is_told(fs: OsLike, root: bytes) -> None:
    """Do what LTP's inotify11 does, with a hundred files instead of 10,000."""
    with watching(root, IN_DELETE) as watch:
        for n in range(100):
            put(fs, root + b"/%d" % n, b"1")
            fs.unlink(root + b"/%d" % n)
            assert told(watch) == [(IN_DELETE, b"%d" % n)]
            assert not exists(fs, root + b"/%d" % n)
