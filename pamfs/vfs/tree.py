"""The whole tree: its tables and the parts that work on them, put together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import trio

from pamfs.audit import Audit, NoAudit
from pamfs.errors import PamfsError
from pamfs.model import Ino, RemotePath, Space, Target
from pamfs.transport.base import TreeSource
from pamfs.vfs.audit_records import Recorder
from pamfs.vfs.background import Background
from pamfs.vfs.coherence import Coherence
from pamfs.vfs.directories import Directories
from pamfs.vfs.files import Files
from pamfs.vfs.handles import HandleTable
from pamfs.vfs.listings import Listings
from pamfs.vfs.names.attributes import Me, Shown
from pamfs.vfs.names.inodes import Inode, InodeTable
from pamfs.vfs.names.namespace import Namespace
from pamfs.vfs.nodes import Nodes
from pamfs.vfs.prefetch.listings import ListingPrefetch
from pamfs.vfs.prefetch.small_files import SmallFilePrefetch
from pamfs.vfs.remote_access import Reach
from pamfs.vfs.shared import Shared
from pamfs.vfs.space import STALE_S, Measured, total
from pamfs.vfs.writeback import Writeback

log = logging.getLogger(__name__)

Facts = Mapping[str, str]


class Tree:
    """What the kernel sees of all tenants and targets."""

    def __init__(  # noqa: PLR0913, PLR0917 - what all parts of the tree are made with
        self,
        namespace: Namespace,
        source: TreeSource,
        me: Me,
        describe: Callable[[Target], Facts] = lambda _: {},
        audit: Audit | None = None,
        background: Background | None = None,
    ) -> None:
        """``describe`` returns the extended attributes of a target's folder."""
        self.namespace = namespace
        self.inodes = InodeTable()
        self.handles = HandleTable()
        self.reach = Reach(
            namespace,
            self.inodes,
            source,
            lambda target: self.handles.usage[target].open_files,
        )
        background = background or Background()
        self.budget = background.budget
        self.coherence = Coherence(self.inodes, self.reach, self.handles.drop_readahead)
        shared = Shared(
            namespace=namespace,
            inodes=self.inodes,
            handles=self.handles,
            remote=self.reach,
            coherence=self.coherence,
            listings=Listings(self.coherence, self.reach),
            attributes=Shown(namespace, me),
            recorder=Recorder(audit or NoAudit(), self.inodes),
            background=background,
        )
        writes = Writeback(shared)
        self.coherence.settle_with(writes)
        self._walks = ListingPrefetch(shared)
        self.nodes = Nodes(shared, writes, self._walks, me)
        self.directories = Directories(shared, self.nodes, self._walks)
        self.files = Files(shared, self.nodes, writes, SmallFilePrefetch(shared))
        # Last: under pressure, content that was read ahead is evicted before names.
        self.coherence.count_in(self.budget)
        self._describe = describe
        self._measured: dict[Target, Measured] = {}
        self._open: set[Target] = set()
        self._wants_measuring = trio.Event()

    def facts(self, ino: Ino) -> Facts:
        """Return the extended attributes of the mount's own folders.

        Below a target there are none, so that ``cp -a`` copies none.
        """
        inode = self.inodes.get(ino)
        if inode is self.inodes.root:
            return {key: str(count) for key, count in self.statistics().items()}
        if inode.is_target_root and inode.target is not None:
            return {**self._describe(inode.target), **self._room(inode.target)}
        return {}

    def unstored(self) -> Sequence[str]:
        """Return a line for each file with lost data that no program was told of.

        Files that are still open count as well: their close will not come.
        """
        return [
            f"{self.inodes.shown_path(file.inode)}: {file.latched}"
            for file in (*self.handles.untold, *self.handles.files())
            if file.latched is not None
        ]

    def statistics(self) -> Mapping[str, int]:
        """Return how much the kernel and programs hold."""
        held = self.inodes.statistics()
        return {
            "inodes": held.inodes,
            "lookups": held.lookups,
            "open_files": len(self.handles.files()),
            "cache_bytes": self.budget.held_bytes,
            "cache_limit_bytes": self.budget.limit_bytes,
        }

    def _room(self, target: Target) -> Facts:
        measured = self._measured.get(target)
        if measured is None:
            return {}
        space = measured.space
        return {
            "bytes_total": str(space.blocks * space.fragment_bytes),
            "bytes_available": str(space.blocks_available * space.fragment_bytes),
        }

    def session_opened(self, target: Target) -> None:
        """Have the free space of ``target`` measured: its session is open now."""
        self._open.add(target)
        self._wants_measuring.set()

    def session_closed(self, target: Target) -> Sequence[Inode]:
        """Drop what is known of the files; return what the kernel may still hold."""
        self._open.discard(target)
        self.reach.closed(target)
        self.files.forget(target)
        self._measured.pop(target, None)
        self._walks.closed(target)
        return self.coherence.session_over(target)

    def session_revoked(self, target: Target) -> None:
        """Make what is open of ``target`` stale: no session is opened for it again."""
        self.files.revoke(target)

    def space(self) -> Space:
        """Return the free space of all open targets as last measured; never waits."""
        self._wants_measuring.set()
        return total(measured.space for measured in self._measured.values())

    async def keep_measured(self) -> None:
        """Measure the free space of open targets, for ever, after each statfs."""
        while True:
            await self._wants_measuring.wait()
            self._wants_measuring = trio.Event()
            async with trio.open_nursery() as nursery:
                for target in self._open:
                    nursery.start_soon(self._measure, target)

    async def _measure(self, target: Target) -> None:
        known = self._measured.get(target)
        if known is not None and trio.current_time() - known.at < STALE_S:
            return
        tree = self.reach.ready(target)
        if tree is None:
            return
        root = self.reach.view(target).root
        path = RemotePath(b"." if root.startswith(b"~") else root)
        with trio.move_on_after(self.reach.view(target).request_timeout_s):
            try:
                space = await tree.space(path)
            except PamfsError:
                return  # it has no statvfs request
            except Exception:
                # A background task of ours must not end the mount.
                log.exception("%s: measuring its room failed", target)
                return
            self._measured[target] = Measured(space, trio.current_time())
