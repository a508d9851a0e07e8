"""Small files: read whole before a program opens them.

Law: nothing is fetched before a program has read ``CLEAR`` files of one listing
whole, in the order of that listing. The window then follows use: it doubles when
content is used, and halves when content expires or no longer matches. Content is
used once, within ``FRESH_S``, and only if size and time are still those known. Any
change through this mount drops it, also while it is being fetched.

A file that is opened from such content is a ``PrefetchedFile``: it answers reads
from the content while that is fresh. Later reads, and anything else, go to the
device through a handle that is opened then, and only if that is the same file.

Invariant: the bytes of every file that is fetched, being fetched, or open without
a handle of its own count in the budget.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from pamfs.config import Ahead
from pamfs.errors import PamfsError, RemoteError, first_failure
from pamfs.model import AttrChange, Attrs, Caller, Data, Entry, Name, Target
from pamfs.transport.base import OpenMode, RemoteFile, RemoteTree
from pamfs.vfs.background import Window, fetching
from pamfs.vfs.data.opening import closed_on_error, open_file
from pamfs.vfs.names.attributes import differs
from pamfs.vfs.names.inodes import Inode
from pamfs.vfs.remote_access import HandleUse
from pamfs.vfs.shared import Shared

Reopen = Callable[[], Awaitable[tuple[RemoteFile, Attrs]]]


@dataclass(frozen=True, slots=True)
class Content:
    """A file read whole: its attributes were the same before and after."""

    data: memoryview
    attrs: Attrs
    until: float


class PrefetchedFile:
    """An open file without a handle on the device, until one is needed."""

    def __init__(
        self, content: Content, open_it: Reopen, let_go: Callable[[], object]
    ) -> None:
        """``open_it`` opens the file on the device, by its name.

        ``let_go`` is called once, when the content is held no longer.
        """
        self.attrs = content.attrs
        self._content: Content | None = content
        self._open_it = open_it
        self._let_go = let_go
        self._real: RemoteFile | None = None
        self._opening = trio.Lock()

    async def read_at(self, offset: int, size: int) -> Data:
        """Return up to ``size`` bytes; fewer only at the end of the file."""
        found = await self._wanted()
        if isinstance(found, Content):
            await trio.lowlevel.checkpoint()
            return found.data[offset : offset + size]
        return await found.read_at(offset, size)

    async def stat(self) -> Attrs:
        """Return the attributes, those of the content while that is fresh."""
        found = await self._wanted()
        return found.attrs if isinstance(found, Content) else await found.stat()

    async def write_at(self, offset: int, data: Data) -> None:
        """Refuse: it was opened to read."""
        raise RemoteError(errno.EBADF, "write", f"{len(data)} bytes at {offset}")

    async def fsync(self) -> None:
        """Do nothing: nothing was written."""

    async def set_attrs(self, change: AttrChange) -> Attrs:
        """Change attributes through a handle of the device's."""
        real = await self._opened()
        if real is None:
            raise RemoteError(errno.ESTALE, "setattr", "it is gone from its name")
        return await real.set_attrs(change)

    async def close(self) -> None:
        """Close the handle, if there is one."""
        self.drop()
        if self._real is not None:
            await self._real.close()

    def drop(self) -> None:
        """Drop the content: from now on the device is asked."""
        if self._content is not None:
            self._content = None
            self._let_go()

    async def _wanted(self) -> RemoteFile | Content:
        """Return the content while it is fresh, else a handle of the device."""
        content = self._content
        if content is not None and trio.current_time() < content.until:
            return content
        found = await self._opened() or content
        if found is None:
            raise RemoteError(errno.ESTALE, "open", "it is gone from its name")
        return found

    async def _opened(self) -> RemoteFile | None:
        async with self._opening:
            if self._real is None:
                try:
                    real, attrs = await self._open_it()
                except RemoteError as exc:
                    if exc.code in {errno.ENOENT, errno.ESTALE}:
                        return None
                    raise
                async with closed_on_error(real):
                    await self._check_same(real, attrs)
                self._real = real
                self.drop()
        return self._real

    async def _check_same(self, real: RemoteFile, attrs: Attrs) -> None:
        """Raise ESTALE unless ``real`` holds what was read, or has grown since."""
        known, content = self.attrs, self._content
        if not differs(attrs, known):
            return
        data = (
            content.data if content is not None and attrs.size >= known.size else None
        )
        if data is None or await real.read_at(0, len(data)) != data:
            raise RemoteError(errno.ESTALE, "open", "it was replaced meanwhile")


