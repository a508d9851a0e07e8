"""An SFTP version 3 server over one folder, with OpenSSH's answers.

It takes bytes and returns bytes; the channel belongs to its caller. What the draft
leaves open is answered as OpenSSH's sftp-server does: the order of SYMLINK's arguments,
one FAILURE for most errors, a RENAME that never replaces.

``Root`` resolves a device's paths inside the device's folder by ``openat2`` with
``RESOLVE_IN_ROOT`` (openat2(2), Linux 5.6): the kernel treats the folder as the root
for absolute links and for ``..``, without a race. Links are stored as they are given.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import stat
import struct
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from pamfs.lab.wire import (
    AttrsChange,
    BadMessageError,
    Open,
    Packet,
    PacketReader,
    Status,
    attrs,
    reply,
    space,
    status,
    status_of,
    string,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def apply(where: int | str, change: AttrsChange) -> None:
    """Change a descriptor or a path, in OpenSSH's order."""
    if change.size is not None:
        os.truncate(where, change.size)
    if change.permissions is not None:
        os.chmod(where, change.permissions)  # noqa: PTH101 - may be a descriptor
    if change.times is not None:
        os.utime(where, change.times)
    if change.owner is not None:
        os.chown(where, *change.owner)


def apply_to_link(folder: int, name: bytes, change: AttrsChange) -> None:
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
        yield b"..", here  # nothing above the root is shown
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


MAX_PACKET: Final = 256 * 1024  # OpenSSH: SFTP_MAX_MSG_LENGTH
MAX_TRANSFER: Final = MAX_PACKET - 1024  # what its limits@openssh.com says
_NAMES_PER_READDIR: Final = 100  # as OpenSSH
_HANDLES: Final = 1000

EXTENSIONS: Final[dict[bytes, bytes]] = {
    b"posix-rename@openssh.com": b"1",
    b"statvfs@openssh.com": b"2",
    b"fstatvfs@openssh.com": b"2",
    b"hardlink@openssh.com": b"1",
    b"fsync@openssh.com": b"1",
    b"lsetstat@openssh.com": b"1",
    b"limits@openssh.com": b"1",
    b"copy-data": b"1",
}


class NoSuchRequestError(Exception):
    """A request that this server does not have."""


