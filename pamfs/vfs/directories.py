"""Directories: listing them, and every change of a name."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from pamfs.errors import RemoteError
from pamfs.model import (
    Attrs,
    Caller,
    Entry,
    FileHandle,
    Ino,
    Name,
    RemotePath,
    Target,
)
from pamfs.transport.base import OpenMode, RemoteTree
from pamfs.vfs.data.opening import (
    PERMISSION_BITS,
    chown_file,
    chown_name,
    create_file,
    exact_mode,
)
from pamfs.vfs.handles import OpenDirectory
from pamfs.vfs.names.attributes import Node
from pamfs.vfs.names.dentries import ListedDirectory
from pamfs.vfs.names.directory_stream import DOTS, DirectoryStream, Item
from pamfs.vfs.names.inodes import Inode
from pamfs.vfs.names.resolve import (
    Before,
    NewName,
    Renaming,
    finish_linking,
    finish_making,
    finish_removing,
)
from pamfs.vfs.nodes import Nodes, check_name
from pamfs.vfs.prefetch.listings import ListingPrefetch
from pamfs.vfs.shared import Shared


class Directories:
    """The requests on directories, and every change of a name."""

    def __init__(
        self,
        shared: Shared,
        nodes: Nodes,
        walks: ListingPrefetch,
    ) -> None:
        self._nodes = nodes
        self._walks = walks
        self._recorder = shared.recorder
        self._namespace = shared.namespace
        self._inodes = shared.inodes
        self._handles = shared.handles
        self._remote = shared.remote
        self._coherence = shared.coherence
        self._listings = shared.listings
        self._ownership_change = shared.attributes.ownership_change

    async def open(self, ino: Ino, caller: Caller) -> FileHandle:
        """Open a directory and list it: an error shows now, not as an empty folder.

        While open files hold all handles of the device, the first read lists it, with
        the error there: a program that only syncs the folder needs no handle (sqlite).
        """
        inode, stream = self._inodes.get(ino), DirectoryStream()
        directory = OpenDirectory(inode, caller, stream, self._epoch(inode))
        self._coherence.watch(inode, stream)
        if inode.target is None or not self._remote.is_full(inode.target):
            try:
                listed = await self._list(directory)
            except BaseException:
                self._coherence.unwatch(inode, stream)
                raise
            self._walks.opened(inode, listed, caller)
        return self._handles.add_directory(directory)

    def _epoch(self, inode: Inode) -> int:
        return self._remote.epoch(inode.target) if inode.target else 0

    def _check_epoch(self, directory: OpenDirectory) -> None:
        if directory.inode.target is not None:
            self._remote.check(directory.inode.target, directory.epoch)

    async def read(
        self, fh: FileHandle, start: int, reply: Callable[[Name, Node, int], bool]
    ) -> None:
        """Give ``reply`` the entries behind number ``start``, until one does not fit.

        Each counts a lookup, but for the dots: the kernel looks neither up.
        """
        await self._filled(fh, start)
        self._give(fh, start, reply)

    def read_on(
        self, fh: FileHandle, start: int, reply: Callable[[Name, Node, int], bool]
    ) -> None:
        """As ``read``, behind a first one: what it listed is read on."""
        self._check_epoch(self._handles.directory(fh))
        self._give(fh, start, reply)

    def _give(
        self, fh: FileHandle, start: int, reply: Callable[[Name, Node, int], bool]
    ) -> None:
        items = self._items(fh, start)
        stream = self._handles.directory(fh).stream
        most = stream.most(start)
        stream.was_read_to(start)
        for name, number in DOTS.items():
            if number > start:
                if not reply(name, self._dot(fh, name), number):
                    return
                stream.was_read_to(number)
        for item in itertools.islice(items, most):
            node = self.listed(fh, item)
            if not reply(item.name, node, item.number):
                # The kernel has not counted this lookup.
                self._inodes.forget(node.ino, 1)
                return
            stream.was_read_to(item.number)

    def _dot(self, fh: FileHandle, name: Name) -> Node:
        inode = self._handles.directory(fh).inode
        is_above = name == b".." and inode.parent is not None
        return self._nodes.show(inode.parent if is_above and inode.parent else inode)

    async def entries(self, fh: FileHandle, start: int) -> Iterator[Item]:
        """Return the entries behind number ``start``; at 0 as they are now."""
        await self._filled(fh, start)
        return self._items(fh, start)

    async def _filled(self, fh: FileHandle, start: int) -> None:
        directory = self._handles.directory(fh)
        self._check_epoch(directory)
        if start == 0:
            if not directory.stream.start(trio.current_time()):
                await self._list(directory, anew=directory.stream.is_read)
            directory.stream.is_read = True

    def _items(self, fh: FileHandle, start: int) -> Iterator[Item]:
        directory = self._handles.directory(fh)
        lifetime_s = self._coherence.known.lifetime_s(directory.inode)
        directory.stream.read_on(trio.current_time(), lifetime_s)
        return directory.stream.items(start)

    def check(self, fh: FileHandle) -> None:
        """Raise EBADF unless ``fh`` is an open directory."""
        self._handles.directory(fh)

    def close(self, fh: FileHandle) -> None:
        """Release a directory."""
        directory = self._handles.drop_directory(fh)
        if directory is not None:
            self._coherence.unwatch(directory.inode, directory.stream)

    async def _list(
        self, directory: OpenDirectory, *, anew: bool = False
    ) -> ListedDirectory:
        stream, inode = directory.stream, directory.inode
        changes = stream.begin()
        try:
            listed = await self._listed(inode, directory.caller, anew=anew)
            self._check_epoch(directory)
            stream.show(listed, changes)
        finally:
            stream.end(changes)
        return listed

    async def _listed(
        self, inode: Inode, caller: Caller, *, anew: bool
    ) -> ListedDirectory:
        if inode.target is not None:
            return await self._listings.get(inode, caller, anew=anew)
        names = await self._names_of(inode, caller)
        now = trio.current_time()
        return ListedDirectory(
            [Entry(name, Attrs(stat.S_IFDIR)) for name in names], now, now
        )

    async def _names_of(self, inode: Inode, caller: Caller) -> Sequence[Name]:
        if inode is self._inodes.root:
            return self._namespace.tenants()
        tenant = self._nodes.tenant_of(inode)
        self._remote.note_listing(tenant.decode(), caller)
        return await self._namespace.targets(tenant)

    def listed(self, fh: FileHandle, item: Item) -> Node:
        """Return the node of an entry that was read, with one lookup counted."""
        directory = self._handles.directory(fh)
        parent, entry = directory.inode, Entry(item.name, item.attrs)
        if parent.target is not None:
            until = directory.stream.until if item.is_sure else 0.0
            return self._nodes.listed(parent, entry, item.at, until)
        return self._nodes.lookup_synthetic(parent, item.name)

    async def mkdir(self, ino: Ino, name: Name, mode: int, caller: Caller) -> Node:
        """Make a directory with exactly ``mode``, whatever the server masks."""

        async def make(tree: RemoteTree, path: RemotePath) -> Attrs:
            return await tree.mkdir(path, mode & PERMISSION_BITS)

        async def own(tree: RemoteTree, path: RemotePath, attrs: Attrs) -> Attrs:
            attrs = await exact_mode(tree, path, attrs, mode)
            return await chown_name(
                tree, path, attrs, ownership_change(caller, parent, attrs)
            )

        new = _New(NewName(stat.S_IFDIR | mode & PERMISSION_BITS), make, own)
        parent, ownership_change = self._inodes.get(ino), self._ownership_change
        with self._recorder.doing("mkdir", caller, parent, name):
            return await self._new(ino, name, caller, new)

    async def mknod(self, ino: Ino, name: Name, mode: int, caller: Caller) -> Node:
        """Make an empty regular file; SFTP has no other nodes (EPERM, mknod(2))."""
        if not stat.S_ISREG(mode):
            raise RemoteError(errno.EPERM, "mknod", "only regular files")
        parent, target = self._parent(ino)

        async def make(tree: RemoteTree, path: RemotePath) -> Attrs:
            file, attrs, _ = await self._remote.quota(target, tree).open(
                lambda: create_file(tree, path, OpenMode.WRITE, os.O_EXCL, mode)
            )
            ownership_change = self._ownership_change(caller, parent, attrs)
            attrs = await chown_file(file, attrs, ownership_change)
            await file.close()
            return attrs

        async def own(tree: RemoteTree, path: RemotePath, attrs: Attrs) -> Attrs:
            attrs = await exact_mode(tree, path, attrs, mode)
            ownership_change = self._ownership_change(caller, parent, attrs)
            return await chown_name(tree, path, attrs, ownership_change)

        async def done(_: RemoteTree, __: RemotePath, attrs: Attrs) -> Attrs:
            await trio.lowlevel.checkpoint()
            return attrs

        new = _New(NewName(mode), make, done, own)
        with self._recorder.doing("create", caller, parent, name):
            return await self._new(ino, name, caller, new)

    async def symlink(
        self, ino: Ino, name: Name, content: bytes, caller: Caller
    ) -> Node:
        """Make a symbolic link to exactly ``content``."""

        async def make(tree: RemoteTree, path: RemotePath) -> Attrs:
            return await tree.symlink(content, path)

        async def own(tree: RemoteTree, path: RemotePath, attrs: Attrs) -> Attrs:
            return await chown_name(
                tree, path, attrs, ownership_change(caller, parent, attrs)
            )

        new = _New(NewName(stat.S_IFLNK | 0o777, content), make, own)
        parent, ownership_change = self._inodes.get(ino), self._ownership_change
        with self._recorder.doing("symlink", caller, parent, name):
            return await self._new(ino, name, caller, new)

    async def _new(self, ino: Ino, name: Name, caller: Caller, new: _New) -> Node:
        parent, target = self._parent(ino)
        check_name(name)

        async def change(tree: RemoteTree) -> Attrs:
            path = await self._remote.path(tree, parent, name)
            return await new.made(tree, path)

        async def finish(tree: RemoteTree) -> Attrs:
            path = await self._remote.path(tree, parent, name)
            return await new.finished(tree, path)

        with self._coherence.changing((parent, name)):
            attrs = await self._remote.change(target, caller, change, finish)
            self._coherence.made(parent, name, attrs)
        return self._nodes.looked_up(parent, name, attrs)

    def _parent(self, ino: Ino) -> tuple[Inode, Target]:
        parent = self._inodes.get(ino)
        return parent, self._nodes.below_target(parent)

    async def link(self, ino: Ino, parent_ino: Ino, name: Name, caller: Caller) -> Node:
        """Make a hard link."""
        inode = self._inodes.get(ino)
        parent, target = self._parent(parent_ino)
        check_name(name)
        if inode.target != target:
            raise RemoteError(errno.EXDEV, "link")

        async def change(tree: RemoteTree) -> Attrs:
            old = await self._remote.path(tree, inode)
            new = await self._remote.path(tree, parent, name)
            return await tree.link(old, new)

        async def finish(tree: RemoteTree) -> Attrs:
            old = await self._remote.path(tree, inode)
            new = await self._remote.path(tree, parent, name)
            return await finish_linking(tree, old, new)

        await self._coherence.settled(inode)
        at = trio.current_time()
        to = self._recorder.path(parent, name)
        with (
            self._recorder.doing("link", caller, inode, to=to),
            self._coherence.changing((parent, name)),
        ):
            attrs = await self._remote.change(target, caller, change, finish)
        self._coherence.linked(inode, (parent, name), attrs, at)
        return self._nodes.show(inode)

    async def unlink(self, ino: Ino, name: Name, caller: Caller) -> None:
        """Remove a name; the file lives on while it is open."""
        parent, target = self._parent(ino)

        async def change(tree: RemoteTree) -> None:
            await tree.unlink(await self._remote.path(tree, parent, name))

        async def finish(tree: RemoteTree) -> None:
            path = await self._remote.path(tree, parent, name)
            await finish_removing(tree, path, before, tree.unlink)

        before = self._before(parent, name)
        with (
            self._recorder.doing("unlink", caller, parent, name),
            self._coherence.changing((parent, name)),
        ):
            await self._remote.change(target, caller, change, finish)
            self._coherence.removed(parent, name)

    async def rmdir(self, ino: Ino, name: Name, caller: Caller) -> None:
        """Remove an empty directory."""
        parent, target = self._parent(ino)

        async def change(tree: RemoteTree) -> None:
            await tree.rmdir(await self._remote.path(tree, parent, name))

        async def finish(tree: RemoteTree) -> None:
            path = await self._remote.path(tree, parent, name)
            await finish_removing(tree, path, before, tree.rmdir)

        before = self._before(parent, name)
        with (
            self._recorder.doing("rmdir", caller, parent, name),
            self._coherence.changing((parent, name)),
        ):
            await self._remote.change(target, caller, change, finish)
            self._coherence.removed(parent, name)

    async def rename(
        self,
        old: tuple[Ino, Name],
        new: tuple[Ino, Name],
        caller: Caller,
        *,
        replace: bool,
    ) -> None:
        """Rename within one target; EXDEV across targets, so that mv copies."""
        old_parent, target = self._parent(old[0])
        new_parent, new_target = self._parent(new[0])
        check_name(new[1])
        if target != new_target:
            raise RemoteError(errno.EXDEV, "rename")

        async def change(tree: RemoteTree) -> None:
            old_path = await self._remote.path(tree, old_parent, old[1])
            new_path = await self._remote.path(tree, new_parent, new[1])
            await renaming.send(tree, old_path, new_path)

        async def finish(tree: RemoteTree) -> None:
            old_path = await self._remote.path(tree, old_parent, old[1])
            new_path = await self._remote.path(tree, new_parent, new[1])
            await renaming.finish(tree, old_path, new_path)

        renaming = Renaming(self._before(old_parent, old[1]), replace)
        to = self._recorder.path(new_parent, new[1])
        source, dest = (old_parent, old[1]), (new_parent, new[1])
        with (
            self._recorder.doing("rename", caller, old_parent, old[1], to=to),
            self._coherence.changing(source, dest),
            renaming.reported(to),
        ):
            await self._remote.change(target, caller, change, finish)
            self._coherence.renamed(source, dest)

    def _before(self, parent: Inode, name: Name) -> Before:
        """Return what is known of ``name``, to tell whether a change of it is done."""
        inode = parent.children.get(name)
        if inode is None:
            return Before()
        held = self._handles.of_inode(inode)
        if inode.unstored is not None and held:
            until = max((one.stop for one in inode.unstored.extents), default=0)
            fits = partial(held[0].evidence.fits, at_most=until)
            return Before(inode.seen, fits=fits)
        lifetime_s = self._coherence.known.lifetime_s(parent)
        is_fresh = trio.current_time() - inode.seen_at <= lifetime_s
        # A session that is over takes what was seen, and leaves when.
        is_known = inode.seen is not None and is_fresh and not inode.is_stale
        return Before(inode.seen, is_known)


@dataclass(frozen=True, slots=True)
class _New:
    """How a new name is made: by ``make``, and ``own`` gives it mode and owner.

    ``claim`` does that instead for what a lost session has made.
    """

    wanted: NewName
    make: Callable[[RemoteTree, RemotePath], Awaitable[Attrs]]
    own: Callable[[RemoteTree, RemotePath, Attrs], Awaitable[Attrs]]
    claim: Callable[[RemoteTree, RemotePath, Attrs], Awaitable[Attrs]] | None = None

    async def made(self, tree: RemoteTree, path: RemotePath) -> Attrs:
        """Make it."""
        return await self.own(tree, path, await self.make(tree, path))

    async def finished(self, tree: RemoteTree, path: RemotePath) -> Attrs:
        """Make it, unless a lost session has."""

        async def make() -> Attrs:
            return await self.made(tree, path)

        async def claim(attrs: Attrs) -> Attrs:
            return await (self.claim or self.own)(tree, path, attrs)

        return await finish_making(tree, path, self.wanted, make, claim)
