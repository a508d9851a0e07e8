"""A device in memory behind ``transport.base``, as OpenSSH's sftp-server is one.

Handles survive unlink and rename, names are bytes, the login's umask masks what
``open`` and ``mkdir`` ask for, and an attribute packet holds neither nlink nor
fractions of a second (SFTP version 3). ``calls`` counts round trips by name; what
the Protocol returns beside a result costs none of its own.
"""

from __future__ import annotations

import dataclasses
import stat
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from errno import EBADF, EEXIST, EINVAL, EISDIR, ELOOP, ENOTDIR, EOPNOTSUPP

import trio

from pamfs.errors import LoginError, RemoteError, SessionLostError
from pamfs.model import (
    AttrChange,
    Attrs,
    Caller,
    Data,
    Entry,
    Name,
    RemotePath,
    Space,
    Target,
)
from pamfs.transport.base import (
    Capabilities,
    OpenMode,
    RemoteFile,
    RemoteTree,
    TreeSource,
)
from tests.fakes.memory import MemoryFs, Node, refused

SECOND_NS = 1_000_000_000
EVERYTHING = Capabilities(
    posix_rename=True,
    hardlink=True,
    fsync=True,
    statvfs=True,
    lsetstat=True,
    # What OpenSSH 9.2 names in limits@openssh.com.
    max_read_bytes=261120,
    max_write_bytes=261120,
)


@dataclasses.dataclass(frozen=True)
class Device:
    """How a fake device behaves: its server's wire and its login's umask."""

    capabilities: Capabilities = EVERYTHING
    umask: int = 0
    has_whole_seconds: bool = True
    shows_nlink: bool = False
    home: bytes = b"/"
    latency_s: float = 0.0


