"""Inode numbers, names and the kernel's lookup counts.

Invariant: an inode is in the table exactly while the kernel holds a lookup on it or it
has a known child. Only ``looked_up``, ``linked`` and ``forget`` change a lookup count.
A number is a hash of the path it was first seen under, so that it is the same in the
next mount: borg and restic read everything again otherwise.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from pamfs.errors import PamfsError, RemoteError
from pamfs.model import Attrs, Extent, Ino, Name, Target

ROOT_INO: Final = Ino(1)


class UnstoredWrites(Protocol):
    """The writes of a file that its device has not acknowledged."""

    @property
    def end(self) -> int:
        """Return where the furthest of them ends."""
        ...

    @property
    def is_foretold(self) -> bool:
        """Whether a change goes out behind them that sets the times."""
        ...

    @property
    def extents(self) -> Sequence[Extent]:
        """Where they go."""
        ...


@dataclass(slots=True, eq=False)
class Inode:
    """One file or directory that the kernel knows by number.

    ``names`` are all its known names, (parent, name); a file that was removed while
    open has none. ``seen`` are the attributes that the device gave last, asked for at
    ``seen_at``; ``opened`` those of the last open, first seen at ``changed_at``. The
    kernel's pages are no older than ``cached_at``. Instants are trio's.

    ``unstored`` is set while writes are not acknowledged. ``is_stale``: we changed it
    since ``seen_at``, so ``seen`` may be wrong. ``is_written``: the last change made
    here was a write. Since ``counted_at`` only writes changed it, and ``seen`` has
    their size; only its time of change is out of date.

    ``lost`` is set once data that a program wrote cannot be stored: the inode has
    parted from its names, of which ``former_path`` was the first.

    ``InodeTable`` changes ``names``, ``children`` and ``lookups``; only
    ``vfs.coherence`` changes the other fields.
    """

    ino: Ino
    file_type: int
    target: Target | None = None
    names: list[tuple[Inode, Name]] = field(default_factory=list)
    children: dict[Name, Inode] = field(default_factory=dict)
    lookups: int = 0
    seen: Attrs | None = None
    seen_at: float = -math.inf
    is_stale: bool = False
    is_written: bool = False
    counted_at: float = -math.inf
    opened: Attrs | None = None
    changed_at: float = -math.inf
    cached_at: float = -math.inf
    unstored: UnstoredWrites | None = None
    lost: PamfsError | None = None
    former_path: str = ""

    def note_attrs(self, attrs: Attrs, at: float, *, counts: bool = False) -> None:
        """Note attributes that were requested at ``at``, unless newer are known.

        The kernel truncates its pages to the size in an answer, so the size never
        lacks a write that is not acknowledged. With ``counts`` (an FSTAT sent after a
        write) the size is computed here from then on; otherwise the next write requires
        a stat.
        """
        if at < self.seen_at and self.seen is not None:
            return
        if self.unstored is not None and self.unstored.end > attrs.size:
            attrs = replace(attrs, size=self.unstored.end)
        if self.is_newer(at):
            self.seen, self.is_stale = attrs, True
            return
        self.seen, self.seen_at, self.is_stale = attrs, at, False
        self.counted_at = at if counts and self.is_written else -math.inf

    def is_newer(self, at: float) -> bool:
        """Whether it was changed after ``at``, and nothing is known from then on."""
        return self.seen is None and at < self.seen_at

    def touched(self, at: float) -> None:
        """Note that we changed it: whatever was asked before is out of date."""
        self.note_stale(at)
        self.require_stat()

    def note_stale(self, at: float) -> None:
        """As ``touched``, for a write: its size is in ``seen`` already."""
        self.seen_at, self.is_stale = at, True

    def require_stat(self) -> None:
        """Require a stat from the device before the attributes are shown again."""
        self.counted_at = -math.inf

    def note_attrs_set(self) -> None:
        """Note that attributes were set; the next write will change the times again."""
        self.is_written = False
        self.require_stat()

    def note_write(self, size: int, at: float) -> None:
        """Note that a write ended at ``size``.

        Attributes requested before it are out of date.
        """
        if self.seen is not None and self.seen.size < size:
            self.seen = replace(self.seen, size=size)
        self.is_written = True
        self.note_stale(at)

    @property
    def is_foretold(self) -> bool:
        """Whether ``seen`` already shows the result of the queued changes."""
        return self.unstored is not None and self.unstored.is_foretold

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.file_type == stat.S_IFDIR

    @property
    def parent(self) -> Inode | None:
        """The directory of its first name, if it has one."""
        return self.names[0][0] if self.names else None

    @property
    def is_target_root(self) -> bool:
        """Whether it is the folder that stands for a target."""
        return (
            self.target is not None
            and self.parent is not None
            and self.parent.target is None
        )


@dataclass(frozen=True, slots=True)
class InodeStatistics:
    """How much the kernel holds."""

    inodes: int
    lookups: int


class InodeTable:
    """All inodes by number, and the tree of their names."""

    def __init__(self) -> None:
        self.root = Inode(ROOT_INO, stat.S_IFDIR, lookups=1)
        self._by_ino: dict[Ino, Inode] = {ROOT_INO: self.root}

    def get(self, ino: Ino) -> Inode:
        """Return the inode; raise ``RemoteError`` ESTALE for a forgotten one."""
        try:
            return self._by_ino[ino]
        except KeyError:
            raise RemoteError(errno.ESTALE, "inode") from None

    def looked_up(
        self,
        parent: Inode,
        name: Name,
        attrs: Attrs | None,
        target: Target | None = None,
    ) -> Inode:
        """Return the inode of ``name``, new or known, with one lookup more.

        ``attrs`` None means a synthetic directory.
        """
        file_type = stat.S_IFMT(attrs.mode) if attrs else stat.S_IFDIR
        inode = parent.children.get(name)
        if inode is not None and inode.file_type != file_type:
            self.unlinked(parent, name)  # replaced behind our back
            inode = None
        if inode is None:
            inode = Inode(
                self._number(parent, name), file_type, target or parent.target
            )
            self._by_ino[inode.ino] = inode
            inode.names.append((parent, name))
            parent.children[name] = inode
        inode.lookups += 1
        return inode

    def linked(self, inode: Inode, parent: Inode, name: Name) -> None:
        """Give ``inode`` one name more, with one lookup more."""
        self.unlinked(parent, name)
        inode.names.append((parent, name))
        parent.children[name] = inode
        inode.lookups += 1

    def forget(self, ino: Ino, nlookup: int) -> None:
        """Take ``nlookup`` lookups back; drop the inode if none is left."""
        inode = self._by_ino.get(ino)
        if inode is None:
            return
        inode.lookups -= nlookup
        self._prune(inode)

    def unlinked(self, parent: Inode, name: Name) -> Inode | None:
        """Take the name away; the inode lives on while the kernel holds it."""
        inode = parent.children.pop(name, None)
        if inode is not None:
            inode.names.remove((parent, name))
            self._prune(inode)
        return inode

    def renamed(
        self, old_parent: Inode, old: Name, new_parent: Inode, new: Name
    ) -> None:
        """Move a name, over another one if that exists."""
        inode = old_parent.children.get(old)
        if inode is not None and new_parent.children.get(new) is inode:
            return
        self.unlinked(new_parent, new)
        if inode is None:
            return
        del old_parent.children[old]
        inode.names[inode.names.index((old_parent, old))] = (new_parent, new)
        new_parent.children[new] = inode
        self._prune(old_parent)

    def components(self, inode: Inode) -> Sequence[Name]:
        """Return the names from the root down; raise ENOENT for a removed one."""
        names: list[Name] = []
        while inode is not self.root:
            if not inode.names:
                raise RemoteError(errno.ENOENT, "path", "it has been removed")
            inode, name = inode.names[0]
            names.append(name)
        names.reverse()
        return names

    def shown_path(self, inode: Inode) -> str:
        """Return the path below the mount, for a person."""
        try:
            return os.fsdecode(b"/".join(self.components(inode)))
        except RemoteError:
            return inode.former_path or f"{inode.target}: a removed file"

    def shown_below(self, inode: Inode, names: Sequence[Name]) -> str:
        """Return the path of ``names`` below the target's folder, for a person."""
        try:
            top = self.components(inode)[:2]
        except RemoteError:
            top = []
        return os.fsdecode(b"/".join((*top, *names)))

    def below(self, target: Target) -> Sequence[Inode]:
        """Return every inode of ``target``."""
        return [inode for inode in self._by_ino.values() if inode.target == target]

    def statistics(self) -> InodeStatistics:
        """Return how many inodes there are and how many lookups they hold."""
        lookups = sum(inode.lookups for inode in self._by_ino.values())
        return InodeStatistics(len(self._by_ino), lookups)

    def _prune(self, inode: Inode) -> None:
        while inode is not self.root and inode.lookups <= 0 and not inode.children:
            if self._by_ino.get(inode.ino) is inode:
                del self._by_ino[inode.ino]
            parents = [parent for parent, _ in inode.names]
            for parent, name in inode.names:
                if parent.children.get(name) is inode:
                    del parent.children[name]
            inode.names.clear()
            for parent in parents[1:]:
                self._prune(parent)
            if not parents:
                return
            inode = parents[0]

    def _number(self, parent: Inode, name: Name) -> Ino:
        number = _hashed((*self._components_or_number(parent), name))
        while number <= ROOT_INO or Ino(number) in self._by_ino:
            number += 1
        return Ino(number)

    def number_of(self, top: Sequence[Name], below: Sequence[Name]) -> int:
        """Return the inode number computed from a path.

        Another inode may use it already.
        """
        return _hashed((*top, *below))

    def _components_or_number(self, parent: Inode) -> Sequence[bytes]:
        try:
            return self.components(parent)
        except RemoteError:
            return [b"removed", str(parent.ino).encode()]


def _hashed(path: Sequence[bytes]) -> int:
    # NUL is in no name, so no two paths give the same bytes.
    digest = hashlib.blake2b(b"\0".join(path), digest_size=8).digest()
    return int.from_bytes(digest) & 0x7FFF_FFFF_FFFF_FFFF