class SftpServer:
    """One SFTP session; ``home`` is where relative paths begin.

    Invariant: every descriptor in ``_files`` is open until CLOSE or ``close()``.
    """

    def __init__(self, root: Root, home: bytes, extensions: frozenset[bytes]) -> None:
        self._root = root
        self._home = home
        self._extensions = extensions
        self._files: dict[bytes, int] = {}
        self._folders: dict[bytes, Iterator[tuple[bytes, os.stat_result]]] = {}
        self._numbers = itertools.count()

    def close(self) -> None:
        """Close whatever the client left open."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()
        self._folders.clear()

    def answer(self, packet: memoryview) -> bytes:
        """Return the answer to one packet (without its length field)."""
        kind = packet[0]
        reader = PacketReader(packet[1:])
        if kind == Packet.INIT:
            return self._version()
        request = reader.u32()
        try:
            return self._dispatch(kind, request, reader)
        except BadMessageError:
            return status(request, Status.BAD_MESSAGE)
        except NoSuchRequestError:
            return status(request, Status.OP_UNSUPPORTED)
        except EOFError:
            return status(request, Status.EOF)
        except OSError as exc:
            return status(request, status_of(exc))

    def _version(self) -> bytes:
        body = b"".join(
            string(name) + string(version)
            for name, version in EXTENSIONS.items()
            if name in self._extensions
        )
        return struct.pack(">IBI", 5 + len(body), Packet.VERSION, 3) + body

    def _dispatch(self, kind: int, request: int, reader: PacketReader) -> bytes:
        if kind == Packet.EXTENDED:
            name = reader.string()
            extended = _EXTENDED.get(name)
            if extended is None or name not in self._extensions:
                raise NoSuchRequestError
            answer = extended(self, reader)
        else:
            plain = _PLAIN.get(kind)
            if plain is None:
                raise NoSuchRequestError
            answer = plain(self, reader)
        if answer is None:
            return status(request, Status.OK)
        return reply(answer[0], request, answer[1])

    # Paths and handles

    def _path(self, reader: PacketReader) -> bytes:
        path = reader.string()
        return path if path.startswith(b"/") else self._home + b"/" + path

    def _keep(self) -> bytes:
        if len(self._files) + len(self._folders) >= _HANDLES:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return struct.pack(">I", next(self._numbers))

    def _fd(self, reader: PacketReader) -> int:
        fd = self._files.get(reader.string())
        if fd is None:
            raise OSError(errno.EIO, "no such handle")
        return fd

    # Files

    def open(self, reader: PacketReader) -> tuple[Packet, bytes]:
        """OPEN."""
        path, flags, change = self._path(reader), Open(reader.u32()), reader.change()
        handle = self._keep()
        mode = 0o666 if change.permissions is None else change.permissions
        self._files[handle] = self._root.open(path, open_flags(flags), mode)
        return Packet.HANDLE, string(handle)

    def close_handle(self, reader: PacketReader) -> None:
        """CLOSE."""
        handle = reader.string()
        if self._folders.pop(handle, None) is not None:
            return
        fd = self._files.pop(handle, None)
        if fd is None:
            raise OSError(errno.EBADF, "no such handle")
        os.close(fd)

    def read(self, reader: PacketReader) -> tuple[Packet, bytes]:
        """READ."""
        fd, offset, size = self._fd(reader), reader.u64(), reader.u32()
        data = os.pread(fd, min(size, MAX_TRANSFER), offset)
        if not data:
            raise EOFError
        return Packet.DATA, string(data)

    def write(self, reader: PacketReader) -> None:
        """WRITE; a file opened with APPEND grows at its end whatever the offset."""
        fd, offset, data = self._fd(reader), reader.u64(), reader.view()
        while data:
            written = os.pwrite(fd, data, offset)
            data, offset = data[written:], offset + written

    def fstat(self, reader: PacketReader) -> tuple[Packet, bytes]:
        """FSTAT."""
        return Packet.ATTRS, attrs(os.fstat(self._fd(reader)))

    def fsetstat(self, reader: PacketReader) -> None:
        """FSETSTAT."""
        apply(self._fd(reader), reader.change())

    def fsync(self, reader: PacketReader) -> None:
        """fsync@openssh.com."""
        os.fsync(self._fd(reader))

    def copy_data(self, reader: PacketReader) -> None:
        """copy-data (draft-ietf-secsh-filexfer-extensions-00 section 7)."""
        source, start, size = self._fd(reader), reader.u64(), reader.u64()
        sink, at = self._fd(reader), reader.u64()
        left = size or os.fstat(source).st_size
        while left and (data := os.pread(source, min(left, MAX_TRANSFER), start)):
            at += os.pwrite(sink, data, at)
            start, left = start + len(data), left - len(data)

    # Attributes

    def lstat(self, reader: PacketReader) -> tuple[Packet, bytes]:
        """LSTAT."""
        with self._root.at(self._path(reader), follow=False) as fd:
            return Packet.ATTRS, attrs(os.fstat(fd))

    def stat(self, reader: PacketReader) -> tuple[Packet, bytes]:
        """STAT."""
        with self._root.at(self._path(reader), follow=True) as fd:
            return Packet.ATTRS, attrs(os.fstat(fd))

    def setstat(self, reader: PacketReader) -> None:
        """SETSTAT; follows links."""
        with self._root.at(self._path(reader), follow=True) as fd:
            apply(f"/proc/self/fd/{fd}", reader.change())

    def lsetstat(self, reader: PacketReader) -> None:
        """lsetstat@openssh.com; changes a link itself."""
        path, change = self._path(reader), reader.change()
        if change.size is not None:
            raise BadMessageError
        with self._root.at(path, follow=False) as fd:
            is_link = stat.S_ISLNK(os.fstat(fd).st_mode)
            if not is_link:
                apply(f"/proc/self/fd/{fd}", change)
                return
        if change.permissions is not None:
            raise OSError(errno.EOPNOTSUPP, "a link has no mode of its own")
        with self._root.parent(path) as (folder, name):
            apply_to_link(folder, name, change)

    def statvfs(self, reader: PacketReader) -> tuple[Packet, bytes]:
        """statvfs@openssh.com."""
        with self._root.at(self._path(reader), follow=True) as fd:
            return Packet.EXTENDED_REPLY, space(os.statvfs(fd))

    def fstatvfs(self, reader: PacketReader) -> tuple[Packet, bytes]:
        """fstatvfs@openssh.com."""
        return Packet.EXTENDED_REPLY, space(os.statvfs(self._fd(reader)))

    # Names

    def opendir(self, reader: PacketReader) -> tuple[Packet, bytes]:
        """OPENDIR."""
        path, handle = self._path(reader), self._keep()
        fd = self._root.open(path, os.O_RDONLY | os.O_DIRECTORY)
        entries = entries_of(fd)
        # Started, so that dropping it closes the descriptor even if it is never read.
        self._folders[handle] = itertools.chain([next(entries)], entries)
        return Packet.HANDLE, string(handle)

    def readdir(self, reader: PacketReader) -> tuple[Packet, bytes]:
        """READDIR."""
        entries = self._folders.get(reader.string())
        if entries is None:
            raise OSError(errno.EIO, "no such handle")
        found = list(itertools.islice(entries, _NAMES_PER_READDIR))
        if not found:
            raise EOFError
        body = b"".join(
            string(name) + string(long_name(name, st)) + attrs(st) for name, st in found
        )
        return Packet.NAME, len(found).to_bytes(4, "big") + body

    def remove(self, reader: PacketReader) -> None:
        """REMOVE."""
        with self._root.parent(self._path(reader)) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def mkdir(self, reader: PacketReader) -> None:
        """MKDIR."""
        path, change = self._path(reader), reader.change()
        mode = 0o777 if change.permissions is None else change.permissions
        with self._root.parent(path) as (folder, name):
            os.mkdir(name, mode, dir_fd=folder)

    def rmdir(self, reader: PacketReader) -> None:
        """RMDIR."""
        with self._root.parent(self._path(reader)) as (folder, name):
            os.rmdir(name, dir_fd=folder)

    def realpath(self, reader: PacketReader) -> tuple[Packet, bytes]:
        """REALPATH."""
        real = string(self._root.real(self._path(reader)))
        no_attrs = struct.pack(">I", 0)
        return Packet.NAME, b"\0\0\0\1" + real + real + no_attrs

    def readlink(self, reader: PacketReader) -> tuple[Packet, bytes]:
        """READLINK: exactly what is stored."""
        with self._root.parent(self._path(reader)) as (folder, name):
            link = string(os.readlink(name, dir_fd=folder))
        return Packet.NAME, b"\0\0\0\1" + link + link + struct.pack(">I", 0)

    def symlink(self, reader: PacketReader) -> None:
        """SYMLINK: what the link holds comes first (OpenSSH, PROTOCOL 4.1)."""
        link, path = reader.string(), self._path(reader)
        if b"\0" in link:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        with self._root.parent(path) as (folder, name):
            os.symlink(link, name, dir_fd=folder)

    def rename(self, reader: PacketReader) -> None:
        """RENAME: never replaces (OpenSSH links and unlinks a regular file)."""
        old, new = self._path(reader), self._path(reader)
        with self._root.parent(old) as (source, a), self._root.parent(new) as (sink, b):
            if exists(sink, b):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            os.rename(a, b, src_dir_fd=source, dst_dir_fd=sink)

    def posix_rename(self, reader: PacketReader) -> None:
        """posix-rename@openssh.com."""
        old, new = self._path(reader), self._path(reader)
        with self._root.parent(old) as (source, a), self._root.parent(new) as (sink, b):
            os.rename(a, b, src_dir_fd=source, dst_dir_fd=sink)

    def hardlink(self, reader: PacketReader) -> None:
        """hardlink@openssh.com."""
        old, new = self._path(reader), self._path(reader)
        with self._root.parent(old) as (source, a), self._root.parent(new) as (sink, b):
            os.link(a, b, src_dir_fd=source, dst_dir_fd=sink, follow_symlinks=False)

    def limits(self, _reader: PacketReader) -> tuple[Packet, bytes]:
        """limits@openssh.com."""
        found = struct.pack(">4Q", MAX_PACKET, MAX_TRANSFER, MAX_TRANSFER, _HANDLES)
        return Packet.EXTENDED_REPLY, found


if TYPE_CHECKING:
    Request = Callable[[SftpServer, PacketReader], tuple[Packet, bytes] | None]

_PLAIN: Final[dict[int, Request]] = {
    Packet.OPEN: SftpServer.open,
    Packet.CLOSE: SftpServer.close_handle,
    Packet.READ: SftpServer.read,
    Packet.WRITE: SftpServer.write,
    Packet.LSTAT: SftpServer.lstat,
    Packet.FSTAT: SftpServer.fstat,
    Packet.SETSTAT: SftpServer.setstat,
    Packet.FSETSTAT: SftpServer.fsetstat,
    Packet.OPENDIR: SftpServer.opendir,
    Packet.READDIR: SftpServer.readdir,
    Packet.REMOVE: SftpServer.remove,
    Packet.MKDIR: SftpServer.mkdir,
    Packet.RMDIR: SftpServer.rmdir,
    Packet.REALPATH: SftpServer.realpath,
    Packet.STAT: SftpServer.stat,
    Packet.RENAME: SftpServer.rename,
    Packet.READLINK: SftpServer.readlink,
    Packet.SYMLINK: SftpServer.symlink,
}

_EXTENDED: Final[dict[bytes, Request]] = {
    b"posix-rename@openssh.com": SftpServer.posix_rename,
    b"statvfs@openssh.com": SftpServer.statvfs,
    b"fstatvfs@openssh.com": SftpServer.fstatvfs,
    b"hardlink@openssh.com": SftpServer.hardlink,
    b"fsync@openssh.com": SftpServer.fsync,
    b"lsetstat@openssh.com": SftpServer.lsetstat,
    b"limits@openssh.com": SftpServer.limits,
    b"copy-data": SftpServer.copy_data,
}
