"""Names and attributes: lookup, getattr, setattr, readlink, access.

Law: the synthetic levels and the folder of a target are answered without a
session; what lies below a target is asked for, or fails.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import trio

from pamfs.config import Owner, Symlinks
from pamfs.errors import MissingError, NameRefusedError, PamfsError, RemoteError
from pamfs.model import (
    AttrChange,
    Attrs,
    Caller,
    Entry,
    Ino,
    Name,
    RemotePath,
    Target,
)
from pamfs.transport.base import OpenMode, RemoteFile, RemoteTree
from pamfs.vfs.data.writeback import Writeback
from pamfs.vfs.handles import OpenFile
from pamfs.vfs.names.attributes import MountOwner, Node, differs, paired
from pamfs.vfs.names.dentries import AbsentRuns, Dentry, pause_s
from pamfs.vfs.names.inodes import Inode
from pamfs.vfs.names.namespace import contained
from pamfs.vfs.prefetch.listings import ListingPrefetch
from pamfs.vfs.shared import Shared

NAME_MAX: Final = 255
# SFTP version 3 has times in whole seconds: the time of change of a file that is being
# written is asked for no more often than it can change.
TIME_STEP_S: Final = 1.0
# How long ``stat`` of a target's folder waits for an open but silent session.
ROOT_PATIENCE_S: Final = 1.0


class Nodes:
    """Everything that is asked about one inode."""

    def __init__(
        self,
        shared: Shared,
        writes: Writeback,
        walks: ListingPrefetch,
        me: MountOwner,
    ) -> None:
        self._namespace = shared.namespace
        self._inodes = shared.inodes
        self._handles = shared.handles
        self._remote = shared.remote
        self._coherence = shared.coherence
        self._known = shared.coherence.known
        self._attributes = shared.attributes
        self._writes = writes
        self._walks = walks
        self._me = me
        self._absences = AbsentRuns()

    async def lookup(self, parent_ino: Ino, name: Name, caller: Caller) -> Node:
        """Return the node of ``name``, with one lookup counted; raise ENOENT."""
        parent = self._inodes.get(parent_ino)
        if parent.target is None:
            return self.lookup_synthetic(parent, name)
        target = parent.target
        check_name(name)
        tree = self._remote.ready(target)
        if tree is None and self._namespace.is_probe(name):
            raise NameRefusedError("probed for while the target is closed")
        known = parent.children.get(name)
        dentry = None if tree is None else self._known.find(parent, name)
        if tree is not None and dentry is not None and self._is_sure(known, dentry):
            if dentry.attrs is not None or dentry.is_answer:
                return self._told(parent, name, known, dentry)
            if self._is_believed(parent, caller, pause_s(tree.round_trip_s)):
                return self._told(parent, name, known, dentry)
        return await self._ask(parent, name, target, caller)

    def _is_believed(self, parent: Inode, caller: Caller, pause: float) -> bool:
        """Whether a name is taken for absent that is only not in its listing."""
        now, target = trio.current_time(), self.below_target(parent)
        if self._absences.is_run(target, caller.pid, now):
            self._absences.answered(target, caller.pid, now, pause)
            return True
        return self._walks.is_walked(parent, caller, pause)

    def _pause_s(self, target: Target) -> float:
        tree = self._remote.ready(target)
        return pause_s(tree.round_trip_s if tree else 0.0)

    def _is_sure(self, known: Inode | None, dentry: Dentry) -> bool:
        """Whether the name of ``known`` cannot have come to mean another file.

        What is not open here may: the kernel then finds out when it opens it. After a
        lost session a listing may be from before a write, whose size nothing knows.
        """
        if known is None:
            return True
        if dentry.attrs is not None and known.is_newer(dentry.at):
            return False
        if not self._handles.of_inode(known):
            return True
        if dentry.attrs is None or dentry.at <= known.seen_at:
            return True
        return known.seen is not None and not differs(known.seen, dentry.attrs)

    def _told(
        self, parent: Inode, name: Name, known: Inode | None, dentry: Dentry
    ) -> Node:
        timeout_s = dentry.until - trio.current_time()
        if dentry.attrs is None:
            self._coherence.detached(parent, name, known)
            raise MissingError(timeout_s)
        inode = self._inodes.looked_up(parent, name, dentry.attrs)
        self._coherence.looked(inode, dentry.attrs, dentry.at)
        return self.show(inode, timeout_s)

    async def _ask(
        self, parent: Inode, name: Name, target: Target, caller: Caller
    ) -> Node:
        known, at = parent.children.get(name), trio.current_time()
        self._walks.missed(parent, caller)

        async def ask(tree: RemoteTree) -> tuple[Attrs, bool]:
            path = await self._remote.path(tree, parent, name)
            attrs = await tree.lstat(path)
            return attrs, known is not None and await self._is_another(
                known, tree, path, attrs
            )

        try:
            attrs, is_another = await self._remote.ask(target, caller, ask)
        except RemoteError as exc:
            if exc.code == errno.ENOENT:
                self._coherence.absent(parent, name, known, at)
                self._absences.answered(
                    target, caller.pid, trio.current_time(), self._pause_s(target)
                )
                raise MissingError(self._known.lifetime_s(parent)) from exc
            raise
        if is_another:
            self._coherence.detached(parent, name, known)
        self._check_listing(parent, name, attrs, at)
        return self.looked_up(parent, name, attrs, at)

    def _check_listing(
        self, parent: Inode, name: Name, attrs: Attrs, at: float
    ) -> None:
        """Add a name that is there to a listing that does not hold it."""
        dentry = self._known.find(parent, name)
        if dentry is not None and dentry.attrs is None:
            self._absences.contradicted(self.below_target(parent))
            self._coherence.found_unlisted(parent, name, attrs, at)

    async def _is_another(
        self, known: Inode, tree: RemoteTree, path: RemotePath, attrs: Attrs
    ) -> bool:
        """Whether ``path`` holds another file than the one that is open here.

        SFTP version 3 has no inode numbers. Open and named, one and the same
        file has the same size and time, unless it changes between the looks.
        """
        if known.unstored is not None:
            return False  # it changes by what we write
        files = self._handles.of_inode(known)
        here = [file for file in files if file.tree is tree]
        if not here:  # they were opened in a session that was lost
            return is_replaced(files, attrs)
        for file in here:
            if not differs(file.opened, attrs):
                return False
            held = await file.remote.stat()
            return differs(held, attrs) and not differs(await tree.lstat(path), attrs)
        return False

    def lookup_synthetic(self, parent: Inode, name: Name) -> Node:
        """Return the node of a tenant or target, with one lookup counted."""
        if parent is self._inodes.root:
            if not self._namespace.has_tenant(name):
                raise NameRefusedError("no such tenant")
            target = None
        else:
            target = self._namespace.find_target(self.tenant_of(parent), name)
        return self.show(self._inodes.looked_up(parent, name, None, target))

    def tenant_of(self, inode: Inode) -> Name:
        """Return the tenant whose folder ``inode`` is."""
        return self._inodes.components(inode)[0]

    def looked_up(
        self, parent: Inode, name: Name, attrs: Attrs, at: float | None = None
    ) -> Node:
        """Return the node of a name asked for ``at``, with one lookup counted."""
        inode = self._inodes.looked_up(parent, name, attrs)
        now = trio.current_time()
        self._coherence.looked(inode, attrs, now if at is None else at)
        return self.show(inode)

    def listed(self, parent: Inode, entry: Entry, at: float, until: float) -> Node:
        """Return the node of an entry listed at ``at``, with one lookup counted.

        The kernel takes these attributes as a file's size at once. What has been
        seen or written since the listing is newer than the listing.
        """
        inode = self._inodes.looked_up(parent, entry.name, entry.attrs)
        if self._is_in_doubt(inode, entry.attrs):
            return self.show(inode, 0.0)
        self._coherence.looked(inode, entry.attrs, at)
        return self.show(inode, until - trio.current_time())

    def _is_in_doubt(self, inode: Inode, attrs: Attrs) -> bool:
        """Whether ``attrs`` of a name may be another file's than the one open here.

        The size of another file would cut off what the kernel knows of this one. It
        keeps what was seen of it; a lookup asks the device which file it is.
        """
        files = self._handles.of_inode(inode)
        if not files or inode.unstored is not None:
            return False
        if inode.seen is None:
            self._coherence.looked(inode, _least_known(files[0]), inode.seen_at)
        return inode.seen is not None and differs(inode.seen, attrs)

    def getattr_nowait(self, ino: Ino) -> Node | None:
        """Return the node if the device need not be asked for it."""
        inode = self._inodes.get(ino)
        if inode.target is None:
            return self.show(inode)
        if inode.lost is not None or not self._is_known(inode, inode.target):
            return None
        return self.show(inode)

    async def getattr(self, ino: Ino, caller: Caller) -> Node:
        """Return the node; ask the device for anything below a target."""
        known = self.getattr_nowait(ino)
        inode = self._inodes.get(ino)
        if known is not None or inode.target is None:
            return known or self.show(inode)
        if inode.lost is not None:
            raise RemoteError(errno.ESTALE, "getattr", "its data was lost")
        if inode.is_target_root:
            await self._refresh_target_root(inode, inode.target)
        elif inode.names or self._handles.of_inode(inode):
            self._check_held(inode, inode.target)
            await self._refresh(inode, inode.target, caller)
        elif inode.seen is None:
            raise RemoteError(errno.ESTALE, "getattr", "it has been removed")
        return self.show(inode)

    def _is_known(self, inode: Inode, target: Target) -> bool:
        """Whether the device need not be asked for the attributes of ``inode``.

        The kernel asks before it reads behind a write. While a file is being written
        through this mount, its size is known and its time of change is asked for once a
        second; another time of change would have the kernel drop its pages each time.
        """
        if inode.seen is None:
            return False  # its session was lost
        if self._known.is_fresh(inode) or inode.is_foretold:
            return True
        known_s = min(TIME_STEP_S, self._known.lifetime_s(inode))
        if trio.current_time() >= inode.counted_at + known_s:
            return False
        return self._handles.is_written(inode, self._remote.ready(target))

    def _check_held(self, inode: Inode, target: Target) -> None:
        """Raise ESTALE for a stale handle if the target is closed.

        ``tail -f`` asks each second for what it has open: that must not open the
        session which was closed on purpose. A request by name begins with a lookup.
        """
        if self._remote.ready(target) is None:
            for file in self._handles.of_inode(inode):
                self._remote.check(target, file.epoch)

    async def _refresh(self, inode: Inode, target: Target, caller: Caller) -> None:
        async def ask(tree: RemoteTree) -> Attrs:
            # An open handle is the file, wherever its name leads now.
            remote = self._handle_for(inode, tree, AttrChange())
            if remote is not None:
                return await remote.stat()
            return await self._attrs_of_name(inode, tree)

        await self._coherence.settled(inode, looks=True)
        if self._known.is_fresh(inode):
            return
        at = trio.current_time()
        attrs = await self._remote.ask(target, caller, ask)
        if stat.S_IFMT(attrs.mode) != inode.file_type:
            raise RemoteError(errno.ESTALE, "getattr", "replaced by another type")
        self._coherence.looked(inode, attrs, at, by_handle=True)

    async def _attrs_of_name(self, inode: Inode, tree: RemoteTree) -> Attrs:
        """Return the attributes of a file by its name; ESTALE if that is another's.

        ``inode`` is not open in the session of ``tree``. What is open of an earlier
        one counts as this file only while its size and time are those of the open.
        """
        held = self._handles.of_inode(inode)
        try:
            attrs = await tree.lstat(await self._remote.path(tree, inode))
        except RemoteError as exc:
            if exc.code == errno.ENOENT and (held or not inode.names):
                raise RemoteError(errno.ESTALE, "getattr", "it is gone") from exc
            raise
        if is_replaced(held, attrs):
            raise RemoteError(errno.ESTALE, "getattr", "it was replaced meanwhile")
        return attrs

    async def _path_of_it(self, inode: Inode, tree: RemoteTree) -> RemotePath:
        """Return where ``inode`` is; ESTALE if another file is there by now.

        That is looked at only for what is open of sessions that are over.
        """
        files = self._handles.of_inode(inode)
        if files and all(file.tree is not tree for file in files):
            await self._attrs_of_name(inode, tree)
        return await self._remote.path(tree, inode)

    async def _refresh_target_root(self, inode: Inode, target: Target) -> None:
        # Looking is not entering, and a silent device must not hold up `ls -l`.
        tree = self._remote.ready(target)
        if tree is None:
            self._coherence.unreadable(inode)
            return
        at = trio.current_time()
        with trio.move_on_after(ROOT_PATIENCE_S):
            try:
                attrs = await tree.lstat(await self._remote.path(tree, inode))
                self._coherence.looked(inode, attrs, at)
            except PamfsError:
                self._coherence.unreadable(inode)

    async def setattr(self, ino: Ino, change: AttrChange, caller: Caller) -> Node:
        """Change attributes and return the node as it is afterwards."""
        inode = self._inodes.get(ino)
        if inode.target is None:
            raise RemoteError(errno.EPERM, "setattr", "a folder of the mount itself")
        target = inode.target
        self._check_held(inode, target)
        wanted = self._owned(target, change)
        if wanted == AttrChange() and inode.seen is not None:
            return self.show(inode)
        if not self._follows(inode, target, wanted):
            if inode.seen is not None and self._known.is_fresh(inode):
                wanted = paired(wanted, inode.seen)
            await self._set(inode, target, wanted, caller)
        return self.show(inode)

    async def _set(
        self, inode: Inode, target: Target, wanted: AttrChange, caller: Caller
    ) -> None:
        opened = self._handles.of_inode(inode)
        evidence = [file.evidence for file in opened[:1]]

        async def set_it(tree: RemoteTree) -> Attrs:
            # Some servers show what is being written by its handle alone.
            is_named = bool(inode.names)
            remote = self._handle_for(inode, tree, wanted, is_named=is_named)
            if remote is None and not is_named:
                raise RemoteError(errno.ESTALE, "setattr", "it has been removed")
            path = None if remote else await self._path_of_it(inode, tree)
            for known in evidence:
                known.note_change(wanted)
            if remote is not None:
                return await remote.set_attrs(wanted)
            assert path is not None  # noqa: S101 - one of both is there
            return await tree.set_attrs(path, wanted)

        await self._coherence.settled(inode)
        with self._coherence.setting(inode, wanted) as is_set:
            attrs = await self._remote.change(target, caller, set_it, set_it)
            is_set(attrs)
        for known in evidence:
            known.looked(attrs)

    def _follows(self, inode: Inode, target: Target, change: AttrChange) -> bool:
        """Whether ``change`` goes out behind writes that are on their way."""
        if inode.unstored is None or inode.seen is None:
            return False
        self._remote.check_writable(target)
        if not self._writes.follow(inode, change):
            return False
        self._coherence.foretold(inode, change)
        return True

    def _handle_for(
        self,
        inode: Inode,
        tree: RemoteTree,
        change: AttrChange,
        *,
        is_named: bool = False,
    ) -> RemoteFile | None:
        # ftruncate(2) needs a handle that can write; one of a lost session is none.
        needs_write = is_named or change.size is not None
        for file in self._handles.of_inode(inode):
            can_write = OpenMode.WRITE in file.mode
            if file.tree is tree and (can_write or not needs_write):
                return file.remote
        return None

    def _owned(self, target: Target, change: AttrChange) -> AttrChange:
        if self._remote.view(target).owner is Owner.REMOTE:
            return change
        if change.uid not in {None, self._me.uid} or change.gid not in {
            None,
            self._me.gid,
        }:
            raise RemoteError(errno.EPERM, "chown", 'with owner = "me" all is mine')
        return replace(change, uid=None, gid=None)

    async def readlink(self, ino: Ino, caller: Caller) -> bytes:
        """Return what the link shows."""
        inode = self._inodes.get(ino)
        target = self.below_target(inode)

        async def ask(tree: RemoteTree) -> bytes:
            return await tree.readlink(await self._remote.path(tree, inode))

        content = await self._remote.ask(target, caller, ask)
        view = self._remote.view(target)
        if view.symlinks is Symlinks.AS_IS:
            return content
        return contained(content, self._remote.depth(inode), view.root)

    def may_access(self, ino: Ino, mask: int) -> bool:
        """Answer access(2) by what was seen; the device decides at the request."""
        inode = self._inodes.get(ino)
        if inode.target is None:
            return not mask & 2
        if mask & 1 and not inode.is_dir and inode.seen is not None:
            return bool(inode.seen.mode & 0o111)
        return True

    def show(self, inode: Inode, timeout_s: float | None = None) -> Node:
        """Return the node with its attributes as the kernel is to see them."""
        return self._attributes.show(inode, timeout_s)

    @staticmethod
    def below_target(inode: Inode) -> Target:
        """Return the target of ``inode``; raise EPERM on a synthetic level."""
        if inode.target is None:
            raise RemoteError(errno.EPERM, "change", "a folder of the mount itself")
        return inode.target


def is_replaced(files: Iterable[OpenFile], attrs: Attrs) -> bool:
    """Whether ``attrs`` cannot be those of ``files``, opened in a lost session."""
    return any(
        not f.evidence.fits(attrs)
        if f.evidence.is_written
        else differs(f.opened, attrs)
        for f in files
    )


def _least_known(file: OpenFile) -> Attrs:
    """Return the attributes of the open, with the size that was written since."""
    attrs = file.opened
    return replace(attrs, size=max(attrs.size, file.evidence.size))


def check_name(name: Name) -> None:
    """Raise ENAMETOOLONG for a name that no device holds."""
    if len(name) > NAME_MAX:
        raise RemoteError(errno.ENAMETOOLONG, "name")