class FakeTree:
    """The files of one fake session; several sessions may share one ``fs``."""

    def __init__(self, fs: MemoryFs | None = None, device: Device = Device()) -> None:
        self.fs = fs or MemoryFs()
        self.device = device
        self.calls: Counter[str] = Counter()
        self.open_files = 0
        self.is_lost = False

    def lose(self) -> None:
        """End the session: every call from now on says so."""
        self.is_lost = True

    @property
    def capabilities(self) -> Capabilities:
        return self.device.capabilities

    @property
    def round_trip_s(self) -> float:
        return self.device.latency_s

    async def round_trip(self, name: str) -> None:
        """Count a request and wait as long as its answer takes."""
        self.calls[name] += 1
        self.check_alive()
        await trio.sleep(self.device.latency_s)
        self.check_alive()

    def check_alive(self) -> None:
        if self.is_lost:
            raise SessionLostError("the fake session was lost")

    def need(self, capability: str) -> None:
        """Refuse with EOPNOTSUPP what the device did not name."""
        if not getattr(self.capabilities, capability):
            raise RemoteError(EOPNOTSUPP, capability)

    def on_the_wire(self, when_ns: int) -> int:
        """Return what is left of a time that has been sent: 32 unsigned bits."""
        if not self.device.has_whole_seconds:
            return when_ns
        return min(max(when_ns // SECOND_NS, 0), 0xFFFFFFFF) * SECOND_NS

    def attrs(self, node: Node) -> Attrs:
        """Return what one attribute packet of this device says of ``node``."""
        return Attrs(
            mode=node.mode,
            size=node.size,
            uid=node.uid,
            gid=node.gid,
            atime_ns=self.on_the_wire(node.atime_ns),
            mtime_ns=self.on_the_wire(node.mtime_ns),
            ctime_ns=None if self.device.has_whole_seconds else node.ctime_ns,
            nlink=node.nlink if self.device.shows_nlink else 1,
        )

    async def real_path(self, path: RemotePath) -> RemotePath:
        await self.round_trip("real_path")
        whole = path if path.startswith(b"/") else self.device.home + b"/" + path
        parts: list[bytes] = []
        for part in whole.split(b"/"):
            if part == b"..":
                del parts[-1:]
            elif part not in (b"", b"."):
                parts.append(part)
        return RemotePath(b"/" + b"/".join(parts))

    async def lstat(self, path: RemotePath) -> Attrs:
        await self.round_trip("lstat")
        with _answers("lstat"):
            return self.attrs(self.fs.node(path))

    async def list_dir(self, path: RemotePath) -> list[Entry]:
        await self.round_trip("list_dir")
        with _answers("list_dir"):
            node = self.fs.node(path, follow=True)
            if not node.is_dir:
                raise refused(ENOTDIR)
        return [Entry(Name(n), self.attrs(c)) for n, c in node.entries.items()]

    async def open(
        self, path: RemotePath, mode: OpenMode, permissions: int | None = None
    ) -> tuple[RemoteFile, Attrs]:
        await self.round_trip("open")
        with _answers("open"):
            node = self._opened(path, mode, permissions)
        self.open_files += 1
        return FakeFile(self, node, mode), self.attrs(node)

    def _opened(self, path: bytes, mode: OpenMode, permissions: int | None) -> Node:
        is_exclusive = OpenMode.EXCLUSIVE in mode and OpenMode.CREATE in mode
        place = self.fs.place(path, follow=not is_exclusive)
        if place.node is None:
            if OpenMode.CREATE not in mode:
                place.found()
            wanted = 0o666 if permissions is None else permissions
            masked = wanted & 0o7777 & ~self.device.umask
            return self.fs.add(place, stat.S_IFREG | masked)
        if is_exclusive:
            raise refused(EEXIST)
        if place.node.is_dir and mode != OpenMode.READ:
            raise refused(EISDIR)
        if place.node.is_link:
            raise refused(ELOOP)
        if OpenMode.TRUNCATE in mode:
            place.node.resize(0)
            place.node.touched(self.fs.clock_ns())
        return place.node

    async def mkdir(self, path: RemotePath, permissions: int) -> Attrs:
        await self.round_trip("mkdir")
        with _answers("mkdir"):
            # mkdir(2) drops the set-id bits and the mask; 0o1000 is kept.
            self.fs.mkdir(path, permissions & 0o1777 & ~self.device.umask)
            return self.attrs(self.fs.node(path))

    async def rmdir(self, path: RemotePath) -> None:
        await self.round_trip("rmdir")
        with _answers("rmdir"):
            self.fs.rmdir(path)

    async def unlink(self, path: RemotePath) -> None:
        await self.round_trip("unlink")
        with _answers("unlink"):
            self.fs.unlink(path)

    async def rename(self, old: RemotePath, new: RemotePath, *, replace: bool) -> None:
        await self.round_trip("rename")
        with _answers("rename"):
            self.fs.rename(old, new, replace=replace)

    async def symlink(self, content: bytes, path: RemotePath) -> Attrs:
        await self.round_trip("symlink")
        with _answers("symlink"):
            self.fs.symlink(content, path)
            return self.attrs(self.fs.node(path))

    async def readlink(self, path: RemotePath) -> bytes:
        await self.round_trip("readlink")
        with _answers("readlink"):
            return self.fs.readlink(path)

    async def link(self, old: RemotePath, new: RemotePath) -> Attrs:
        self.need("hardlink")
        await self.round_trip("link")
        with _answers("link"):
            self.fs.link(old, new)
            return self.attrs(self.fs.node(new))

    async def set_attrs(self, path: RemotePath, change: AttrChange) -> Attrs:
        await self.round_trip("set_attrs")
        with _answers("set_attrs"):
            node = self.fs.node(path)
            if node.is_link:
                self.need("lsetstat")
                if change.mode is not None:
                    raise refused(EOPNOTSUPP)  # Linux has no mode on a link
            self.change(node, change)
            return self.attrs(node)

    def change(self, node: Node, change: AttrChange) -> None:
        """Apply ``change``, with the precision of this device's wire."""
        now = self.fs.clock_ns()
        if change.size is not None:
            if node.is_dir:
                raise refused(EISDIR)
            if node.is_link:
                raise refused(EINVAL)
            node.resize(change.size)
            node.mtime_ns = now
        if change.mode is not None:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(change.mode)
        self._own(node, change)
        if change.atime_ns is not None:
            node.atime_ns = self.on_the_wire(change.atime_ns)
        if change.mtime_ns is not None:
            node.mtime_ns = self.on_the_wire(change.mtime_ns)
        node.ctime_ns = now

    @staticmethod
    def _own(node: Node, change: AttrChange) -> None:
        if change.uid is not None:
            node.uid = change.uid
        if change.gid is not None:
            node.gid = change.gid

    async def space(self, path: RemotePath) -> Space:
        self.need("statvfs")
        await self.round_trip("space")
        with _answers("space"):
            self.fs.node(path, follow=True)
        return Space(4096, 1 << 20, 1 << 19, 1 << 19, 1 << 16, 1 << 15, 1 << 15, 255)


class FakeFile:
    """One open file: it holds the node itself, so names do not matter to it."""

    def __init__(self, tree: FakeTree, node: Node, mode: OpenMode) -> None:
        self.tree = tree
        self.node = node
        self.mode = mode
        self.is_open = True

    async def _request(self, name: str) -> None:
        # A server takes requests in order: a close that is sent later is later.
        is_open = self.is_open
        await self.tree.round_trip(name)
        if not is_open:
            raise RemoteError(EBADF, name, "the handle was closed")

    async def read_at(self, offset: int, size: int) -> Data:
        await self._request("read_at")
        if OpenMode.READ not in self.mode:
            raise RemoteError(EBADF, "read_at")
        if self.node.is_dir:
            raise RemoteError(EISDIR, "read_at")
        return bytes(self.node.content[offset : offset + size])

    async def write_at(self, offset: int, data: Data) -> None:
        await self._request("write_at")
        if OpenMode.WRITE not in self.mode:
            raise RemoteError(EBADF, "write_at")
        content = self.node.content
        start = len(content) if OpenMode.APPEND in self.mode else offset
        if data and start > len(content):
            self.node.resize(start)
        content[start : start + len(data)] = data
        self.node.touched(self.tree.fs.clock_ns())

    async def fsync(self) -> None:
        # Without the extension there is nothing to ask (sftp_file.SftpFile.fsync).
        if self.tree.capabilities.fsync:
            await self._request("fsync")

    async def stat(self) -> Attrs:
        await self._request("fstat")
        return self.tree.attrs(self.node)

    async def set_attrs(self, change: AttrChange) -> Attrs:
        await self._request("fset_attrs")
        if change.size is not None and OpenMode.WRITE not in self.mode:
            raise RemoteError(EINVAL, "fset_attrs")  # ftruncate(2)
        with _answers("fset_attrs"):
            self.tree.change(self.node, change)
        return self.tree.attrs(self.node)

    async def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.tree.open_files -= 1
        await self.tree.round_trip("close")


@contextmanager
def _answers(operation: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise RemoteError(exc.errno or EINVAL, operation) from exc


class FakeSource:
    """A pool without a PAM: ``lend`` logs in once for each target and session."""

    def __init__(self, make: Callable[[Target], FakeTree] | None = None) -> None:
        self._make = make or (lambda _: FakeTree())
        self._trees: dict[Target, FakeTree] = {}
        self._locks: dict[Target, trio.Lock] = {}
        self.logins: Counter[Target] = Counter()
        self.lent: Counter[Target] = Counter()
        self.pins: Counter[Target] = Counter()
        self.listings: list[tuple[str, Caller]] = []
        self.callers: list[Caller] = []
        self.read_only: set[Target] = set()
        self.login_s = 0.0
        self.refusal: LoginError | None = None
        self.on_open: Callable[[Target], object] = lambda _: None
        self.asked_ready = 0
        self.reconnects = 0

    @asynccontextmanager
    async def lend(
        self, target: Target, caller: Caller, *, is_reconnect: bool = False
    ) -> AsyncIterator[RemoteTree]:
        self.callers.append(caller)
        self.reconnects += is_reconnect
        async with self._locks.setdefault(target, trio.Lock()):
            tree = self.tree(target) or await self._log_in(target)
        self.lent[target] += 1
        try:
            yield tree
        finally:
            self.lent[target] -= 1

    async def _log_in(self, target: Target) -> FakeTree:
        self.logins[target] += 1
        await trio.sleep(self.login_s)
        if self.refusal is not None:
            raise self.refusal
        tree = self._trees[target] = self._make(target)
        self.on_open(target)
        return tree

    def ready(self, target: Target) -> RemoteTree | None:
        self.asked_ready += 1
        return self.tree(target)

    def note_listing(self, tenant: str, caller: Caller) -> None:
        self.listings.append((tenant, caller))

    def is_read_only(self, target: Target) -> bool:
        return target in self.read_only

    def pin(self, target: Target) -> None:
        self.pins[target] += 1

    def unpin(self, target: Target) -> None:
        self.pins[target] -= 1

    def tree(self, target: Target) -> FakeTree | None:
        """Return the live session of ``target``, as ``ready`` does."""
        tree = self._trees.get(target)
        return None if tree is None or tree.is_lost else tree


def _is_remote(tree: FakeTree, file: FakeFile, source: FakeSource) -> None:
    """Have mypy hold the fakes to the Protocols."""
    _: tuple[RemoteTree, RemoteFile, TreeSource] = (tree, file, source)
