"""What the kernel checks of names and attributes before and after it asks."""

from __future__ import annotations

import errno
import stat
import time
from dataclasses import dataclass
from typing import cast

from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileNameT,
    FlagT,
    InodeT,
    ModeT,
    ReaddirToken,
    SetattrFields,
)

from tests.mount.kernel_paths import Paths, Place, is_dir, refused
from tests.mount.posix import NOW, OMIT, RENAME_EXCHANGE, RENAME_NOREPLACE

DOTS = (b".", b"..")


@dataclass
class Fields:
    """What pyfuse3's SetattrFields says; its own cannot be filled in."""

    update_mode: bool
    update_size: bool
    update_uid: bool
    update_gid: bool
    update_atime: bool
    update_mtime: bool
    update_ctime: bool = False


class Batch:
    """What readdir_reply fills: as many entries as fit in one answer."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.entries: list[tuple[bytes, EntryAttributes, int]] = []

    def reply(self, name: bytes, entry: EntryAttributes, next_id: int) -> bool:
        """Stand in for ``pyfuse3.readdir_reply``."""
        if len(self.entries) == self.room:
            return False
        self.entries.append((name, entry, next_id))
        return True


def readdir_reply(
    token: ReaddirToken, name: FileNameT, attr: EntryAttributes, next_id: int
) -> bool:
    """Do what ``pyfuse3.readdir_reply`` does, with a ``Batch`` as the token."""
    return cast("Batch", token).reply(name, attr, next_id)


@dataclass
class Names:
    """Everything that is done with names and attributes."""

    paths: Paths

    async def find(self, path: bytes, *, follow: bool) -> EntryAttributes:
        return (await self.paths.place(path, follow=follow)).found()

    async def _free(self, path: bytes) -> Place:
        place = await self.paths.place(path, follow=False)
        if place.entry is not None:
            raise refused(errno.EEXIST)
        return place

    async def mkdir(self, path: bytes, mode: int) -> None:
        place, asker = await self._free(path), self.paths.asker
        masked = ModeT(mode & 0o1777 & ~asker.umask)
        self.paths.counted(
            await self.paths.ops.mkdir(place.parent, place.name, masked, asker.ctx)
        )

    async def mknod(self, path: bytes, mode: int) -> None:
        place, asker = await self._free(path), self.paths.asker
        masked = ModeT(mode & ~asker.umask)
        self.paths.counted(
            await self.paths.ops.mknod(place.parent, place.name, masked, 0, asker.ctx)
        )

    async def symlink(self, content: bytes, path: bytes) -> None:
        if not content:
            raise refused(errno.ENOENT)
        place, ctx = await self._free(path), self.paths.asker.ctx
        self.paths.counted(
            await self.paths.ops.symlink(
                place.parent, place.name, FileNameT(content), ctx
            )
        )

    async def link(self, old: bytes, new: bytes) -> None:
        entry = await self.find(old, follow=False)
        place, ctx = await self._free(new), self.paths.asker.ctx
        if is_dir(entry):
            raise refused(errno.EPERM)
        self.paths.counted(
            await self.paths.ops.link(entry.st_ino, place.parent, place.name, ctx)
        )

    async def unlink(self, path: bytes) -> None:
        place = await self.paths.place(path, follow=False)
        if is_dir(place.found()):
            raise refused(errno.EISDIR)
        ctx = self.paths.asker.ctx
        await self.paths.ops.unlink(place.parent, place.name, ctx)

    async def rmdir(self, path: bytes) -> None:
        place = await self.paths.place(path, follow=False)
        if not is_dir(place.found()):
            raise refused(errno.ENOTDIR)
        await self.paths.ops.rmdir(place.parent, place.name, self.paths.asker.ctx)

    async def readlink(self, path: bytes) -> bytes:
        entry = await self.find(path, follow=False)
        if not stat.S_ISLNK(entry.st_mode):
            raise refused(errno.EINVAL)
        return await self.paths.ops.readlink(entry.st_ino, self.paths.asker.ctx)

    async def rename(self, old: bytes, new: bytes, flags: int) -> None:
        source = await self.paths.place(old, follow=False)
        dest = await self.paths.place(new, follow=False)
        if is_rename_asked(source, dest, flags):
            await self.paths.ops.rename(
                source.parent,
                source.name,
                dest.parent,
                dest.name,
                FlagT(flags),
                self.paths.asker.ctx,
            )

    async def change(
        self, ino: InodeT, fh: FileHandleT | None = None, **changes: int
    ) -> None:
        """Send one SETATTR with just these changes."""
        attr = EntryAttributes()
        for name, value in changes.items():
            setattr(attr, "st_" + name, value)
        fields = Fields(
            *(
                name in changes
                for name in ("mode", "size", "uid", "gid", "atime_ns", "mtime_ns")
            )
        )
        sent = cast("SetattrFields", fields)
        await self.paths.ops.setattr(ino, attr, sent, fh, self.paths.asker.ctx)

    async def truncate(self, path: bytes, size: int) -> None:
        entry = await self.find(path, follow=True)
        if is_dir(entry):
            raise refused(errno.EISDIR)
        # truncate(2) sends a time of its own, ftruncate(2) does not (fs/fuse/dir.c).
        await self.change(entry.st_ino, size=size, mtime_ns=time.time_ns())

    async def chmod(self, path: bytes, mode: int) -> None:
        entry = await self.find(path, follow=True)
        await self.change(entry.st_ino, mode=stat.S_IFMT(entry.st_mode) | mode)

    async def chown(self, path: bytes, uid: int, gid: int, *, follow: bool) -> None:
        entry = await self.find(path, follow=follow)
        changes: dict[str, int] = {}
        if uid != -1:
            changes["uid"] = uid
        if gid != -1:
            changes["gid"] = gid
        await self.change(entry.st_ino, **changes)

    async def utimens(
        self, path: bytes, atime_ns: int, mtime_ns: int, *, follow: bool
    ) -> None:
        entry = await self.find(path, follow=follow)
        changes: dict[str, int] = {}
        if atime_ns != OMIT:
            changes["atime_ns"] = time.time_ns() if atime_ns == NOW else atime_ns
        if mtime_ns != OMIT:
            changes["mtime_ns"] = time.time_ns() if mtime_ns == NOW else mtime_ns
        await self.change(entry.st_ino, **changes)

    async def read_directory(
        self, fh: FileHandleT, start: int
    ) -> tuple[list[bytes], int]:
        """Return the next names and where to go on.

        Every one is a lookup, but for the dots (fs/fuse/readdir.c).
        """
        batch = Batch(room=20)
        await self.paths.ops.readdir(fh, start, cast("ReaddirToken", batch))
        for name, entry, _ in batch.entries:
            if name not in DOTS:
                self.paths.counted(entry)
        following = batch.entries[-1][2] if batch.entries else start
        return [name for name, _, _ in batch.entries], following


def is_rename_asked(source: Place, dest: Place, flags: int) -> bool:
    """Check as fs/namei.c do_renameat2 and vfs_rename do, in their order."""
    entry, victim = source.found(), dest.entry
    if flags & RENAME_NOREPLACE and victim is not None:
        raise refused(errno.EEXIST)
    if flags & RENAME_EXCHANGE and victim is None:
        raise refused(errno.ENOENT)
    if dest.is_below(entry.st_ino):
        raise refused(errno.EINVAL)
    if victim is None or flags & RENAME_EXCHANGE:
        return True
    if source.is_below(victim.st_ino):
        raise refused(errno.ENOTEMPTY)
    return _may_replace(entry, victim)


def _may_replace(entry: EntryAttributes, victim: EntryAttributes) -> bool:
    if is_dir(entry) != is_dir(victim):
        raise refused(errno.ENOTDIR if is_dir(entry) else errno.EISDIR)
    return victim.st_ino != entry.st_ino
