"""Whatever the kernel does, the table holds what the kernel holds, and no more."""

from __future__ import annotations

import stat

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pamfs.model import Attrs, Name
from pamfs.vfs.names.inodes import Inode, InodeTable

NAMES = st.sampled_from([Name(b"a"), Name(b"b"), Name(b"c")])
TYPES = st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK])


class KernelModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = InodeTable()
        self.held: dict[Inode, int] = {}

    def folder(self, pick: int) -> Inode:
        folders = [inode for inode in self.held if inode.is_dir]
        folders.insert(0, self.table.root)
        return folders[pick % len(folders)]

    @rule(pick=st.integers(0, 9), name=NAMES, file_type=TYPES)
    def looks_up(self, pick: int, name: Name, file_type: int) -> None:
        inode = self.table.looked_up(self.folder(pick), name, Attrs(file_type))
        self.held[inode] = self.held.get(inode, 0) + 1

    @rule(pick=st.integers(0, 9), part=st.integers(1, 3))
    def forgets(self, pick: int, part: int) -> None:
        if not self.held:
            return
        inode = list(self.held)[pick % len(self.held)]
        count = min(part, self.held[inode])
        self.table.forget(inode.ino, count)
        self.held[inode] -= count
        if not self.held[inode]:
            del self.held[inode]

    @rule(pick=st.integers(0, 9), name=NAMES)
    def unlinks(self, pick: int, name: Name) -> None:
        self.table.unlinked(self.folder(pick), name)

    @rule(one=st.integers(0, 9), other=st.integers(0, 9), old=NAMES, new=NAMES)
    def renames(self, one: int, other: int, old: Name, new: Name) -> None:
        source, into = self.folder(one), self.folder(other)
        moved = source.children.get(old)
        if moved is None or self.is_inside(into, moved):
            return  # the device refuses this before the table hears of it
        self.table.renamed(source, old, into, new)

    @rule(pick=st.integers(0, 9), into=st.integers(0, 9), name=NAMES)
    def links(self, pick: int, into: int, name: Name) -> None:
        files = [inode for inode in self.held if not inode.is_dir]
        if not files:
            return
        inode = files[pick % len(files)]
        folder = self.folder(into)
        if folder.children.get(name) is None:
            self.table.linked(inode, folder, name)
            self.held[inode] += 1

    @staticmethod
    def is_inside(inode: Inode | None, above: Inode) -> bool:
        while inode is not None:
            if inode is above:
                return True
            inode = inode.parent
        return False

    @invariant()
    def the_kernels_inodes_are_there(self) -> None:
        for inode, count in self.held.items():
            assert self.table.get(inode.ino) is inode
            assert inode.lookups == count

    @invariant()
    def nothing_else_is(self) -> None:
        known = {self.table.root, *self.held}
        for inode in self.held:
            waiting = [parent for parent, _ in inode.names]
            while waiting:
                above = waiting.pop()
                known.add(above)
                waiting.extend(parent for parent, _ in above.names)
        assert self.table.statistics().inodes == len(known)

    @invariant()
    def names_and_children_agree(self) -> None:
        for inode in self.held:
            for parent, name in inode.names:
                assert parent.children[name] is inode


TestKernelModel = KernelModel.TestCase
