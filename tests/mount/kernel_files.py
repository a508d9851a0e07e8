"""What the kernel keeps of open files: numbers, positions, shared descriptions."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field

from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FlagT, InodeT, ModeT

from tests.mount.kernel_paths import Paths, Place, is_dir, is_link, refused

READ_BYTES = 131072  # one FUSE_READ
WRITE_BYTES = 1048576  # one FUSE_WRITE
# fs/fuse/file.c fuse_send_open, with atomic_o_trunc
NOT_SENT = os.O_CREAT | os.O_EXCL | os.O_NOCTTY


@dataclass
class Description:
    """One open file description; descriptors that were duplicated share it."""

    ino: InodeT
    fh: FileHandleT
    flags: int
    is_dir: bool
    size: int
    position: int = 0
    descriptors: int = 1

    @property
    def can_read(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    @property
    def can_write(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY


@dataclass
class OpenFiles:
    """The descriptors of the one process there is."""

    paths: Paths
    descriptors: dict[int, Description] = field(default_factory=dict)
    _next: int = 1000

    def find(self, fd: int) -> Description:
        try:
            return self.descriptors[fd]
        except KeyError:
            raise refused(errno.EBADF) from None

    async def open(self, path: bytes, flags: int, mode: int) -> int:
        exclusive = bool(flags & os.O_CREAT and flags & os.O_EXCL)
        follow = not exclusive and not flags & os.O_NOFOLLOW
        place = await self.paths.place(path, follow=follow)
        if place.entry is None:
            if not flags & os.O_CREAT:
                raise refused(errno.ENOENT)
            return await self._create(place, flags, mode)
        if exclusive:
            raise refused(errno.EEXIST)
        return await self._open_found(place.entry, flags)

    async def _create(self, place: Place, flags: int, mode: int) -> int:
        asker = self.paths.asker
        masked = stat.S_IFREG | (mode & 0o7777 & ~asker.umask)
        info, entry = await self.paths.ops.create(
            place.parent, place.name, ModeT(masked), FlagT(flags), asker.ctx
        )
        return self._number(self.paths.counted(entry), info, flags)

    async def _open_found(self, entry: EntryAttributes, flags: int) -> int:
        writes = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC
        if is_link(entry):
            code = errno.ENOTDIR if flags & os.O_DIRECTORY else errno.ELOOP
            raise refused(code)
        if flags & os.O_DIRECTORY and not is_dir(entry):
            raise refused(errno.ENOTDIR)
        if is_dir(entry):
            if flags & os.O_CREAT or writes:
                raise refused(errno.EISDIR)
            fh = await self.paths.ops.opendir(entry.st_ino, self.paths.asker.ctx)
            return self._number(entry, FileInfo(fh), flags)
        sent = FlagT(flags & ~NOT_SENT)
        info = await self.paths.ops.open(entry.st_ino, sent, self.paths.asker.ctx)
        return self._number(entry, info, flags)

    def _number(self, entry: EntryAttributes, info: FileInfo, flags: int) -> int:
        self._next += 1
        size = 0 if flags & os.O_TRUNC else entry.st_size
        self.descriptors[self._next] = Description(
            entry.st_ino, info.fh, flags, is_dir(entry), size
        )
        return self._next

    def dup(self, fd: int) -> int:
        self._next += 1
        description = self.descriptors[self._next] = self.find(fd)
        description.descriptors += 1
        return self._next

    async def close(self, fd: int) -> None:
        description = self.find(fd)
        del self.descriptors[fd]
        description.descriptors -= 1
        ops = self.paths.ops
        try:
            if not description.is_dir:
                await ops.flush(description.fh)
        finally:
            if not description.descriptors:
                release = ops.releasedir if description.is_dir else ops.release
                await release(description.fh)

    async def read(self, fd: int, size: int, offset: int | None) -> bytes:
        """Read at ``offset``, or at the position and move it."""
        description = self.find(fd)
        if description.is_dir:
            raise refused(errno.EISDIR)
        if not description.can_read:
            raise refused(errno.EBADF)
        start = description.position if offset is None else offset
        data = b""
        while len(data) < size:
            wanted = min(READ_BYTES, size - len(data))
            at = start + len(data)
            part = await self.paths.ops.read(description.fh, at, wanted)
            assert len(part) <= wanted
            data += part
            if len(part) < wanted:
                # Here the real kernel takes the file to end, and fills with zeros.
                rest = await self.paths.ops.read(description.fh, at + len(part), 1)
                assert not rest, "a read came back short before the end"
                break
        if offset is None:
            description.position += len(data)
        return data

    async def write(self, fd: int, data: bytes, offset: int | None) -> int:
        """Write at ``offset``, or at the position and move it."""
        description = self.find(fd)
        if not description.can_write:
            raise refused(errno.EBADF)
        start = description.position if offset is None else offset
        if description.flags & os.O_APPEND:
            # The size that this kernel knows; the file may have grown meanwhile.
            start = description.size
        for sent in range(0, len(data), WRITE_BYTES):
            part = data[sent : sent + WRITE_BYTES]
            written = await self.paths.ops.write(description.fh, start + sent, part)
            assert written == len(part)
        end = start + len(data)
        description.size = max(description.size, end)
        if offset is None:
            description.position = end
        return len(data)

    async def seek(self, fd: int, position: int, whence: int) -> int:
        description = self.find(fd)
        if whence == os.SEEK_CUR:
            position += description.position
        elif whence == os.SEEK_END:
            ctx = self.paths.asker.ctx
            entry = await self.paths.ops.getattr(description.ino, ctx)
            position += entry.st_size
        if position < 0:
            raise refused(errno.EINVAL)
        description.position = position
        return position

    async def sync(self, fd: int) -> None:
        description = self.find(fd)
        ops = self.paths.ops
        sync = ops.fsyncdir if description.is_dir else ops.fsync
        await sync(description.fh, False)
