"""The kernel's requests, one method each: translate, ask the tree, translate.

Kernel numbers and flags are converted here; ``reply`` handles errors and deadlines.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from pamfs.errors import MissingError
from pamfs.fuse.inflight import InFlightTable
from pamfs.fuse.replies import (
    Waiting,
    at_once,
    entry_of,
    missing_entry,
    reply,
    reply_now,
)
from pamfs.model import AttrChange, Caller, FileHandle, Ino, Name, Space
from pamfs.vfs.files import OpenReply
from pamfs.vfs.names.attributes import Node
from pamfs.vfs.tree import Tree

XATTR_PREFIX: Final = b"user.pamfs."


class Operations(pyfuse3.Operations):
    """What pyfuse3 calls."""

    supports_dot_lookup = False
    # With it the kernel loses data of appends (facts/peers.md#write-back-cache).
    enable_writeback_cache = False
    enable_acl = False

    def __init__(
        self,
        tree: Tree,
        within_s: float,
        invalidate: Callable[[Ino], None] | None = None,
        waiting: Waiting | None = None,
    ) -> None:
        """``within_s`` is the deadline of every request, a login included.

        What waits runs in ``waiting``; without it, where pyfuse3 runs it.
        """
        super().__init__()
        self.waiting = waiting
        self.in_flight = InFlightTable()
        self.within_s = within_s
        self._tree = tree
        self._invalidate = invalidate or _invalidate_attrs

    def pid_behind(self, args: Sequence[object]) -> int:
        """Return the process that a request with these arguments comes from.

        pyfuse3 gives no context with a handle; the caller is then its opener.
        """
        if isinstance(args[-1], RequestContext):
            return args[-1].pid
        first = args[0]
        opener = isinstance(first, int) and self._tree.handles.opener(FileHandle(first))
        return opener.pid if opener else 0

    @reply
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        nodes = self._tree.nodes
        try:
            node = await nodes.lookup(Ino(parent_inode), Name(name), _caller(ctx))
        except MissingError as exc:
            return missing_entry(exc.timeout_s)
        return entry_of(node)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for ino, nlookup in inode_list:
            self._tree.inodes.forget(Ino(ino), nlookup)

    def _getattr_nowait(
        self, inode: InodeT, ctx: RequestContext
    ) -> EntryAttributes | None:
        del ctx
        node = self._tree.nodes.getattr_nowait(Ino(inode))
        return None if node is None else entry_of(node)

    @at_once(_getattr_nowait)
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return entry_of(await self._tree.nodes.getattr(Ino(inode), _caller(ctx)))

    @reply
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        del fh  # the tree finds the open handle that may be used
        change = _change(attr, fields)
        return entry_of(
            await self._tree.nodes.setattr(Ino(inode), change, _caller(ctx))
        )

    @reply
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return FileNameT(await self._tree.nodes.readlink(Ino(inode), _caller(ctx)))

    @reply_now
    def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        del ctx
        return self._tree.nodes.may_access(Ino(inode), mode)

    @reply
    async def mknod(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        rdev: int,
        ctx: RequestContext,
    ) -> EntryAttributes:
        del rdev
        node = await self._tree.directories.mknod(
            Ino(parent_inode), Name(name), mode, _caller(ctx)
        )
        return entry_of(node)

    @reply
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        node = await self._tree.directories.mkdir(
            Ino(parent_inode), Name(name), mode, _caller(ctx)
        )
        return entry_of(node)

    @reply
    async def unlink(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> None:
        await self._tree.directories.unlink(Ino(parent_inode), Name(name), _caller(ctx))

    @reply
    async def rmdir(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> None:
        await self._tree.directories.rmdir(Ino(parent_inode), Name(name), _caller(ctx))

    @reply
    async def symlink(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        target: FileNameT,
        ctx: RequestContext,
    ) -> EntryAttributes:
        node = await self._tree.directories.symlink(
            Ino(parent_inode), Name(name), bytes(target), _caller(ctx)
        )
        return entry_of(node)

    @reply
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            # SFTP cannot exchange two names; renameat2(2) names EINVAL for that.
            raise FUSEError(errno.EINVAL)
        await self._tree.directories.rename(
            (Ino(parent_inode_old), Name(name_old)),
            (Ino(parent_inode_new), Name(name_new)),
            _caller(ctx),
            replace=not flags,
        )

    @reply
    async def link(
        self,
        inode: InodeT,
        new_parent_inode: InodeT,
        new_name: FileNameT,
        ctx: RequestContext,
    ) -> EntryAttributes:
        node = await self._tree.directories.link(
            Ino(inode), Ino(new_parent_inode), Name(new_name), _caller(ctx)
        )
        return entry_of(node)

    @reply
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        opened = await self._tree.files.open(Ino(inode), flags, _caller(ctx))
        if opened.is_changed:
            self._invalidate(Ino(inode))
        return _file_info(opened)

    @reply
    async def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        where = (Ino(parent_inode), Name(name))
        opened, node = await self._tree.files.create(where, flags, mode, _caller(ctx))
        return _file_info(opened), entry_of(node)

    def _read_nowait(self, fh: FileHandleT, off: int, size: int) -> bytes | None:
        data = self._tree.files.read_nowait(FileHandle(fh), off, size)
        return cast("bytes | None", data)

    @at_once(_read_nowait)
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        data = await self._tree.files.read(FileHandle(fh), off, size)
        return cast("bytes", data)  # pyfuse3 says bytes, and takes any buffer

    def _write_nowait(self, fh: FileHandleT, off: int, buf: bytes) -> int | None:
        return self._tree.files.write_nowait(FileHandle(fh), off, buf)

    @at_once(_write_nowait)
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        return await self._tree.files.write(FileHandle(fh), off, buf)

    @reply
    async def flush(self, fh: FileHandleT) -> None:
        await self._tree.files.flush(FileHandle(fh))

    @reply
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:  # noqa: FBT001 - pyfuse3's signature
        del datasync
        await self._tree.files.fsync(FileHandle(fh))

    @reply
    async def release(self, fh: FileHandleT) -> None:
        await self._tree.files.release(FileHandle(fh))

    @reply
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        fh = await self._tree.directories.open(Ino(inode), _caller(ctx))
        return FileHandleT(fh)

    async def readdir(
        self, fh: FileHandleT, start_id: int, token: ReaddirToken
    ) -> None:
        read = self._readdir_on if start_id else self._readdir
        await read(fh, start_id, token)

    @reply_now
    def _readdir_on(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        self._tree.directories.read_on(FileHandle(fh), start_id, _fits(token))

    @reply
    async def _readdir(
        self, fh: FileHandleT, start_id: int, token: ReaddirToken
    ) -> None:
        await self._tree.directories.read(FileHandle(fh), start_id, _fits(token))

    @reply_now
    def releasedir(self, fh: FileHandleT) -> None:
        self._tree.directories.close(FileHandle(fh))

    @reply_now
    def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:  # noqa: FBT001 - pyfuse3's signature
        """Answer success: every change of a name was acknowledged already.

        SFTP has no way to sync a directory (docs/posix.md).
        """
        del datasync
        self._tree.directories.check(FileHandle(fh))

    @reply_now
    def statfs(self, ctx: RequestContext) -> StatvfsData:
        del ctx
        return _statvfs(self._tree.space())

    @reply_now
    def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        # Answered without a round trip: the kernel asks for security.capability before
        # every write (facts/peers.md#extended-attributes). EOPNOTSUPP, not ENODATA:
        # after ENODATA ls -l asks for a label and two access lists of every file.
        if not name.startswith(b"user."):
            raise FUSEError(errno.EOPNOTSUPP)
        facts = self._facts(inode, ctx) if name.startswith(XATTR_PREFIX) else {}
        try:
            return facts[bytes(name)]
        except KeyError:
            raise FUSEError(pyfuse3.ENOATTR) from None

    @reply_now
    def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        return [XAttrNameT(name) for name in self._facts(inode, ctx)]

    @reply_now
    def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        del inode, value, ctx
        ours = name.startswith(XATTR_PREFIX)
        raise FUSEError(errno.EPERM if ours else errno.EOPNOTSUPP)

    @reply_now
    def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        del inode, ctx
        ours = name.startswith(XATTR_PREFIX)
        raise FUSEError(errno.EPERM if ours else errno.EOPNOTSUPP)

    def _facts(self, ino: InodeT, ctx: RequestContext) -> Mapping[bytes, bytes]:
        """Return the ``user.pamfs.*`` attributes.

        Empty unless the caller is root or the mount's owner.
        """
        if ctx.uid not in {0, os.geteuid()}:
            return {}
        facts = self._tree.facts(Ino(ino))
        return {
            XATTR_PREFIX + key.encode(): value.encode() for key, value in facts.items()
        }


def _fits(token: ReaddirToken) -> Callable[[Name, Node, int], bool]:
    def fits(name: Name, node: Node, next_id: int) -> bool:
        return pyfuse3.readdir_reply(token, name, entry_of(node), next_id)

    return fits


def _invalidate_attrs(ino: Ino) -> None:
    # Attributes only: no page is locked, so this is safe inside a handler.
    pyfuse3.invalidate_inode(InodeT(ino), attr_only=True)


def _caller(ctx: RequestContext) -> Caller:
    return Caller(ctx.pid, ctx.uid, ctx.gid, ctx.umask)


def _change(attr: EntryAttributes, fields: SetattrFields) -> AttrChange:
    return AttrChange(
        mode=attr.st_mode if fields.update_mode else None,
        size=attr.st_size if fields.update_size else None,
        uid=attr.st_uid if fields.update_uid else None,
        gid=attr.st_gid if fields.update_gid else None,
        atime_ns=attr.st_atime_ns if fields.update_atime else None,
        mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
    )


def _file_info(opened: OpenReply) -> FileInfo:
    return FileInfo(
        fh=FileHandleT(opened.fh),
        direct_io=opened.direct_io,
        keep_cache=opened.keep_cache,
    )


def _statvfs(space: Space) -> StatvfsData:
    data = StatvfsData()
    data.f_bsize = data.f_frsize = space.fragment_bytes
    data.f_blocks = space.blocks
    data.f_bfree = space.blocks_free
    data.f_bavail = space.blocks_available
    data.f_files = space.files
    data.f_ffree = space.files_free
    data.f_favail = space.files_available
    data.f_namemax = space.name_max
    return data
