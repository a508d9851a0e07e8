"""How the kernel walks a path over ``Operations``: LOOKUP by LOOKUP.

Invariant: ``lookups`` is what the kernel would give back with FORGET; every
reply that counts a lookup is counted here, and nothing else is.
"""

from __future__ import annotations

import errno
import stat
from collections import Counter
from dataclasses import dataclass, field
from typing import cast

import pyfuse3
from pyfuse3 import EntryAttributes, FileNameT, InodeT, RequestContext

from pamfs.fuse.operations import Operations

PATH_MAX = 4096
LINKS_MAX = 40  # fs/namei.c MAXSYMLINKS
FUSE_NAME_MAX = 1024  # fs/fuse/fuse_i.h


def refused(code: int) -> OSError:
    return OSError(code, errno.errorcode[code])


@dataclass
class Asker:
    """What pyfuse3's RequestContext says; its own cannot be filled in."""

    pid: int = 0
    uid: int = 0
    gid: int = 0
    umask: int = 0o022

    @property
    def ctx(self) -> RequestContext:
        return cast("RequestContext", self)


@dataclass(frozen=True)
class Place:
    """Where a path ends: the directories above, the last name, who bears it."""

    above: tuple[EntryAttributes, ...]
    name: FileNameT
    entry: EntryAttributes | None

    @property
    def parent(self) -> InodeT:
        return self.above[-1].st_ino

    def found(self) -> EntryAttributes:
        if self.entry is None:
            raise refused(errno.ENOENT)
        return self.entry

    def is_below(self, ino: InodeT) -> bool:
        return any(entry.st_ino == ino for entry in self.above)


def is_dir(entry: EntryAttributes) -> bool:
    return stat.S_ISDIR(entry.st_mode)


def is_link(entry: EntryAttributes) -> bool:
    return stat.S_ISLNK(entry.st_mode)


@dataclass
class Paths:
    """The kernel's name cache, without the cache: each name is asked for."""

    ops: Operations
    asker: Asker
    lookups: Counter[InodeT] = field(default_factory=Counter)

    def counted(self, entry: EntryAttributes) -> EntryAttributes:
        """Return ``entry``, with the lookup counted that its reply meant."""
        self.lookups[entry.st_ino] += 1
        return entry

    async def forget_all(self) -> None:
        """Give back every lookup, as at an unmount or under memory pressure."""
        batch, self.lookups = list(self.lookups.items()), Counter()
        await self.ops.forget(batch)

    async def lookup(self, parent: InodeT, name: bytes) -> EntryAttributes | None:
        """Return the entry, or None for one that is not there."""
        if len(name) > FUSE_NAME_MAX:
            raise refused(errno.ENAMETOOLONG)
        try:
            entry = await self.ops.lookup(parent, FileNameT(name), self.asker.ctx)
        except pyfuse3.FUSEError as exc:
            if exc.errno == errno.ENOENT:
                return None
            raise
        return self.counted(entry) if entry.st_ino else None

    async def place(self, path: bytes, *, follow: bool) -> Place:
        """Walk ``path`` from the root of the mount."""
        if len(path) >= PATH_MAX:
            raise refused(errno.ENAMETOOLONG)
        root = await self.ops.getattr(pyfuse3.ROOT_INODE, self.asker.ctx)
        above, todo, links = [root], _names(path), 0
        place = Place((root,), FileNameT(b""), root)
        while todo:
            name = todo.pop(0)
            place = await self._step(above, name)
            entry = place.entry
            if entry is not None and is_link(entry) and (todo or follow):
                links += 1
                if links > LINKS_MAX:
                    raise refused(errno.ELOOP)
                todo = await self._inside(entry) + todo
            elif todo:
                above = [*place.above, place.found()]
                if name == b"..":
                    above = [*place.above]
        if path.endswith(b"/") and place.entry and not is_dir(place.entry):
            raise refused(errno.ENOTDIR)
        return place

    async def _step(self, above: list[EntryAttributes], name: bytes) -> Place:
        if not is_dir(above[-1]):
            raise refused(errno.ENOTDIR)
        if name == b"..":
            kept = tuple(above[:-1] or above)
            return Place(kept, FileNameT(name), kept[-1])
        entry = await self.lookup(above[-1].st_ino, name)
        return Place(tuple(above), FileNameT(name), entry)

    async def _inside(self, link: EntryAttributes) -> list[bytes]:
        content = await self.ops.readlink(link.st_ino, self.asker.ctx)
        if content.startswith(b"/"):
            raise refused(errno.EXDEV)  # out of the mount; no check goes there
        return _names(content)


def _names(path: bytes) -> list[bytes]:
    return [name for name in path.split(b"/") if name not in (b"", b".")]
