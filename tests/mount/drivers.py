"""The in-process driver: checks run in a thread, their calls on ``Operations``.

A kernel of a few hundred lines stands between them (kernel_*.py). It caches
nothing, counts lookups as the real one does, and gives all of them back at the
end; then nothing may be left in the tree, on the device or in the pool.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyfuse3
import trio
import trio.testing

from pamfs.config import (
    Config,
    FilesConfig,
    LoginConfig,
    ProxyConfig,
    TargetConfig,
    TenantConfig,
)
from pamfs.fuse.operations import Operations
from pamfs.model import Name, Target
from pamfs.naming.dialects import Dialect
from pamfs.vfs.names.attributes import MountOwner
from pamfs.vfs.names.namespace import Namespace
from pamfs.vfs.tree import Tree
from tests.fakes.memory import MemoryFs
from tests.fakes.remote import Device, FakeSource, FakeTree
from tests.mount.kernel_files import OpenFiles
from tests.mount.kernel_names import DOTS, Names
from tests.mount.kernel_paths import Asker, Paths, is_dir, refused
from tests.mount.posix import Check, OsLike, SpaceLike, StatLike

R = TypeVar("R")
TARGET = Target("acme", "root", "web01")
TARGET_PATH = b"/acme/root@web01"


class InProcessOs:
    """``OsLike`` for a thread: each call is one trip to the trio side."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._files = OpenFiles(paths)
        self._names = Names(paths)

    def _do(self, call: Callable[[], Awaitable[R]]) -> R:
        try:
            return trio.from_thread.run(call)
        except pyfuse3.FUSEError as exc:
            raise OSError(exc.errno, os.strerror(exc.errno)) from exc

    def open(self, path: bytes, flags: int, mode: int = 0o777, /) -> int:
        return self._do(lambda: self._files.open(path, flags, mode))

    def close(self, fd: int, /) -> None:
        self._do(lambda: self._files.close(fd))

    def dup(self, fd: int, /) -> int:
        return self._files.dup(fd)

    def read(self, fd: int, size: int, /) -> bytes:
        return self._do(lambda: self._files.read(fd, size, None))

    def write(self, fd: int, data: bytes, /) -> int:
        return self._do(lambda: self._files.write(fd, data, None))

    def pread(self, fd: int, size: int, offset: int, /) -> bytes:
        return self._do(lambda: self._files.read(fd, size, offset))

    def pwrite(self, fd: int, data: bytes, offset: int, /) -> int:
        return self._do(lambda: self._files.write(fd, data, offset))

    def lseek(self, fd: int, position: int, whence: int, /) -> int:
        return self._do(lambda: self._files.seek(fd, position, whence))

    def fsync(self, fd: int, /) -> None:
        self._do(lambda: self._files.sync(fd))

    def fstat(self, fd: int, /) -> StatLike:
        ino = self._files.find(fd).ino
        return self._do(lambda: self._paths.ops.getattr(ino, self._paths.asker.ctx))

    def ftruncate(self, fd: int, size: int, /) -> None:
        file = self._files.find(fd)
        if file.is_dir or not file.can_write:
            raise refused(errno.EINVAL)
        self._do(lambda: self._names.change(file.ino, file.fh, size=size))
        file.size = size

    def fchmod(self, fd: int, mode: int, /) -> None:
        file = self._files.find(fd)
        self._do(lambda: self._names.change(file.ino, file.fh, mode=mode))

    def stat(self, path: bytes, /) -> StatLike:
        return self._do(lambda: self._names.find(path, follow=True))

    def lstat(self, path: bytes, /) -> StatLike:
        return self._do(lambda: self._names.find(path, follow=False))

    def truncate(self, path: bytes, size: int, /) -> None:
        self._do(lambda: self._names.truncate(path, size))

    def chmod(self, path: bytes, mode: int, /) -> None:
        self._do(lambda: self._names.chmod(path, mode))

    def chown(self, path: bytes, uid: int, gid: int, /) -> None:
        self._do(lambda: self._names.chown(path, uid, gid, follow=True))

    def lchown(self, path: bytes, uid: int, gid: int, /) -> None:
        self._do(lambda: self._names.chown(path, uid, gid, follow=False))

    def access(self, path: bytes, mode: int, /) -> bool:
        try:
            found = self._do(lambda: self._names.find(path, follow=True))
        except OSError:
            return False
        ops, ctx = self._paths.ops, self._paths.asker.ctx
        wanted = pyfuse3.ModeT(mode)
        return not mode or self._do(lambda: ops.access(found.st_ino, wanted, ctx))

    def statvfs(self, path: bytes, /) -> SpaceLike:
        self.stat(path)
        return self._do(lambda: self._paths.ops.statfs(self._paths.asker.ctx))

    def mkdir(self, path: bytes, mode: int = 0o777, /) -> None:
        self._do(lambda: self._names.mkdir(path, mode))

    def rmdir(self, path: bytes, /) -> None:
        self._do(lambda: self._names.rmdir(path))

    def unlink(self, path: bytes, /) -> None:
        self._do(lambda: self._names.unlink(path))

    def rename(self, old: bytes, new: bytes, /) -> None:
        self._do(lambda: self._names.rename(old, new, 0))

    def rename2(self, old: bytes, new: bytes, flags: int, /) -> None:
        self._do(lambda: self._names.rename(old, new, flags))

    def link(self, old: bytes, new: bytes, /) -> None:
        self._do(lambda: self._names.link(old, new))

    def symlink(self, content: bytes, path: bytes, /) -> None:
        self._do(lambda: self._names.symlink(content, path))

    def readlink(self, path: bytes, /) -> bytes:
        return self._do(lambda: self._names.readlink(path))

    def mknod(self, path: bytes, mode: int, /) -> None:
        self._do(lambda: self._names.mknod(path, mode))

    def umask(self, mask: int, /) -> int:
        before, self._paths.asker.umask = self._paths.asker.umask, mask
        return before

    def utimens(
        self, path: bytes, atime_ns: int, mtime_ns: int, *, follow: bool = True
    ) -> None:
        self._do(lambda: self._names.utimens(path, atime_ns, mtime_ns, follow=follow))

    def scan(self, path: bytes, /) -> Iterator[bytes]:
        if not is_dir(self._do(lambda: self._names.find(path, follow=True))):
            raise refused(errno.ENOTDIR)
        fd = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        fh, position = self._files.find(fd).fh, 0
        try:
            while True:
                here = position
                batch, position = self._do(
                    lambda: self._names.read_directory(fh, here)  # noqa: B023 - run at once
                )
                if not batch:
                    return
                yield from (name for name in batch if name not in DOTS)
        finally:
            self.close(fd)


