"""Asking a device for a directory: single flight, for programs and for prefetch.

Law: a listing that is fresh, or under way, serves all that want it. What changes in
the folder meanwhile is merged by ``coherence``, so the listing that arrives is never
older than our own changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import trio

from pamfs.errors import SessionLostError
from pamfs.model import Caller, Entry, Target
from pamfs.tasks import Flight
from pamfs.transport.base import RemoteTree
from pamfs.vfs.coherence import Coherence
from pamfs.vfs.names.dentries import FolderPath, ListedDirectory, ListingInProgress
from pamfs.vfs.names.inodes import Inode
from pamfs.vfs.remote_access import RemoteAccess


class DirectoryListings:
    """Lists the directories below targets."""

    def __init__(self, coherence: Coherence, remote: RemoteAccess) -> None:
        self._coherence = coherence
        self._known = coherence.known
        self._remote = remote
        # Prefetches under way: a program that wants the same listing waits for it.
        self._flights: dict[FolderPath, Flight[ListedDirectory]] = {}

    async def get(
        self, inode: Inode, caller: Caller, *, anew: bool = False
    ) -> ListedDirectory:
        """Return a listing: the one that is fresh or under way, or a new one."""
        place = self._known.place(inode)
        if place is not None and not anew and self._known.lifetime_s(inode):
            await self._landed(place)
            listed = self._known.listing(place)
            if listed is not None:
                return listed
        return await self._ask(inode, place, caller)

    async def _landed(self, place: FolderPath) -> None:
        """Wait for a prefetch of this listing; how it ended does not matter."""
        flight = self._flights.get(place)
        if flight is not None:
            with contextlib.suppress(Exception):
                await flight.wait_landed()

    async def _ask(
        self, inode: Inode, place: FolderPath | None, caller: Caller
    ) -> ListedDirectory:
        target = inode.target
        assert target is not None  # noqa: S101 - callers stand below a target
        reading: ListingInProgress | None = None
        at = trio.current_time()

        async def ask(tree: RemoteTree) -> Sequence[Entry]:
            nonlocal reading, at
            self._coherence.not_listed(reading)
            at = trio.current_time()
            reading = self._coherence.listing(place) if place else None
            path = await self._remote.path(tree, inode)
            return await self._remote.quota(target, tree).list(
                lambda: tree.list_dir(path)
            )

        try:
            entries = await self._remote.ask(target, caller, ask)
            lifetime_s = self._known.lifetime_s(inode)
            if reading is not None:
                self._coherence.listed(reading, entries, lifetime_s)
            return ListedDirectory(entries, at, trio.current_time() + lifetime_s)
        finally:
            self._coherence.not_listed(reading)

    def is_known(self, place: FolderPath) -> bool:
        """Whether a fresh listing of ``place`` is here, or will be soon."""
        return place in self._flights or self._known.is_listed(place)

    def expect(self, place: FolderPath) -> Flight[ListedDirectory]:
        """Announce a prefetch of ``place``; ``fetch`` follows."""
        flight = self._flights[place] = Flight()
        return flight

    async def fetch(
        self, place: FolderPath, flight: Flight[ListedDirectory]
    ) -> ListedDirectory:
        """Prefetch ``place`` over the open session; never logs in."""
        try:
            await flight.fly(lambda: self._fetched(place))
        finally:
            if self._flights.get(place) is flight:
                del self._flights[place]
        return flight.result()

    async def _fetched(self, place: FolderPath) -> ListedDirectory:
        target, names = place
        tree = self._open_session(target)
        reading = self._coherence.listing(place)
        try:
            path = await self._remote.path_of(tree, target, names)
            entries = await tree.list_dir(path)
            if self._open_session(target) is not tree:
                raise SessionLostError("another session was opened meanwhile")
            lifetime_s = self._remote.view(target).attr_timeout_s
            self._coherence.listed(reading, entries, lifetime_s)
            return ListedDirectory(
                entries, reading.at, trio.current_time() + lifetime_s
            )
        finally:
            self._coherence.not_listed(reading)

    def _open_session(self, target: Target) -> RemoteTree:
        tree = self._remote.ready(target)
        if tree is None:
            raise SessionLostError("the session was closed")
        return tree
