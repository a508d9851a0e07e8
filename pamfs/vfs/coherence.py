"""Coherence: what the mount knows of a target's files, kept true by events.

The same fact is held in several places:

* ``Inode``: the attributes that the device gave last, their time, and whether a
  change of ours made them stale;
* ``Dentries``: the listings with their TTL, attributes included;
* ``DirectoryStream``: what each open directory shows;
* readahead buffers and prefetched small files: content;
* the kernel's pages and attributes, which count until the times given with them.

A request that looks at a device, or changes something there, must update all of
them, in the same way each time. So this module is the only one that calls the verbs
of these tables (``tests/unit/test_coherence.py`` checks that). A request reports an
event instead:

====================  =======================================================
the device answered   ``looked``, ``absent``, ``found_unlisted``, ``detached``,
                      ``unreadable``
a file was opened     ``opened``, ``open_failed``, ``created``, ``released``
data was written      ``queued``, ``written``, ``stored``, ``flushed``,
                      ``write_failed``, ``write_lost``
attributes were set   ``setting`` (a truncation is one), ``foretold``
a name was changed    ``changing`` around ``made``, ``removed``, ``renamed``;
                      ``linked``
a directory listed    ``listing``, ``listed``, ``not_listed``
the session ended     ``session_over``
====================  =======================================================

Laws:

* An answer counts from the moment its request was sent, a change of ours from the
  moment it was answered. An older answer never replaces a newer one.
* A change that failed may have happened: what it would have changed becomes unknown,
  and the next request asks the device.
* A size is never smaller than the end of a write that is not acknowledged.
* Nothing is known longer than ``attr_timeout``, nor without an open session.

Events are synchronous: no other task sees the tables half updated. The one
exception is ``settled``, which waits: before a request asks the device about a file,
or changes it, the writes that were queued before must have been acknowledged.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol

import trio

from pamfs.errors import PamfsError, RemoteError
from pamfs.model import AttrChange, Attrs, Entry, Name, Target
from pamfs.transport.base import OpenMode
from pamfs.vfs.background import Budget
from pamfs.vfs.names.attributes import changed, differs
from pamfs.vfs.names.dentries import (
    Dentries,
    Dentry,
    FolderPath,
    ListedDirectory,
    ListingInProgress,
)
from pamfs.vfs.names.directory_stream import DirectoryStream
from pamfs.vfs.names.inodes import Inode, InodeTable, UnstoredWrites
from pamfs.vfs.remote_access import RemoteAccess

# Pages that were read within this time of a change may be older than the change:
# SFTP version 3 has times in whole seconds, and two changes in one look like one.
_RACY_S: Final = 2.0

DirEntry = tuple[Inode, Name]


class Settles(Protocol):
    """The write-back, which knows when writes have been acknowledged."""

    async def settled(self, inode: Inode, *, looks: bool = False) -> None:
        """Wait until each write of ``inode`` so far was acknowledged, or refused."""
        ...


class KnownNames:
    """What can be answered now, without asking the device: reads only."""

    def __init__(
        self, inodes: InodeTable, remote: RemoteAccess, dentries: Dentries
    ) -> None:
        self._inodes = inodes
        self._remote = remote
        self._dentries = dentries

    def place(self, inode: Inode) -> FolderPath | None:
        """Return the path of a directory; None if nothing can be known there."""
        if inode.target is None:
            return None
        try:
            return inode.target, tuple(self._inodes.components(inode)[2:])
        except RemoteError:
            return None  # it has been removed

    def lifetime_s(self, inode: Inode) -> float:
        """Return the TTL of what is known of this target; 0 without a session."""
        if inode.target is None or self._remote.ready(inode.target) is None:
            return 0.0
        return self._remote.view(inode.target).attr_timeout_s

    def find(self, parent: Inode, name: Name) -> Dentry | None:
        """Return what is known of ``name`` in ``parent``; None: ask the device.

        For a target whose session is open: that is for the caller to know.
        """
        place = self.place(parent)
        return None if place is None else self._dentries.find(place, name)

    def is_fresh(self, inode: Inode) -> bool:
        """Whether the attributes of ``inode`` are within their TTL."""
        if inode.seen is None or inode.is_stale:
            return False
        return trio.current_time() < inode.seen_at + self.lifetime_s(inode)

    def listing(self, place: FolderPath) -> ListedDirectory | None:
        """Return a whole fresh listing, or None."""
        return self._dentries.listed(place)

    def is_listed(self, place: FolderPath) -> bool:
        """Whether a fresh listing of ``place`` is here, or under way."""
        return self._dentries.is_known(place)

    def missed(self, place: FolderPath, within_s: float) -> bool:
        """Count a lookup that went to the device; whether a listing is due."""
        return self._dentries.missed(place, within_s)

    @property
    def count(self) -> int:
        """Return how many names are kept."""
        return self._dentries.count

    @property
    def held_bytes(self) -> int:
        """Return how much of the budget the names hold."""
        return self._dentries.held_bytes


class Coherence:
    """The events; see the head of this module."""

    def __init__(
        self,
        inodes: InodeTable,
        remote: RemoteAccess,
        drop_readahead: Callable[[Inode], None],
    ) -> None:
        """``drop_readahead`` drops what was read ahead of an inode's open files."""
        self._inodes = inodes
        self._dentries = Dentries(trio.current_time)
        self.known = KnownNames(inodes, remote, self._dentries)
        self._drop_readahead = drop_readahead
        self._writes: Settles | None = None
        self._drop_content: Callable[[Inode], None] = lambda _: None
        self._streams: dict[Inode, list[DirectoryStream]] = {}

    def count_in(self, budget: Budget) -> None:
        """Count the names that are kept in ``budget``; none is kept yet."""
        self._dentries.count_in(budget)

    def settle_with(self, writes: Settles) -> None:
        """Have ``settled`` wait for ``writes``."""
        self._writes = writes

    def on_change(self, drop_content: Callable[[Inode], None]) -> None:
        """Have ``drop_content`` called with each inode that is changed here."""
        self._drop_content = drop_content

    def watch(self, inode: Inode, stream: DirectoryStream) -> None:
        """Apply each change in the directory ``inode`` to ``stream``."""
        self._streams.setdefault(inode, []).append(stream)

    def unwatch(self, inode: Inode, stream: DirectoryStream) -> None:
        """Undo ``watch``: the directory was closed."""
        streams = self._streams[inode]
        streams.remove(stream)
        if not streams:
            del self._streams[inode]

    async def settled(self, inode: Inode, *, looks: bool = False) -> None:
        """Wait until each write of ``inode`` so far was acknowledged, or refused.

        With ``looks`` the same round trip brings the attributes behind the writes.
        """
        if inode.unstored is not None and self._writes is not None:
            await self._writes.settled(inode, looks=looks)

    # -- the device answered -----------------------------------------------------

    def looked(
        self, inode: Inode, attrs: Attrs, at: float, *, by_handle: bool = False
    ) -> None:
        """Note ``attrs``, which the device gave when it was asked at ``at``.

        ``by_handle``: of the open file, so its size counts behind our writes.
        """
        inode.note_attrs(attrs, at, counts=by_handle)

    def unreadable(self, inode: Inode) -> None:
        """Note that the attributes of ``inode`` could not be read."""
        inode.seen = None

    def absent(self, parent: Inode, name: Name, known: Inode | None, at: float) -> None:
        """Note that the device, asked for ``name`` at ``at``, said ENOENT."""
        self.detached(parent, name, known)
        # An open directory that was listed after ``at`` keeps the name.
        for stream in self._streams_of(parent):
            stream.take(name, at)
        place = self.known.place(parent)
        if place is not None:
            self._dentries.missing(place, name, at)

    def detached(self, parent: Inode, name: Name, known: Inode | None) -> None:
        """Note that ``name`` leads to ``known`` no more; its other names still do."""
        if known is not None and parent.children.get(name) is known:
            self._inodes.unlinked(parent, name)

    def found_unlisted(
        self, parent: Inode, name: Name, attrs: Attrs, at: float
    ) -> None:
        """Note that the device has ``name``, which the fresh listing lacks."""
        self._put(parent, name, attrs, at)

    # -- a file was opened -------------------------------------------------------

    def opened(
        self, inode: Inode, attrs: Attrs, asked_at: float | None, mode: OpenMode
    ) -> bool:
        """Note an open; return whether the kernel's pages are valid with ``attrs``.

        Without ``asked_at`` the device was not asked: the content was prefetched.
        """
        is_valid = self._has_valid_pages(inode, attrs)
        if OpenMode.TRUNCATE in mode or not is_valid:
            self._drop_readahead(inode)
        # Attributes of a prefetched file were seen when it was fetched, not now.
        if asked_at is not None:
            inode.note_attrs(attrs, asked_at)
            self._show_names(inode)
        # Size and time of what is open to write change without a listing of it.
        if OpenMode.WRITE in mode:
            self._doubt_names(inode)
        return is_valid

    @staticmethod
    def _has_valid_pages(inode: Inode, attrs: Attrs) -> bool:
        """Whether the kernel's pages are those of a file with ``attrs``.

        A change within the same second as the one before shows in neither size nor
        time (SFTP version 3), so pages count only if they were read when these
        attributes had been seen for ``_RACY_S``. Only our own clock is used.
        """
        now = trio.current_time()
        if inode.opened is None or differs(inode.opened, attrs):
            inode.changed_at = inode.cached_at = now
        is_valid = inode.cached_at - inode.changed_at >= _RACY_S
        if not is_valid:
            inode.cached_at = now
        inode.opened = attrs
        return is_valid

    def open_failed(self, inode: Inode) -> None:
        """Note that an open failed: the names may lead elsewhere by now."""
        self._doubt_names(inode)

    def created(self, parent: Inode, name: Name, attrs: Attrs) -> Inode:
        """Note that ``name`` was created and is open to write; count one lookup."""
        self._inodes.unlinked(parent, name)
        inode = self._inodes.looked_up(parent, name, attrs)
        inode.note_attrs(attrs, trio.current_time())
        self._doubt_names(inode)
        self._has_valid_pages(inode, attrs)
        return inode

    def released(self, inode: Inode) -> None:
        """Note that a handle that could write was closed: names show what it left."""
        self._show_names(inode)

    # -- data was written --------------------------------------------------------

    def queued(self, inode: Inode, unstored: UnstoredWrites) -> None:
        """Note that a write is about to be queued: no older content is served."""
        self._drop_readahead(inode)
        inode.unstored = unstored

    def written(self, inode: Inode, end: int, *, is_append: bool) -> None:
        """Note that a write up to ``end`` was queued; of an append that is a guess."""
        inode.note_write(end, trio.current_time())
        if is_append:
            inode.require_stat()

    def stored(self, inode: Inode, seen: tuple[Attrs, float] | None) -> None:
        """Note that all writes are stored; ``seen`` was asked behind the last one."""
        inode.unstored = None
        if seen is None:
            inode.note_stale(
                trio.current_time()
            )  # an answer from before is out of date
        else:
            inode.note_attrs(*seen, counts=True)

    def flushed(self, inode: Inode) -> None:
        """Note that a program closed what it wrote: the next look asks the device."""
        inode.require_stat()

    def write_lost(self, inode: Inode, exc: PamfsError) -> None:
        """Note that a write that was answered will not be stored: part with the names.

        The kernel would take the device's smaller size for the end of the file, and
        answer reads behind it with nothing. So by name there is a new inode with what
        the device has, and this one answers with an error.
        """
        if inode.lost is None:
            inode.lost, inode.former_path = exc, self._inodes.shown_path(inode)
        self._doubt_names(inode)
        self._drop_readahead(inode)
        for parent, name in tuple(inode.names):
            self._inodes.unlinked(parent, name)

    def write_failed(self, inode: Inode) -> None:
        """Note that a write failed: the size is what the device says."""
        inode.require_stat()

    # -- attributes were set -----------------------------------------------------

    @contextlib.contextmanager
    def setting(
        self, inode: Inode, change: AttrChange
    ) -> Iterator[Callable[[Attrs], None]]:
        """Set attributes in the body, which passes on what the device says then.

        Mode and owner of a directory decide which users may list it: listings go.
        """
        # Before the request is sent: size and time are not counted here any more.
        inode.note_attrs_set()
        at = trio.current_time()
        if change.mode is not None or change.uid is not None or change.gid is not None:
            self._drop_listings(inode)
        try:
            yield lambda attrs: inode.note_attrs(attrs, at)
        except BaseException:
            self._touched(inode)
            raise
        finally:
            if change.size is not None:
                self._drop_readahead(inode)
        self._show_names(inode)

    def foretold(self, inode: Inode, change: AttrChange) -> None:
        """Note that ``change`` goes out behind the writes and cannot be refused."""
        inode.note_attrs_set()
        if inode.seen is not None:
            inode.seen = changed(inode.seen, change)

    # -- a name was changed ------------------------------------------------------

    @contextlib.contextmanager
    def changing(self, *names: DirEntry) -> Iterator[None]:
        """Change ``names`` in the body; if it fails they are unknown.

        The attributes of their folders are out of date in any case.
        """
        # Prefetched content goes before the request: an open that comes meanwhile must
        # not be answered from it. Names are changed behind the answer.
        for parent, name in names:
            if name in parent.children:
                self._drop_content(parent.children[name])
        try:
            yield
        except BaseException:
            for parent, name in names:
                self._doubt(parent, name)
                for stream in self._streams_of(parent):
                    stream.forget(name)
            raise
        finally:
            for parent, _ in names:
                self._touched(parent)

    def made(self, parent: Inode, name: Name, attrs: Attrs) -> None:
        """Note that ``name`` was made: an empty directory, or another node."""
        self._inodes.unlinked(parent, name)
        if not stat.S_ISDIR(attrs.mode):
            self._put(parent, name, attrs)
            return
        self._show(parent, name, attrs)
        place = self.known.place(parent)
        if place is not None:
            # A folder that was made just now is empty: its listing is known.
            lifetime_s = self.known.lifetime_s(parent)
            self._dentries.made(place, name, attrs, lifetime_s)

    def removed(self, parent: Inode, name: Name) -> None:
        """Note that ``name`` was removed."""
        for stream in self._streams_of(parent):
            stream.take(name)
        place = self.known.place(parent)
        if place is not None:
            self._dentries.removed(place, name)
        self._inodes.unlinked(parent, name)

    def linked(self, inode: Inode, new: DirEntry, attrs: Attrs, at: float) -> None:
        """Note that ``inode`` has the name ``new`` too, and ``attrs`` as of ``at``."""
        inode.note_attrs(attrs, at)
        self._inodes.linked(inode, *new)
        self._show_names(inode)

    def renamed(self, old: DirEntry, new: DirEntry) -> None:
        """Note that ``old`` was renamed to ``new``."""
        inode = old[0].children.get(old[1])
        is_one_file = inode is not None and new[0].children.get(new[1]) is inode
        if old != new and not is_one_file:
            self._show_rename(old, new)
        source, dest = self.known.place(old[0]), self.known.place(new[0])
        if source is not None and dest is not None:
            if is_one_file:
                # Two names of one file: rename(2) does nothing.
                self._dentries.doubt(source, old[1])
                self._dentries.doubt(dest, new[1])
            else:
                self._dentries.move((source, old[1]), (dest, new[1]))
        self._inodes.renamed(*old, *new)

    def _show_rename(self, old: DirEntry, new: DirEntry) -> None:
        over = self.known.find(*new)
        is_gone = over is not None and over.attrs is None
        for stream in self._streams_of(old[0]):
            # Over another name of its file, which only the device knows, it stays.
            stream.take(old[1], must_list=not is_gone)
        inode = old[0].children.get(old[1])
        for stream in self._streams_of(new[0]):
            if inode is not None and inode.seen is not None:
                stream.put(new[1], inode.seen, trio.current_time())
            else:
                stream.forget(new[1])
            stream.doubt(new[1])

    # -- a directory was listed --------------------------------------------------

    def listing(self, place: FolderPath) -> ListingInProgress:
        """Note that ``place`` is being listed; ``listed`` or ``not_listed`` follows."""
        return self._dentries.begin(place)

    def listed(
        self, reading: ListingInProgress, entries: Iterable[Entry], lifetime_s: float
    ) -> None:
        """Keep a listing that arrived; our changes since it was requested win."""
        self._dentries.finish(reading, entries, lifetime_s)

    def not_listed(self, reading: ListingInProgress | None) -> None:
        """Note that a listing failed, or is not wanted any more."""
        if reading is not None:
            self._dentries.abandon(reading)

    # -- the session ended -------------------------------------------------------

    def session_over(self, target: Target) -> Sequence[Inode]:
        """Forget all that is known of ``target``; return its inodes."""
        self._dentries.forget(target)
        inodes = self._inodes.below(target)
        for inode in inodes:
            inode.opened = inode.seen = None
        return inodes

    # -- the verbs ---------------------------------------------------------------

    def _streams_of(self, inode: Inode) -> Sequence[DirectoryStream]:
        return self._streams.get(inode, ())

    def _touched(self, inode: Inode) -> None:
        """Note that attributes of ``inode`` changed, and that it is not known how."""
        inode.touched(trio.current_time())
        self._doubt_names(inode)

    def _doubt_names(self, inode: Inode) -> None:
        """Make its content and the attributes of its names unknown."""
        self._drop_content(inode)
        for parent, name in inode.names:
            self._doubt(parent, name)

    def _show_names(self, inode: Inode) -> None:
        """Have all names of ``inode`` show the attributes that were seen last."""
        if inode.seen is None or inode.is_stale:
            self._doubt_names(inode)
            return
        for parent, name in inode.names:
            self._put(parent, name, inode.seen, inode.seen_at)

    def _doubt(self, parent: Inode, name: Name) -> None:
        for stream in self._streams_of(parent):
            stream.doubt(name)
        place = self.known.place(parent)
        if place is not None:
            self._dentries.doubt(place, name)

    def _put(
        self, parent: Inode, name: Name, attrs: Attrs, at: float | None = None
    ) -> None:
        self._show(parent, name, attrs, at)
        place = self.known.place(parent)
        if place is not None:
            self._dentries.put(place, name, attrs, at)

    def _show(
        self, parent: Inode, name: Name, attrs: Attrs, at: float | None = None
    ) -> None:
        for stream in self._streams_of(parent):
            stream.put(name, attrs, trio.current_time() if at is None else at)

    def _drop_listings(self, inode: Inode) -> None:
        place = self.known.place(inode)
        if place is not None and inode.is_dir:
            self._dentries.close(place)
