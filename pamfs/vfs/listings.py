"""What may be said of a target's names without asking its device.

Law: only while its session is open, within the lifetime, and never less than what
we changed ourselves. Whoever changes a name says so here when it is over; what
failed may have happened all the same, so that name is asked for again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import trio

from pamfs.errors import RemoteError, SessionLostError
from pamfs.model import Attrs, Caller, Entry, Name, Target
from pamfs.tasks import Flight
from pamfs.transport.base import RemoteTree
from pamfs.vfs.names.dentries import Dentries, Dentry, Listed, Place, Reading
from pamfs.vfs.names.directory_stream import DirectoryStream
from pamfs.vfs.names.inodes import Inode, InodeTable
from pamfs.vfs.remote_access import Reach


class Listings:
    """The listings of all directories below targets: asked for once, and kept."""

    def __init__(self, inodes: InodeTable, reach: Reach) -> None:
        self.dentries = Dentries(trio.current_time)
        self._inodes = inodes
        self._reach = reach
        # Being listed for nobody in particular; who comes meanwhile waits for it.
        self._flights: dict[Place, Flight[Listed]] = {}
        self._changed: Callable[[Inode], None] = lambda _: None
        # How directories are read that are open: they show what is changed here.
        self._streams: dict[Inode, list[DirectoryStream]] = {}

    def watch(self, inode: Inode, stream: DirectoryStream) -> None:
        """Have ``stream`` told of every change in the directory ``inode``."""
        self._streams.setdefault(inode, []).append(stream)

    def unwatch(self, inode: Inode, stream: DirectoryStream) -> None:
        """Tell ``stream`` nothing more."""
        streams = self._streams[inode]
        streams.remove(stream)
        if not streams:
            del self._streams[inode]

    def _streams_of(self, inode: Inode) -> Sequence[DirectoryStream]:
        return self._streams.get(inode, ())

    def on_change(self, changed: Callable[[Inode], None]) -> None:
        """Have ``changed`` told of each inode that is changed here, or its name."""
        self._changed = changed

    def place(self, inode: Inode) -> Place | None:
        """Return where a directory is; None where nothing can be known ahead."""
        if inode.target is None:
            return None
        try:
            return inode.target, tuple(self._inodes.components(inode)[2:])
        except RemoteError:
            return None  # it has been removed

    def lifetime_s(self, inode: Inode) -> float:
        """Return how long something counts as true of this target; 0: not at all."""
        if inode.target is None or self._reach.ready(inode.target) is None:
            return 0.0
        return self._reach.view(inode.target).attr_timeout_s

    # -- answers ---------------------------------------------------------

    def find(self, parent: Inode, name: Name) -> Dentry | None:
        """Return what is known of ``name`` in ``parent``; None: ask the device."""
        place = self.place(parent)
        if place is None or not self.lifetime_s(parent):
            return None
        return self.dentries.find(place, name)

    def is_fresh(self, inode: Inode) -> bool:
        """Whether the attributes last seen of ``inode`` still count as true."""
        if inode.seen is None or inode.is_stale:
            return False
        return trio.current_time() < inode.seen_at + self.lifetime_s(inode)

    async def get(self, inode: Inode, caller: Caller, *, anew: bool = False) -> Listed:
        """Return a listing: the one that is fresh or under way, or a new one."""
        place = self.place(inode)
        if place is not None and not anew and self.lifetime_s(inode):
            await self._landed(place)
            listed = self.dentries.listed(place)
            if listed is not None:
                return listed
        return await self._ask(inode, place, caller)

    async def _landed(self, place: Place) -> None:
        """Wait for a listing that is being made ahead; how it ended does not matter."""
        flight = self._flights.get(place)
        if flight is not None:
            with contextlib.suppress(Exception):
                await flight.wait_landed()

    async def _ask(self, inode: Inode, place: Place | None, caller: Caller) -> Listed:
        target = inode.target
        assert target is not None  # noqa: S101 - callers stand below a target
        reading: Reading | None = None
        at = trio.current_time()

        async def ask(tree: RemoteTree) -> Sequence[Entry]:
            nonlocal reading, at
            self._abandon(reading)
            at = trio.current_time()
            reading = self.dentries.begin(place) if place else None
            path = await self._reach.path(tree, inode)
            return await self._reach.quota(target, tree).list(
                lambda: tree.list_dir(path)
            )

        try:
            entries = await self._reach.asking(target, caller, ask)
            lifetime_s = self.lifetime_s(inode)
            if reading is not None:
                self.dentries.finish(reading, entries, lifetime_s)
            return Listed(entries, at, trio.current_time() + lifetime_s)
        finally:
            self._abandon(reading)

    def _abandon(self, reading: Reading | None) -> None:
        if reading is not None:
            self.dentries.abandon(reading)

    def is_known(self, place: Place) -> bool:
        """Whether a fresh listing of ``place`` is here, or will be soon."""
        return place in self._flights or self.dentries.is_known(place)

    def expect(self, place: Place) -> Flight[Listed]:
        """Have whoever wants ``place`` listed wait for ``fetch``, which follows."""
        flight = self._flights[place] = Flight()
        return flight

    async def fetch(self, place: Place, flight: Flight[Listed]) -> Listed:
        """List ``place`` for whoever may want it; nobody is logged in for this."""
        try:
            await flight.fly(lambda: self._fetched(place))
        finally:
            if self._flights.get(place) is flight:
                del self._flights[place]
        return flight.result()

    async def _fetched(self, place: Place) -> Listed:
        target, names = place
        tree = self._reach.ready(target)
        if tree is None:
            raise SessionLostError("closed before it was listed ahead")
        reading = self.dentries.begin(place)
        try:
            path = await self._reach.path_of(tree, target, names)
            entries = await tree.list_dir(path)
            if self._reach.ready(target) is not tree:
                raise SessionLostError("closed while listing ahead")
            lifetime_s = self._reach.view(target).attr_timeout_s
            self.dentries.finish(reading, entries, lifetime_s)
            return Listed(entries, reading.at, trio.current_time() + lifetime_s)
        finally:
            self.dentries.abandon(reading)

    def closed(self, target: Target) -> None:
        """Forget everything of a target whose session is over."""
        self.dentries.forget(target)

    # -- our own changes -------------------------------------------------

    @contextlib.contextmanager
    def changing(self, *names: tuple[Inode, Name]) -> Iterator[None]:
        """Doubt ``names`` if the body fails; their folders are not what they were."""
        for parent, name in names:
            if name in parent.children:
                self._changed(parent.children[name])
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
                self.touched(parent)

    def touched(self, inode: Inode) -> None:
        """Say that attributes of ``inode`` changed, and that it is not known how."""
        inode.touched(trio.current_time())
        self.writing(inode)

    def put(
        self, parent: Inode, name: Name, attrs: Attrs, at: float | None = None
    ) -> None:
        """Say that ``name`` is in ``parent``, as it was ``at`` that time, or now."""
        self._show(parent, name, attrs, at)
        place = self.place(parent)
        if place is not None:
            self.dentries.put(place, name, attrs, at)

    def _show(
        self, parent: Inode, name: Name, attrs: Attrs, at: float | None = None
    ) -> None:
        for stream in self._streams_of(parent):
            stream.put(name, attrs, trio.current_time() if at is None else at)

    def closing(self, inode: Inode) -> None:
        """Say that whether a directory may be seen into is the device's to tell."""
        place = self.place(inode)
        if place is not None and inode.is_dir:
            self.dentries.close(place)

    def writing(self, inode: Inode) -> None:
        """Say that ``inode`` may change until ``saw`` tells what became of it."""
        self._changed(inode)
        for parent, name in inode.names:
            self._doubt(parent, name)

    def saw(self, inode: Inode) -> None:
        """Have every name of ``inode`` tell what was seen of it last."""
        if inode.seen is None or inode.is_stale:
            self.writing(inode)
            return
        for parent, name in inode.names:
            self.put(parent, name, inode.seen, inode.seen_at)

    def made(self, parent: Inode, name: Name, attrs: Attrs) -> None:
        """Say that the directory ``name`` was made in ``parent``; it is empty."""
        self._show(parent, name, attrs)
        place = self.place(parent)
        if place is not None:
            self.dentries.made(place, name, attrs, self.lifetime_s(parent))

    def take(self, parent: Inode, name: Name) -> None:
        """Say that ``name`` is gone from ``parent``."""
        for stream in self._streams_of(parent):
            stream.take(name)
        place = self.place(parent)
        if place is not None:
            self.dentries.take(place, name)

    def missing(self, parent: Inode, name: Name, at: float) -> None:
        """Say that the device was asked for ``name`` ``at``, and it was not there."""
        for stream in self._streams_of(parent):
            stream.take(name, at)
        place = self.place(parent)
        if place is not None:
            self.dentries.missing(place, name, at)

    def move(self, old: tuple[Inode, Name], new: tuple[Inode, Name]) -> None:
        """Say that ``old`` is ``new`` now."""
        inode = old[0].children.get(old[1])
        is_one_file = inode is not None and new[0].children.get(new[1]) is inode
        if old != new and not is_one_file:
            self._show_move(old, new)
        source, dest = self.place(old[0]), self.place(new[0])
        if source is None or dest is None:
            return
        if is_one_file:
            # Two names of one file: rename(2) does nothing.
            self.dentries.doubt(source, old[1])
            self.dentries.doubt(dest, new[1])
        else:
            self.dentries.move((source, old[1]), (dest, new[1]))

    def _show_move(self, old: tuple[Inode, Name], new: tuple[Inode, Name]) -> None:
        over = self.find(*new)
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

    def _doubt(self, parent: Inode, name: Name) -> None:
        for stream in self._streams_of(parent):
            stream.doubt(name)
        place = self.place(parent)
        if place is not None:
            self.dentries.doubt(place, name)