@dataclass
class InProcess:
    """A tree over a fake device, as the kernel would use it."""

    tree: Tree
    source: FakeSource
    paths: Paths

    async def run(self, check: Check) -> None:
        """Run ``check`` in a thread, in a new folder of the target."""
        fs: OsLike = InProcessOs(self.paths)
        root = TARGET_PATH + b"/here"
        await trio.to_thread.run_sync(fs.mkdir, root)
        await trio.testing.wait_all_tasks_blocked()
        await trio.to_thread.run_sync(check, fs, root)

    def left_over(self) -> list[str]:
        """Return what is still held, now that everything was given back."""
        held = self.tree.inodes.statistics()
        device = self.source.tree(TARGET)
        counts = {
            "inodes": held.inodes - 1,  # the root is always held, once
            "lookups": held.lookups - 1,
            "open files": len(self.tree.handles.files()),
            "open directories": len(self.tree.handles._directories),
            "loans": self.source.lent[TARGET],
            "pins": self.source.pins[TARGET],
            "remote handles": device.open_files if device else 0,
            "logins beyond one": self.source.logins[TARGET] - 1,
        }
        return [f"{count} {name}" for name, count in counts.items() if count]


@asynccontextmanager
async def in_process(
    device: Device,
    new_tree: Callable[[MemoryFs, Device], FakeTree] = FakeTree,
    attr_timeout_s: float = 3.0,
) -> AsyncIterator[InProcess]:
    """Build a tree over ``device``, and measure its room as ``app`` does."""
    fs = MemoryFs()
    source = FakeSource(lambda _: new_tree(fs, device))
    listed = TargetConfig(Name(b"root@web01"), TARGET)
    tenant = TenantConfig(
        name="acme",
        proxy=ProxyConfig(host="127.0.0.1", port=22),
        login=LoginConfig(dialect=Dialect("", "<credential>"), operator="alice"),
        files=FilesConfig(targets=(listed,), attr_timeout_s=attr_timeout_s),
    )
    config = Config(Path("config.toml"), {"acme": tenant})
    me = MountOwner(os.geteuid(), os.getegid(), 0)
    tree = Tree(Namespace(config), source, me)
    source.on_open = tree.session_opened
    operations = Operations(tree, within_s=30, invalidate=lambda _: None)
    paths = Paths(operations, Asker(os.getpid(), me.uid, me.gid))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tree.keep_measured)
        yield InProcess(tree, source, paths)
        nursery.cancel_scope.cancel()
