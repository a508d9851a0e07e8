"""Checks that need a kernel: memory maps, locks, positions in a directory.

These take ``fs`` as the others do, and use ``os`` itself where ``OsLike`` ends;
the in-process driver has no kernel and does not run them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import stat
import subprocess
import sys

from tests.mount.posix import Checks, OsLike, get, names, opened, put, refused

KERNEL = Checks()
DEVIANT_KERNEL = Checks()

RW = os.O_RDWR | os.O_CREAT


@KERNEL
def a_map_reads_the_file(fs: OsLike, root: bytes) -> None:
    content = bytes(range(256)) * 100
    put(fs, root + b"/f", content)
    with opened(fs, root + b"/f", os.O_RDONLY) as fd:
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as view:
            assert view[:] == content
        with mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE) as view:
            view[:3] = b"own"
    assert get(fs, root + b"/f") == content


@KERNEL
def a_shared_map_writes_the_file(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", bytes(10_000))
    with opened(fs, root + b"/f", os.O_RDWR) as fd:
        with mmap.mmap(fd, 0) as view:
            view[5000:5005] = b"hello"
            view.flush()
            assert fs.pread(fd, 5, 5000) == b"hello"
            view[9990:9995] = b"after"
        fs.fsync(fd)
    assert get(fs, root + b"/f")[5000:5005] == b"hello"
    assert get(fs, root + b"/f")[9990:9995] == b"after"


@KERNEL
def a_shared_map_outlives_its_handle(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", bytes(5000))
    fd = fs.open(root + b"/f", os.O_RDWR)
    view = mmap.mmap(fd, 0)
    fs.close(fd)
    view[:4] = b"late"
    view.flush()
    view.close()
    assert get(fs, root + b"/f")[:4] == b"late"


@KERNEL
def a_map_sees_what_is_written(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", bytes(5000))
    with (
        opened(fs, root + b"/f", os.O_RDWR) as fd,
        mmap.mmap(fd, 0, prot=mmap.PROT_READ) as view,
    ):
        assert view[100:104] == bytes(4)
        fs.pwrite(fd, b"seen", 100)
        assert view[100:104] == b"seen"


@KERNEL
def space_can_be_set_aside(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        os.posix_fallocate(fd, 0, 20_000)
        assert fs.fstat(fd).st_size == 20_000
        assert fs.pread(fd, 10, 19_990) == bytes(10)


def _fallocate(fd: int, size: int) -> None:
    if _libc.fallocate(fd, 0, ctypes.c_long(0), ctypes.c_long(size)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@KERNEL
def blocks_can_be_reserved(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        _fallocate(fd, 20_000)
        assert fs.fstat(fd).st_size == 20_000


@DEVIANT_KERNEL
def deviant_blocks_can_be_reserved(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        with refused(errno.EOPNOTSUPP):
            _fallocate(fd, 20_000)
        assert fs.fstat(fd).st_size == 0


@KERNEL
def a_range_can_be_copied(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/from", bytes(range(256)) * 40)
    with (
        opened(fs, root + b"/from", os.O_RDONLY) as source,
        opened(fs, root + b"/to", RW) as sink,
    ):
        left = 256 * 40
        while left:
            left -= os.copy_file_range(source, sink, left)
    assert get(fs, root + b"/to") == bytes(range(256)) * 40


@KERNEL
def data_can_be_sought(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", b"x" * 10_000)
    with opened(fs, root + b"/f", os.O_RDONLY) as fd:
        assert fs.lseek(fd, 100, os.SEEK_DATA) == 100
        assert fs.lseek(fd, 100, os.SEEK_HOLE) == 10_000
        with refused(errno.ENXIO):
            fs.lseek(fd, 20_000, os.SEEK_DATA)


@KERNEL
def a_record_lock_holds_another_process_off(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert _tries_to_lock(root + b"/f", "lockf") == b"refused"
        fcntl.lockf(fd, fcntl.LOCK_UN)
        assert _tries_to_lock(root + b"/f", "lockf") == b"locked"


@KERNEL
def a_whole_file_lock_holds_another_process_off(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert _tries_to_lock(root + b"/f", "flock") == b"refused"
        fcntl.flock(fd, fcntl.LOCK_UN)
        assert _tries_to_lock(root + b"/f", "flock") == b"locked"


_TRY = """
import fcntl, os, sys
fd = os.open(os.fsencode(sys.argv[1]), os.O_RDWR)
try:
    getattr(fcntl, sys.argv[2])(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("refused", end="")
else:
    print("locked", end="")
"""


def _tries_to_lock(path: bytes, how: str) -> bytes:
    command = [sys.executable, "-c", _TRY, os.fsdecode(path), how]
    return subprocess.run(command, check=True, timeout=100, stdout=-1).stdout


@KERNEL
def a_file_can_be_made_without_a_name(fs: OsLike, root: bytes) -> None:
    with opened(fs, root, os.O_RDWR | os.O_TMPFILE) as fd:
        fs.write(fd, b"nameless")
        assert fs.pread(fd, 10, 0) == b"nameless"


@DEVIANT_KERNEL
def deviant_a_file_can_be_made_without_a_name(fs: OsLike, root: bytes) -> None:
    with refused(errno.EOPNOTSUPP), opened(fs, root, os.O_RDWR | os.O_TMPFILE):
        pass


@KERNEL
def users_attributes_are_stored(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    os.setxattr(root + b"/f", b"user.foo", b"bar")
    assert os.getxattr(root + b"/f", b"user.foo") == b"bar"
    os.removexattr(root + b"/f", b"user.foo")


@DEVIANT_KERNEL
def deviant_users_attributes_are_stored(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    with refused(errno.EOPNOTSUPP):
        os.setxattr(root + b"/f", b"user.foo", b"bar")
    with refused(errno.ENODATA, errno.EOPNOTSUPP):
        os.getxattr(root + b"/f", b"user.foo")


@KERNEL
def a_directory_can_be_rewound(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/a")
    with opened_stream(root) as stream:
        assert stream.names() == [b"a"]
        put(fs, root + b"/b")
        stream.rewind()
        assert stream.names() == [b"a", b"b"]


@KERNEL
def a_position_in_a_directory_is_kept(fs: OsLike, root: bytes) -> None:
    for n in range(400):
        fs.symlink(b"x", root + b"/%03d" % n)
    with opened_stream(root) as stream:
        first = [stream.next() or b"" for _ in range(150)]
        here = stream.tell()
        rest = stream.names()
        stream.seek(here)
        assert stream.names() == rest
    assert sorted([*first, *rest]) == names(fs, root)


@KERNEL
def a_removed_folder_can_be_left(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/d")
    code = "import os; os.rmdir('../d'); os.chdir('..'); os.mkdir('d')"
    subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=100, cwd=root + b"/d"
    )
    assert names(fs, root) == [b"d"]


@KERNEL
def a_program_on_it_can_be_run(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/script", b"#!/bin/sh\necho ran $1\n", 0o755)
    command = [root + b"/script", b"well"]
    found = subprocess.run(command, check=True, timeout=100, stdout=-1)
    assert found.stdout == b"ran well\n"
    fs.chmod(root + b"/script", 0o644)
    with refused(errno.EACCES):
        subprocess.run(command, check=True, timeout=100)


@KERNEL
def a_descriptor_can_be_opened_again(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        fs.write(fd, b"content")
        with opened(fs, b"/proc/self/fd/%d" % fd, os.O_RDONLY) as again:
            assert fs.read(again, 10) == b"content"
            assert stat.S_ISREG(fs.fstat(again).st_mode)


@KERNEL
def a_descriptor_can_be_opened_again_without_a_name(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        fs.write(fd, b"content")
        fs.unlink(root + b"/f")
        with opened(fs, b"/proc/self/fd/%d" % fd, os.O_RDONLY) as again:
            assert fs.read(again, 10) == b"content"


@DEVIANT_KERNEL
def deviant_a_descriptor_can_be_opened_again_without_a_name(
    fs: OsLike, root: bytes
) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        fs.write(fd, b"content")
        fs.unlink(root + b"/f")
        with (
            refused(errno.ENOENT),
            opened(fs, b"/proc/self/fd/%d" % fd, os.O_RDONLY),
        ):
            pass
        assert fs.pread(fd, 10, 0) == b"content"


@KERNEL
def a_mode_of_zero_refuses_all_but_root(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", b"content")
    fs.mkdir(root + b"/d")
    put(fs, root + b"/d/f", b"content")
    fs.chmod(root + b"/f", 0)
    fs.chmod(root + b"/d", 0)
    if os.geteuid() == 0:
        assert get(fs, root + b"/f") == get(fs, root + b"/d/f") == b"content"
        return
    with refused(errno.EACCES):
        fs.open(root + b"/f", os.O_RDONLY)
    with refused(errno.EACCES):
        fs.open(root + b"/f", os.O_WRONLY | os.O_TRUNC)
    with refused(errno.EACCES):
        fs.open(root + b"/d/f", os.O_RDONLY)
    with refused(errno.EACCES):
        list(fs.scan(root + b"/d"))
    fs.chmod(root + b"/d", 0o500)
    with refused(errno.EACCES):
        fs.open(root + b"/d/g", os.O_WRONLY | os.O_CREAT)
    with refused(errno.EACCES):
        fs.unlink(root + b"/d/f")
    fs.chmod(root + b"/d", 0o700)


@KERNEL
def a_hole_takes_no_room(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        fs.ftruncate(fd, 1 << 22)
        assert os.fstat(fd).st_blocks * 512 < 1 << 20


@DEVIANT_KERNEL
def deviant_a_hole_takes_no_room(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        fs.ftruncate(fd, 1 << 22)
        assert os.fstat(fd).st_blocks * 512 == 1 << 22


# -- opendir(3), which the module os does not have -------------------------


class _Dirent(ctypes.Structure):
    _fields_ = (
        ("ino", ctypes.c_uint64),
        ("off", ctypes.c_int64),
        ("reclen", ctypes.c_ushort),
        ("type", ctypes.c_ubyte),
        ("name", ctypes.c_char * 256),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.opendir.restype = ctypes.c_void_p
_libc.readdir.restype = ctypes.POINTER(_Dirent)
_libc.telldir.restype = ctypes.c_long


class Stream:
    """A directory stream of the C library."""

    def __init__(self, path: bytes) -> None:
        address = _libc.opendir(path)
        assert address
        self._stream = ctypes.c_void_p(address)

    def next(self) -> bytes | None:
        """Return the next name that is neither ``.`` nor ``..``."""
        while found := _libc.readdir(self._stream):
            name: bytes = found.contents.name
            if name not in {b".", b".."}:
                return name
        return None

    def names(self) -> list[bytes]:
        """Return the names from here on, sorted."""
        return sorted(iter(self.next, None))

    def numbers(self) -> dict[bytes, int]:
        """Return the inode number of each name from here on, dots included."""
        found: dict[bytes, int] = {}
        while entry := _libc.readdir(self._stream):
            found[entry.contents.name] = entry.contents.ino
        return found

    def rewind(self) -> None:
        _libc.rewinddir(self._stream)

    def tell(self) -> int:
        return int(_libc.telldir(self._stream))

    def seek(self, position: int) -> None:
        _libc.seekdir(self._stream, ctypes.c_long(position))

    def close(self) -> None:
        _libc.closedir(self._stream)


def opened_stream(path: bytes) -> contextlib.closing[Stream]:
    return contextlib.closing(Stream(path))