log = logging.getLogger(__name__)

SMALL_BYTES: Final = 256 << 10
AHEAD_BYTES: Final = 8 << 20
FIRST_WINDOW: Final = 8
MAX_WINDOW: Final = 64
# Files read whole in the order of their listing before anything is prefetched.
CLEAR: Final = 3
# Content replaces an open, and an open asks the device: so it may not be older.
FRESH_S: Final = 1.0


@dataclass(slots=True, eq=False)
class FileFetch:
    """One file that is being prefetched, or was and waits to be opened."""

    inode: Inode
    target: Target
    nbytes: int
    tree: RemoteTree
    use: HandleUse
    content: Content | None = None
    landed: trio.Event = field(default_factory=trio.Event)


@dataclass(slots=True, eq=False)
class ReadOrder:
    """One order of the files of a folder, and how far a program read in it."""

    folder: Inode
    entries: list[Entry]
    until: float
    at: int = -1
    run: int = 0
    next: int = 0

    def read(self, name: Name) -> None:
        """Note that ``name`` was read whole."""
        for at in range(self.at + 1, len(self.entries)):
            if self.entries[at].name == name:
                self.at, self.run = at, self.run + 1
                self.next = max(self.next, at + 1)
                return
        self.run = 0


@dataclass(slots=True, eq=False)
class SmallFileReader:
    """What programs read of one target, and what is prefetched for them."""

    rows: list[ReadOrder] = field(default_factory=list)
    is_clear: bool = False
    window: Window = field(default_factory=lambda: Window(FIRST_WINDOW))
    read_at: float = 0.0
    fetches: dict[Inode, FileFetch] = field(default_factory=dict)
    nbytes: int = 0


