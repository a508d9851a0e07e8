"""Files: open, create, read, write, flush, fsync, release.

Law: a write is answered once it is queued (``data.writeback``); flush and fsync wait
until the device has acknowledged it. An error is latched in the open file, and every
write, flush and fsync raises it until the last close. A read error is an error, never
an end of file, and a read after a write sees it. An open file is opened again after a
lost session only if nothing was written through it and the file is the same.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

import trio

from pamfs.errors import PamfsError, RemoteError, SessionLostError
from pamfs.model import (
    AttrChange,
    Attrs,
    Caller,
    Data,
    Extent,
    FileHandle,
    Ino,
    Name,
    Target,
)
from pamfs.transport.base import OpenMode, RemoteFile, RemoteTree
from pamfs.vfs.audit_records import mode_name
from pamfs.vfs.coherence import DirEntry
from pamfs.vfs.data.opening import (
    FILE_BITS,
    chown_file,
    closed_on_error,
    create_file,
    exact_file_mode,
    open_file,
    open_mode,
)
from pamfs.vfs.data.reopening import Reopening
from pamfs.vfs.data.writeback import Writeback
from pamfs.vfs.data.writequeue import laid_over
from pamfs.vfs.handles import OpenFile
from pamfs.vfs.names.attributes import Node, differs
from pamfs.vfs.names.inodes import Inode
from pamfs.vfs.names.resolve import NewName, finish_making
from pamfs.vfs.nodes import Nodes, check_name, is_replaced
from pamfs.vfs.prefetch.small_files import PrefetchedFile, SmallFilePrefetch
from pamfs.vfs.prefetch.streams import Readahead, TargetReadahead
from pamfs.vfs.remote_access import Ask, stale
from pamfs.vfs.shared import Shared
from pamfs.vfs.stall import CLOSE_S, SilentTargets

log = logging.getLogger(__name__)

# The most that a readahead block may be old, if the file is not known to have changed.
_FRESH_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class OpenReply:
    """The answer to an open."""

    fh: FileHandle
    keep_cache: bool
    direct_io: bool
    is_changed: bool  # the attributes that the kernel holds are out of date


_Made = tuple[RemoteTree, int, RemoteFile, Attrs, bool]


class Files:
    """Everything that is done with open files."""

    def __init__(
        self,
        shared: Shared,
        nodes: Nodes,
        writes: Writeback,
        small: SmallFilePrefetch,
        reopening: Reopening,
    ) -> None:
        self._reopening = reopening
        self._nodes = nodes
        self._recorder = shared.recorder
        self._lost = shared.lost
        self._background = shared.background
        self._feeds: dict[Target, TargetReadahead] = {}
        self._inodes = shared.inodes
        self._handles = shared.handles
        self._remote = shared.remote
        self._coherence = shared.coherence
        self._ownership_change = shared.attributes.ownership_change
        self.stalls = SilentTargets()
        self._closes: set[trio.CancelScope] = set()
        self.writes = writes
        self.small = small
        shared.background.budget.on_pressure(self._drop_stale)

    async def open(self, ino: Ino, flags: int, caller: Caller) -> OpenReply:
        """Open an existing file and see whether it changed since the last time."""
        inode = self._inodes.get(ino)
        if inode.lost is not None:
            raise RemoteError(errno.ESTALE, "open", "its data was lost")
        target = self._nodes.below_target(inode)
        mode = open_mode(flags)

        async def ask(tree: RemoteTree) -> OpenFile:
            return await self._opened(inode, mode, caller, tree)

        once = OpenMode.TRUNCATE in mode
        how = f"{mode_name(mode)} truncate" if once else mode_name(mode)
        await self._coherence.settled(inode)
        at = trio.current_time()
        with (
            self._recorder.doing("open", caller, inode, mode=how),
            self._looked_up_again(inode),
        ):
            if once:
                file = await self._remote.change(target, caller, ask, ask)
            else:
                file = await self._remote.ask(target, caller, ask)
        attrs = file.opened
        is_changed = inode.seen is not None and differs(inode.seen, attrs)
        asked_at = None if isinstance(file.remote, PrefetchedFile) else at
        keep_cache = self._coherence.opened(inode, attrs, asked_at, mode)
        # The page cache would hold an append at the offset the kernel guessed.
        direct = OpenMode.APPEND in mode
        return OpenReply(self._add(file), keep_cache, direct, is_changed)

    async def _opened(
        self, inode: Inode, mode: OpenMode, caller: Caller, tree: RemoteTree
    ) -> OpenFile:
        target = self._nodes.below_target(inode)
        epoch = self._remote.epoch(target)
        if OpenMode.WRITE in mode:
            self._remote.check_writable(target)
        held = None
        if mode == OpenMode.READ and not self._handles.of_inode(inode):
            held = await self.small.take(inode, tree)
        if held is not None:
            opened: tuple[RemoteFile, Attrs] = held, held.attrs
        else:
            path = await self._remote.path(tree, inode)
            quota = self._remote.quota(target, tree)
            if OpenMode.TRUNCATE in mode:
                for file in self._handles.of_inode(inode)[:1]:
                    file.evidence.note_change(AttrChange(size=0))
            opened = await quota.open(lambda: open_file(tree, path, mode))
            async with closed_on_error(opened[0]):
                await self._check_same(inode, tree, *opened)
        return OpenFile(inode, target, caller, mode, tree, *opened, epoch)

    @contextlib.contextmanager
    def _looked_up_again(self, inode: Inode) -> Iterator[None]:
        """Have the kernel look a name up again that is gone, or another file's.

        It does so for ESTALE, once; then a name that is gone may be made anew. Of
        /proc/self/fd it asks for this inode again, which has lost that name: ENOENT.
        """
        asked = inode.names[:1]
        try:
            yield
        except RemoteError as exc:
            self._coherence.open_failed(inode)
            if exc.code == errno.ENOENT and (asked or inode.lost is not None):
                # Unless it was renamed meanwhile, or removed by ourselves.
                for parent, name in asked:
                    self._coherence.detached(parent, name, inode)
                raise RemoteError(errno.ESTALE, "open", "it is gone") from exc
            raise

    def _add(self, file: OpenFile) -> FileHandle:
        file.program = self._recorder.program(file.caller)
        file.is_pinned = file.epoch == self._remote.epoch(file.target)
        if file.is_pinned:
            self._remote.pin(file.target)
        file.ahead = Readahead(self._feed(file.target), file)
        return self._handles.add_file(file)

    def _feed(self, target: Target) -> TargetReadahead:
        feed = self._feeds.get(target)
        if feed is None:
            view = self._remote.view(target)
            fresh_s = max(view.attr_timeout_s, _FRESH_S)
            feed = TargetReadahead(
                target, self._background, fresh_s, view.request_timeout_s
            )
            self._feeds[target] = feed
        return feed

    def forget(self, target: Target) -> None:
        """Drop all content of ``target``: its session is over."""
        self.small.closed(target)
        for file in self._handles.files_of(target):
            file.ahead.drop()

    def _drop_stale(self, target: Target) -> bool:
        files = self._handles.files_of(target)
        return any(file.ahead.drop_stale() for file in files)

    def revoke(self, target: Target) -> None:
        """Make every open file of ``target`` stale for good."""
        self._remote.revoke(target)
        self.writes.abandon(stale(), target)
        self._handles.empty_directories(target)
        for file in self._handles.files_of(target):
            self._unpin(file)

    def _unpin(self, file: OpenFile) -> None:
        if file.is_pinned:
            file.is_pinned = False
            self._remote.unpin(file.target)

    async def _check_same(
        self, inode: Inode, tree: RemoteTree, remote: RemoteFile, attrs: Attrs
    ) -> None:
        """Raise ESTALE if ``remote`` is not the file that is open here already.

        The kernel then looks the name up again. One inode has one page cache,
        and the old file's pages would be read as the new one's.
        """
        files = self._handles.of_inode(inode)
        here = [file for file in files if file.tree is tree]
        if not here and is_replaced(files, attrs):
            raise RemoteError(errno.ESTALE, "open", "it was replaced meanwhile")
        for file in here:
            if not differs(file.opened, attrs):
                continue
            held, again = await file.remote.stat(), await remote.stat()
            if differs(held, attrs) and not differs(again, attrs):
                raise RemoteError(errno.ESTALE, "open", "it was replaced meanwhile")
            return

    async def create(
        self, where: tuple[Ino, Name], flags: int, mode: int, caller: Caller
    ) -> tuple[OpenReply, Node]:
        """Create a file, or open the one that came into being meanwhile."""
        parent = self._inodes.get(where[0])
        name = where[1]
        check_name(name)
        target = self._nodes.below_target(parent)
        wanted = open_mode(flags)

        make, finish = self._making((parent, name), flags, mode, caller)
        with (
            self._recorder.doing("create", caller, parent, name),
            self._coherence.changing((parent, name)),
        ):
            made = await self._remote.change(target, caller, make, finish)
        tree, epoch, remote, attrs, is_new = made
        inode = self._coherence.created(parent, name, attrs)
        node = self._nodes.show(inode)
        file = OpenFile(inode, target, caller, wanted, tree, remote, attrs, epoch)
        file.is_new = is_new
        direct = OpenMode.APPEND in wanted
        fh = self._add(file)
        return OpenReply(fh, keep_cache=False, direct_io=direct, is_changed=False), node

    def _making(
        self, where: DirEntry, flags: int, mode: int, caller: Caller
    ) -> tuple[Ask[_Made], Ask[_Made]]:
        """Return how a file is made, and how that is finished after a lost session."""
        parent, name = where
        target = self._nodes.below_target(parent)
        wanted = open_mode(flags)

        async def given(remote: RemoteFile, attrs: Attrs) -> Attrs:
            return await chown_file(
                remote, attrs, self._ownership_change(caller, parent, attrs)
            )

        async def make(tree: RemoteTree) -> _Made:
            epoch = self._remote.epoch(target)
            path = await self._remote.path(tree, parent, name)
            remote, attrs, is_new = await self._remote.quota(target, tree).open(
                lambda: create_file(tree, path, wanted, flags, mode)
            )
            if is_new:
                attrs = await given(remote, attrs)
            return tree, epoch, remote, attrs, is_new

        async def finish(tree: RemoteTree) -> _Made:
            epoch = self._remote.epoch(target)
            path = await self._remote.path(tree, parent, name)

            async def claim(_: Attrs) -> _Made:
                kept = wanted & ~OpenMode.TRUNCATE
                remote, attrs = await open_file(tree, path, kept)
                async with closed_on_error(remote):
                    attrs = await exact_file_mode(remote, attrs, mode)
                return tree, epoch, remote, await given(remote, attrs), True

            asked = NewName(stat.S_IFREG | mode & FILE_BITS)
            try:
                return await finish_making(tree, path, asked, lambda: make(tree), claim)
            except RemoteError as exc:
                if exc.code != errno.EEXIST or flags & os.O_EXCL:
                    raise
            return await make(tree)

        return make, finish

    def read_nowait(self, fh: FileHandle, offset: int, size: int) -> Data | None:
        """As ``read``, if it is here already and nothing is wrong; else None."""
        file = self._handles.file(fh)
        if not self._is_usable(file) or file.inode.lost is not None:
            return None
        data = file.ahead.take(offset, offset + size)
        return None if data is None else self._was_read(file, data)

    async def read(self, fh: FileHandle, offset: int, size: int) -> Data:
        """Return ``size`` bytes, or fewer at the end of the file only."""
        file = self._handles.file(fh)
        self._check_readable(file)
        data = file.ahead.take(offset, offset + size)
        if data is None and file.inode.unstored is not None:
            data = await self._apart(file, offset, size)
        if data is None:
            data = await self._fetched(file, offset, size)
        return self._was_read(file, data)

    def _was_read(self, file: OpenFile, data: Data) -> Data:
        self._handles.usage[file.target].bytes_read += len(data)
        file.bytes_read += len(data)
        return data

    async def _apart(self, file: OpenFile, offset: int, size: int) -> Data | None:
        """Return what is read beside writes on their way; None: wait for them.

        A server may take reads and writes of one file in any order, so what is queued
        is laid over the answer. The file must have been that long when it was opened;
        a short answer may be for a write that is missing. Nothing is read ahead: what
        follows may be written.
        """
        wanted = Extent(offset, offset + size)
        if wanted.stop > file.opened.size:
            return None
        queued = self.writes.over(file.inode, wanted)
        if queued is None:
            return None
        data = await self._asked(file, lambda remote: remote.read_at(offset, size))
        self._check_readable(file)  # a write may have been refused meanwhile
        return laid_over(data, offset, queued) if len(data) == size else None

    async def _fetched(self, file: OpenFile, offset: int, size: int) -> Data:
        async def read(remote: RemoteFile) -> Data:
            data = await file.ahead.wait(offset, offset + size)
            if data is None:
                file.ahead.missed(offset, offset + size)
                data = await remote.read_at(offset, size)
            return data

        await self._coherence.settled(file.inode)
        self._check_readable(file)
        return await self._asked(file, read)

    async def _asked(
        self, file: OpenFile, read: Callable[[RemoteFile], Awaitable[Data]]
    ) -> Data:
        async def ask(tree: RemoteTree) -> Data:
            with waiting.asked():
                return await read(await self._reopening.handle_of(file, tree))

        try:
            with self.stalls.waiting(file.target) as waiting:
                return await self._remote.ask(
                    file.target, file.caller, ask, is_open=True
                )
        except SessionLostError:
            self._remote.check(file.target, file.epoch)
            raise

    def write_nowait(self, fh: FileHandle, offset: int, data: Data) -> int | None:
        """As ``write``, if there is room and nothing is wrong; else None."""
        file = self._handles.file(fh)
        is_plain = file.latched is None and self._is_usable(file)
        if not is_plain or self._remote.ready(file.target) is not file.tree:
            return None
        if self._remote.is_read_only(file.target):
            return None
        if not self.writes.put_nowait(file, offset, data):
            return None
        return self._was_written(file, offset, len(data))

    async def write(self, fh: FileHandle, offset: int, data: Data) -> int:
        """Queue ``data`` to be stored and return its length, or raise."""
        file = self._handles.file(fh)
        if file.latched is not None:
            raise file.latched
        with self._latching(file):
            self._remote.check_writable(file.target)
            await self.writes.put(file, offset, data)
        return self._was_written(file, offset, len(data))

    def _was_written(self, file: OpenFile, offset: int, nbytes: int) -> int:
        is_append = OpenMode.APPEND in file.mode
        self._coherence.written(file.inode, offset + nbytes, is_append=is_append)
        self._handles.usage[file.target].bytes_written += nbytes
        file.bytes_written += nbytes
        return nbytes

    @contextlib.contextmanager
    def _latching(self, file: OpenFile) -> Iterator[None]:
        try:
            self._check_usable(file)
            with self._stale_if_closed(file):
                yield
        except PamfsError as exc:
            self.writes.latch(file, exc)
            raise
        except trio.TooSlowError:
            self.writes.latch(file, RemoteError(errno.ETIMEDOUT, "write"))
            raise

    def _check_readable(self, file: OpenFile) -> None:
        """Raise if data of ``file`` was lost: the device's end is not the file's."""
        self._check_usable(file)
        if file.inode.lost is not None:
            raise file.latched or file.inode.lost

    def _check_usable(self, file: OpenFile) -> None:
        """Raise if ``file`` cannot be used again, before a login is made for it."""
        self._remote.check(file.target, file.epoch)

    def _is_usable(self, file: OpenFile) -> bool:
        """Whether ``_check_usable`` has nothing to raise."""
        return file.epoch == self._remote.epoch(file.target)

    @contextlib.contextmanager
    def _stale_if_closed(self, file: OpenFile) -> Iterator[None]:
        try:
            yield
        except SessionLostError:
            self._remote.check(file.target, file.epoch)
            raise

    async def flush(self, fh: FileHandle) -> None:
        """Report at each close whether the data is stored."""
        file = self._handles.file(fh)
        if file.has_written:
            await self._coherence.settled(file.inode, looks=True)
            self._coherence.flushed(file.inode)
        elif file.bytes_read >= file.opened.size and file.mode == OpenMode.READ:
            self.small.read_whole(file.inode, file.caller)
        if file.latched is not None:
            file.is_told = True
            raise file.latched

    async def fsync(self, fh: FileHandle) -> None:
        """Make the data durable on the device, or report why it is not."""
        file = self._handles.file(fh)
        await self._coherence.settled(file.inode)  # whichever handle it came through
        await self.flush(fh)
        if OpenMode.WRITE not in file.mode and not file.has_written:
            return

        async def change(tree: RemoteTree) -> None:
            remote = await self._reopening.handle_of(file, tree)
            await remote.fsync()

        with self._latching(file):
            await self._remote.make_durable(file.target, file.caller, change)

    async def release(self, fh: FileHandle) -> None:
        """Close the remote handle; the kernel takes no answer to a release."""
        file = self._handles.file(fh)
        if file.has_written:
            with trio.CancelScope(shield=True):
                await self._coherence.settled(file.inode)
        if OpenMode.WRITE in file.mode:
            self._coherence.released(file.inode)
        file.ahead.drop()
        self._handles.drop_file(fh)
        if file.latched is not None and not file.is_told:
            self._lost.note(file, file.latched)
        self._unpin(file)
        self._recorder.closed(file)
        if self._remote.ready(file.target) is not file.tree:
            return  # its session is gone, and the handle with it
        within_s = self._remote.view(file.target).request_timeout_s
        scope = trio.CancelScope(deadline=trio.current_time() + within_s, shield=True)
        if not file.has_written:  # or the device may yet refuse what it has taken
            self._closes.add(scope)
        try:
            with scope:
                await self._close(file)
        finally:
            self._closes.discard(scope)

    async def _close(self, file: OpenFile) -> None:
        try:
            with (
                self._remote.quota(file.target, file.tree).using(),
                self.stalls.waiting(file.target, CLOSE_S) as w,
                w.asked(),
            ):
                await file.remote.close()
        except PamfsError as exc:
            log.warning("%s: closing a file: %s", file.target, exc)
            self.writes.close_failed(file, exc)

    def stop_closing(self) -> None:
        """Wait no longer for closes of files that were only read: the mount is gone.

        Their handles go with the session.
        """
        for scope in self._closes:
            scope.cancel()
