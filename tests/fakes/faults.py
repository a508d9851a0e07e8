"""Devices that misbehave, each in one way that has a name.

Each is a ``FakeTree``, or a ``FakeFile`` that ``WithFiles`` hands out.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from errno import EACCES, EDQUOT, EIO, ENOSPC, EPERM

import trio

from pamfs.errors import RemoteError
from pamfs.model import AttrChange, Attrs, Data, Entry, RemotePath, Space
from pamfs.transport.base import OpenMode, RemoteFile
from tests.fakes.memory import MemoryFs
from tests.fakes.remote import Device, FakeFile, FakeTree


class WithFiles(FakeTree):
    """Hands out files of the class ``file_type``."""

    file_type: type[FakeFile] = FakeFile

    async def open(
        self, path: RemotePath, mode: OpenMode, permissions: int | None = None
    ) -> tuple[RemoteFile, Attrs]:
        file, attrs = await super().open(path, mode, permissions)
        assert isinstance(file, FakeFile)
        return self.file_type(self, file.node, file.mode), attrs


class ReadsAtMost4K(WithFiles):
    """Answers a read short before the end of the file."""

    class file_type(FakeFile):  # noqa: N801 - it fills the attribute of that name
        async def read_at(self, offset: int, size: int) -> Data:
            return await super().read_at(offset, min(size, 4096))


class SaysEndOfFile(WithFiles):
    """Answers every read beyond 4 KiB with the end of the file."""

    class file_type(FakeFile):  # noqa: N801
        async def read_at(self, offset: int, size: int) -> Data:
            return b"" if offset >= 4096 else await super().read_at(offset, size)


class FewHandles(FakeTree):
    """Has ``most`` handles; who wants one more gets a bare FAILURE, which is EIO."""

    most = 4
    code = EIO

    def __init__(
        self,
        fs: MemoryFs | None = None,
        device: Device = Device(latency_s=0.01),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(fs, device)
        self.taken = self.refused = 0

    @asynccontextmanager
    async def _handle(self, operation: str) -> AsyncIterator[None]:
        """Take a handle when the request is sent, for as long as the body takes."""
        if self.open_files + self.taken >= self.most:
            self.refused += 1
            await self.round_trip("refused")
            raise RemoteError(self.code, operation)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    async def open(
        self, path: RemotePath, mode: OpenMode, permissions: int | None = None
    ) -> tuple[RemoteFile, Attrs]:
        async with self._handle("open"):
            return await super().open(path, mode, permissions)

    async def list_dir(self, path: RemotePath) -> list[Entry]:
        async with self._handle("opendir"):
            await self.round_trip("open_dir")
            return await super().list_dir(path)


class WritesHalf(WithFiles):
    """Stores the first half of what it is given and says nothing."""

    class file_type(FakeFile):  # noqa: N801
        async def write_at(self, offset: int, data: Data) -> None:
            await super().write_at(offset, data[: len(data) // 2])


class ForgetsAppend(WithFiles):
    """Writes where it is told to, in a file opened to append."""

    class file_type(FakeFile):  # noqa: N801
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type] # passed through
            self.mode &= ~OpenMode.APPEND


class LosesUnlinked(WithFiles):
    """Forgets an open file with its last name."""

    class file_type(FakeFile):  # noqa: N801
        async def read_at(self, offset: int, size: int) -> Data:
            data = await super().read_at(offset, size)
            return data if self.node.nlink else b""

        async def stat(self) -> Attrs:
            attrs = await super().stat()
            return attrs if self.node.nlink else dataclasses.replace(attrs, size=0)


class DropsAfter(FakeTree):
    """Loses the session with the n-th round trip."""

    def __init__(
        self,
        n: int,
        fs: MemoryFs | None = None,
        device: Device = Device(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(fs, device)
        self.trips_left = n

    async def round_trip(self, name: str) -> None:
        self.trips_left -= 1
        if self.trips_left < 0:
            self.lose()
        await super().round_trip(name)


class NeverAnswers(FakeTree):
    """Takes every request and answers none."""

    async def round_trip(self, name: str) -> None:
        self.calls[name] += 1
        await trio.sleep_forever()


class FallsSilent(FakeTree):
    """Answers until it is told not to."""

    is_silent = False

    async def round_trip(self, name: str) -> None:
        await super().round_trip(name)
        if self.is_silent:
            await trio.sleep_forever()


class DeniesWrites(WithFiles):
    """Lets nobody change anything, though files open."""

    class file_type(FakeFile):  # noqa: N801
        async def write_at(self, offset: int, data: Data) -> None:
            await self.tree.round_trip("write_at")
            raise RemoteError(EACCES, "write_at", f"{len(data)} bytes at {offset}")

    async def set_attrs(self, path: RemotePath, change: AttrChange) -> Attrs:
        await self.round_trip("set_attrs")
        raise RemoteError(EACCES, "set_attrs", f"{path!r} {change}")


class FullDisk(WithFiles):
    """Has no block left to write to."""

    code = ENOSPC

    class file_type(FakeFile):  # noqa: N801
        async def write_at(self, offset: int, data: Data) -> None:
            await self.tree.round_trip("write_at")
            assert isinstance(self.tree, FullDisk)
            raise RemoteError(self.tree.code, "write_at", f"{offset}+{len(data)}")

    async def space(self, path: RemotePath) -> Space:
        room = await super().space(path)
        return dataclasses.replace(room, blocks_free=0, blocks_available=0)


class ReadOnly(FakeTree):
    """Is mounted read-only, and says FAILURE to every change of a name."""

    async def space(self, path: RemotePath) -> Space:
        return dataclasses.replace(await super().space(path), is_read_only=True)


class OverQuota(FullDisk):
    """Has blocks, but none for us."""

    code = EDQUOT


class FullDiskAtClose(WithFiles):
    """Takes every byte and says at the close that there was no room."""

    class file_type(FakeFile):  # noqa: N801
        async def close(self) -> None:
            await super().close()
            raise RemoteError(ENOSPC, "close")


class LiesAboutSize(FakeTree):
    """Says that every file is empty, as /proc does."""

    def attrs(self, node: object) -> Attrs:
        return dataclasses.replace(super().attrs(node), size=0)  # type: ignore[arg-type] # passed through


class ReordersListing(FakeTree):
    """Lists a directory in another order each time, as hashed directories may."""

    async def list_dir(self, path: RemotePath) -> list[Entry]:
        entries = await super().list_dir(path)
        return random.Random(self.calls["list_dir"]).sample(entries, len(entries))


class ListsAPart(FakeTree):
    """Answers a long listing with its first hundred names."""

    async def list_dir(self, path: RemotePath) -> list[Entry]:
        return (await super().list_dir(path))[:100]


class FollowsLinks(FakeTree):
    """Changes what a link points to when the link was meant."""

    async def set_attrs(self, path: RemotePath, change: AttrChange) -> Attrs:
        await self.round_trip("set_attrs")
        self.change(self.fs.node(path, follow=True), change)
        return self.attrs(self.fs.node(path))


class ReplacesAlways(FakeTree):
    """Takes the place of an existing file without having been allowed to."""

    async def rename(self, old: RemotePath, new: RemotePath, *, replace: bool) -> None:
        await super().rename(old, new, replace=replace or True)


class RemovesFullDirectories(FakeTree):
    """Removes a directory with all that is in it."""

    async def rmdir(self, path: RemotePath) -> None:
        self.fs.node(path).entries.clear()
        await super().rmdir(path)


class CleansSymlinks(FakeTree):
    """Stores what a symbolic link says in a tidier form."""

    async def symlink(self, content: bytes, path: RemotePath) -> Attrs:
        return await super().symlink(content.replace(b"//", b"/").rstrip(b"/"), path)


class SaysFailure(FakeTree):
    """Answers every refusal with the EIO that a bare FAILURE becomes."""

    async def mkdir(self, path: RemotePath, permissions: int) -> Attrs:
        try:
            return await super().mkdir(path, permissions)
        except RemoteError as exc:
            raise RemoteError(5, "mkdir") from exc


class KeepsOwners(WithFiles):
    """Refuses every change of an owner, as a device's ordinary account does."""

    class file_type(FakeFile):  # noqa: N801
        async def set_attrs(self, change: AttrChange) -> Attrs:
            if change.uid is not None or change.gid is not None:
                raise RemoteError(EPERM, "fsetstat", f"{change}")
            return await super().set_attrs(change)

    async def set_attrs(self, path: RemotePath, change: AttrChange) -> Attrs:
        if change.uid is not None or change.gid is not None:
            raise RemoteError(EPERM, "setstat", f"{path!r} {change}")
        return await super().set_attrs(path, change)


class KeepsModes(WithFiles):
    """Refuses every change of a mode."""

    class file_type(FakeFile):  # noqa: N801
        async def set_attrs(self, change: AttrChange) -> Attrs:
            await self.tree.round_trip("set_attrs")
            raise RemoteError(EPERM, "fsetstat", f"{change}")

    async def set_attrs(self, path: RemotePath, change: AttrChange) -> Attrs:
        await self.round_trip("set_attrs")
        raise RemoteError(EPERM, "setstat", f"{path!r} {change}")


class KeepsNames(FakeTree):
    """Lets nobody remove anything, as a sticky folder does with others' files."""

    async def unlink(self, path: RemotePath) -> None:
        await self.round_trip("unlink")
        raise RemoteError(EACCES, "remove", f"{path!r}")