class SmallFilePrefetch:
    """Prefetches the content of small files."""

    def __init__(
        self,
        shared: Shared,
    ) -> None:
        self._known = shared.coherence.known
        self._remote = shared.remote
        self._shown = shared.attributes
        self._background = shared.background
        self._recorder = shared.recorder
        self._readers: dict[Target, SmallFileReader] = {}
        self._watched: set[Target] = set()
        # Open files that still hold prefetched content.
        self._opened: dict[Target, set[PrefetchedFile]] = {}
        shared.background.budget.on_pressure(self._evict)
        shared.coherence.on_change(self.drop)

    # -- what programs do --------------------------------------------------------

    async def take(self, inode: Inode, tree: RemoteTree) -> PrefetchedFile | None:
        """Return ``inode`` as an open file if its content is here and still valid."""
        reader = self._reader(inode)
        fetch = reader.fetches.get(inode) if reader else None
        if reader is None or fetch is None or fetch.tree is not tree:
            return None
        await fetch.landed.wait()
        if reader.fetches.get(inode) is not fetch:
            return None
        content = fetch.content
        if content is None or not self._counts(inode, content):
            self._let_go(reader, fetch)
            reader.window.narrow()
            return None
        reader.window.widen(MAX_WINDOW)
        return self._open(reader, fetch, content)

    def _open(
        self, reader: SmallFileReader, fetch: FileFetch, content: Content
    ) -> PrefetchedFile:
        """Return it as an open file; its bytes count until that drops them."""
        inode, tree, target = fetch.inode, fetch.tree, fetch.target

        async def open_it() -> tuple[RemoteFile, Attrs]:
            path = await self._remote.path(tree, inode)
            quota = self._remote.quota(target, tree)
            return await quota.open(lambda: open_file(tree, path, OpenMode.READ))

        def let_go() -> None:
            others.discard(opened)
            self._background.budget.give_back(target, fetch.nbytes)

        opened = PrefetchedFile(content, open_it, let_go)
        others = self._opened.setdefault(target, set())
        others.add(opened)
        self._take_out(reader, fetch)
        return opened

    def attrs_of(self, inode: Inode) -> Attrs | None:
        """Return the attributes of ``inode`` if they are fresh."""
        return inode.seen if self._known.is_fresh(inode) else None

    def read_whole(self, inode: Inode, caller: Caller) -> None:
        """Note that a program read ``inode`` to its end; prefetch what follows."""
        target, now = inode.target, trio.current_time()
        lifetime_s = self._known.lifetime_s(inode)
        if target is None or not inode.names or not lifetime_s:
            return
        if self._remote.view(target).ahead is not Ahead.FILES:
            return
        reader = self._readers.setdefault(target, SmallFileReader())
        if target not in self._watched:
            self._watched.add(target)
            self._background.spawn(self._watch, target)
        self._expire(reader, now)
        is_going_on = now - reader.read_at < lifetime_s
        reader.read_at = now
        reader.is_clear &= is_going_on
        folder, name = inode.names[0]
        rows = self._rows(reader, folder, now)
        for row in rows:
            row.read(name)
        clear = next((row for row in rows if row.run >= CLEAR), None)
        if rows:
            reader.is_clear = clear is not None
        if clear is not None:
            self._fetch_on(reader, clear, caller)

    def _rows(
        self, reader: SmallFileReader, folder: Inode, now: float
    ) -> list[ReadOrder]:
        """Return the orders in which the files of ``folder`` may be read."""
        known = reader.rows[:1]
        if any(row.folder is folder and now < row.until for row in known):
            return reader.rows
        place = self._known.place(folder)
        listed = self._known.listing(place) if place else None
        if listed is None:
            reader.rows = []
            return []
        files = [entry for entry in listed.entries if stat.S_ISREG(entry.attrs.mode)]
        by_name = sorted(files, key=lambda entry: entry.name)
        # cp(1) sorts by inode number, as if that were a place on a disk.
        children = folder.children
        numbered = [entry for entry in files if entry.name in children]
        by_ino = sorted(numbered, key=lambda entry: children[entry.name].ino)
        run = CLEAR - 1 if reader.is_clear else 0
        reader.rows = [
            ReadOrder(folder, order, listed.until, run=run)
            for order in (files, by_name, by_ino)
        ]
        return reader.rows

    # -- fetching ----------------------------------------------------------------

    def _fetch_on(
        self, reader: SmallFileReader, row: ReadOrder, caller: Caller
    ) -> None:
        target = row.folder.target
        tree = self._remote.ready(target) if target else None
        if target is None or tree is None:
            return
        quota = self._remote.quota(target, tree)
        while row.next < len(row.entries) and len(reader.fetches) < reader.window.size:
            entry = row.entries[row.next]
            inode = row.folder.children.get(entry.name)
            if inode is None or not self._may_fetch(reader, inode, caller):
                row.next += 1
                continue
            nbytes = entry.attrs.size
            if reader.nbytes + nbytes > AHEAD_BYTES:
                return
            if not quota.has_room or not self._background.budget.take(target, nbytes):
                return
            row.next += 1
            reader.nbytes += nbytes
            fetch = FileFetch(inode, target, nbytes, tree, quota.begin())
            reader.fetches[inode] = fetch
            self._background.spawn(self._fetch, reader, fetch, caller)

    def _may_fetch(self, reader: SmallFileReader, inode: Inode, caller: Caller) -> bool:
        if inode in reader.fetches or inode.unstored is not None or inode.is_stale:
            return False
        if inode.file_type != stat.S_IFREG or inode.seen is None:
            return False
        if not self._shown.allows_on(caller, inode, os.R_OK):
            return False
        # A file that was open before may still be in the page cache.
        return inode.seen.size <= SMALL_BYTES and inode.opened is None

    async def _fetch(
        self, reader: SmallFileReader, fetch: FileFetch, caller: Caller
    ) -> None:
        target = fetch.target
        try:
            with (
                fetching(target, "a small file"),
                self._recorder.reading_ahead(caller, fetch.inode, fetch.nbytes),
                trio.fail_after(self._remote.view(target).request_timeout_s),
                fetch.use.late,
            ):
                await self._read(fetch)
        finally:
            if fetch.content is None:
                self._let_go(reader, fetch)
            fetch.landed.set()

    async def _read(self, fetch: FileFetch) -> None:
        remote, attrs = await self._open_ahead(fetch)
        try:
            # It may have grown since it was listed, beyond what is small.
            if attrs.size <= fetch.nbytes:
                with fetch.use.needed:
                    await self._read_whole(fetch, remote, attrs)
        finally:
            self._background.spawn(_close, remote, fetch.use)

    async def _open_ahead(self, fetch: FileFetch) -> tuple[RemoteFile, Attrs]:
        try:
            path = await self._remote.path(fetch.tree, fetch.inode)
            return await open_file(fetch.tree, path, OpenMode.READ)
        except BaseException as exc:
            if isinstance(exc, RemoteError):
                fetch.use.quota.refused(fetch.use, exc)
            fetch.use.end()
            raise

    async def _read_whole(
        self, fetch: FileFetch, remote: RemoteFile, attrs: Attrs
    ) -> None:
        data, after = await _read_and_seen(remote, attrs.size)
        lifetime_s = min(self._remote.view(fetch.target).attr_timeout_s, FRESH_S)
        is_whole = len(data) == attrs.size
        if is_whole and not differs(attrs, after):
            until = trio.current_time() + lifetime_s
            # A copy: a view would keep the whole packet in memory.
            fetch.content = Content(memoryview(bytes(data)), after, until)

    def _counts(self, inode: Inode, content: Content) -> bool:
        seen = self.attrs_of(inode)
        if seen is None or trio.current_time() >= content.until:
            return False
        return inode.unstored is None and not differs(seen, content.attrs)

    # -- dropping ----------------------------------------------------------------

    def drop(self, inode: Inode) -> None:
        """Drop the content of ``inode``: it is changed through this mount."""
        reader = self._reader(inode)
        fetch = reader.fetches.get(inode) if reader else None
        if reader is not None and fetch is not None:
            self._let_go(reader, fetch)

    def closed(self, target: Target) -> None:
        """Drop everything of ``target``: the session is over."""
        reader = self._readers.pop(target, None)
        if reader is not None:
            for fetch in list(reader.fetches.values()):
                self._let_go(reader, fetch)
        for opened in list(self._opened.pop(target, ())):
            opened.drop()

    async def _watch(self, target: Target) -> None:
        """Drop content that expired, until no program reads here any more."""
        lifetime_s = self._remote.view(target).attr_timeout_s
        while target in self._readers:
            await trio.sleep(lifetime_s)
            self._forget_old(target, lifetime_s)
        self._watched.discard(target)

    def _forget_old(self, target: Target, lifetime_s: float) -> None:
        reader, now = self._readers.get(target), trio.current_time()
        if reader is not None:
            self._expire(reader, now)
            if now - reader.read_at >= lifetime_s and not reader.fetches:
                del self._readers[target]

    def _reader(self, inode: Inode) -> SmallFileReader | None:
        return self._readers.get(inode.target) if inode.target else None

    def _let_go(self, reader: SmallFileReader, fetch: FileFetch) -> None:
        if reader.fetches.get(fetch.inode) is fetch:
            self._take_out(reader, fetch)
            self._background.budget.give_back(fetch.target, fetch.nbytes)

    @staticmethod
    def _take_out(reader: SmallFileReader, fetch: FileFetch) -> None:
        del reader.fetches[fetch.inode]
        reader.nbytes -= fetch.nbytes

    def _expire(self, reader: SmallFileReader, now: float) -> bool:
        """Drop content that was not used in time, and halve the window for it."""
        late = [
            fetch
            for fetch in reader.fetches.values()
            if fetch.content is not None and now >= fetch.content.until
        ]
        for fetch in late:
            self._let_go(reader, fetch)
        if late:
            reader.window.narrow()
        return bool(late)

    def _evict(self, target: Target) -> bool:
        reader = self._readers.get(target)
        return reader is not None and self._expire(reader, trio.current_time())


async def _read_and_seen(remote: RemoteFile, size: int) -> tuple[Data, Attrs]:
    """Read a file whole and its attributes again, in one round trip."""
    data: list[Data] = []

    async def read() -> None:
        data.append(await remote.read_at(0, size) if size else b"")

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            after = await remote.stat()
    except BaseExceptionGroup as group:
        raise first_failure(group) from None
    return data[0], after


async def _close(remote: RemoteFile, use: HandleUse) -> None:
    try:
        with trio.move_on_after(10):
            await remote.close()
    except PamfsError as exc:
        log.debug("closing a file that was read ahead: %s", exc)
    finally:
        use.end()
