"""The whole tree: builds its tables and the parts that work on them.

Free space (statfs(2)): pyfuse3 does not pass on which inode it is about, so the
mount shows the sum over its open targets, each measured at most ``STALE_S`` ago.
statfs neither connects nor waits. With no target open it shows enough space for
programs that check before they copy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from pamfs.audit import Audit, NoAudit
from pamfs.errors import PamfsError
from pamfs.model import Ino, RemotePath, Space, Target
from pamfs.transport.base import TreeSource
from pamfs.vfs.audit_records import AuditRecorder
from pamfs.vfs.background import Background
from pamfs.vfs.coherence import Coherence
from pamfs.vfs.data.reopening import Reopening
from pamfs.vfs.data.writeback import Writeback
from pamfs.vfs.directories import Directories
from pamfs.vfs.files import Files
from pamfs.vfs.handles import HandleTable
from pamfs.vfs.listings import DirectoryListings
from pamfs.vfs.lost_data import LostData
from pamfs.vfs.names.attributes import AttributeView, MountOwner
from pamfs.vfs.names.inodes import Inode, InodeTable
from pamfs.vfs.names.namespace import Namespace
from pamfs.vfs.nodes import Nodes
from pamfs.vfs.prefetch.listings import ListingPrefetch
from pamfs.vfs.prefetch.small_files import SmallFilePrefetch
from pamfs.vfs.remote_access import RemoteAccess
from pamfs.vfs.shared import Shared

STALE_S: Final = 60.0
_FRAGMENT: Final = 4096
# What programs count bytes and files with: signed 64 bits.
_MOST: Final = (1 << 63) - 1
_TEBIBYTE_BLOCKS: Final = (1 << 40) // _FRAGMENT
UNKNOWN: Final = Space(
    fragment_bytes=_FRAGMENT,
    blocks=_TEBIBYTE_BLOCKS,
    blocks_free=_TEBIBYTE_BLOCKS,
    blocks_available=_TEBIBYTE_BLOCKS,
    files=0,
    files_free=0,
    files_available=0,
    name_max=255,
)


@dataclass(frozen=True, slots=True)
class MeasuredSpace:
    """The free space of a target, and when it was measured."""

    space: Space
    at: float


def total(spaces: Iterable[Space]) -> Space:
    """Return the sum of ``spaces`` in units of 4 KiB, or ``UNKNOWN`` for none."""
    known = list(spaces)
    if not known:
        return UNKNOWN

    def blocks(field: str) -> int:
        found: int = sum(
            getattr(space, field) * space.fragment_bytes // _FRAGMENT for space in known
        )
        return min(found, _MOST // _FRAGMENT)

    def files(field: str) -> int:
        found: int = sum(getattr(space, field) for space in known)
        return min(found, _MOST)

    return Space(
        fragment_bytes=_FRAGMENT,
        blocks=blocks("blocks"),
        blocks_free=blocks("blocks_free"),
        blocks_available=blocks("blocks_available"),
        files=files("files"),
        files_free=files("files_free"),
        files_available=files("files_available"),
        name_max=min(space.name_max for space in known),
    )


log = logging.getLogger(__name__)

Xattrs = Mapping[str, str]


class Tree:
    """What the kernel sees of all tenants and targets."""

    def __init__(  # noqa: PLR0913, PLR0917 - what all parts of the tree are made with
        self,
        namespace: Namespace,
        source: TreeSource,
        me: MountOwner,
        describe: Callable[[Target], Xattrs] = lambda _: {},
        audit: Audit | None = None,
        background: Background | None = None,
    ) -> None:
        """``describe`` returns the extended attributes of a target's folder."""
        self.namespace = namespace
        self.inodes = InodeTable()
        self.handles = HandleTable()
        self.remote = RemoteAccess(
            namespace,
            self.inodes,
            source,
            lambda target: self.handles.usage[target].open_files,
        )
        background = background or Background()
        self.budget = background.budget
        self.coherence = Coherence(
            self.inodes, self.remote, self.handles.drop_readahead
        )
        recorder = AuditRecorder(audit or NoAudit(), self.inodes)
        self.lost = LostData(self.inodes, recorder)
        shared = Shared(
            namespace=namespace,
            inodes=self.inodes,
            handles=self.handles,
            remote=self.remote,
            coherence=self.coherence,
            listings=DirectoryListings(self.coherence, self.remote),
            attributes=AttributeView(namespace, me),
            recorder=recorder,
            lost=self.lost,
            background=background,
        )
        reopening = Reopening(self.remote)
        writes = Writeback(shared, reopening)
        self.coherence.settle_with(writes)
        self._walks = ListingPrefetch(shared)
        self.nodes = Nodes(shared, writes, self._walks, me)
        self.directories = Directories(shared, self.nodes, self._walks)
        small = SmallFilePrefetch(shared)
        self.files = Files(shared, self.nodes, writes, small, reopening)
        # Last: under pressure, content that was read ahead is evicted before names.
        self.coherence.count_in(self.budget)
        self._describe = describe
        self._measured: dict[Target, MeasuredSpace] = {}
        self._open: set[Target] = set()
        self._wants_measuring = trio.Event()

    def facts(self, ino: Ino) -> Xattrs:
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
        """Return a line for each file with lost data that nobody has read of.

        At the end of the mount. Files that are open count as well: their close will not
        come.
        """
        for file in self.handles.files():
            if file.latched is not None:
                self.lost.note(file, file.latched)
        more = [f"and {self.lost.more} more files"] if self.lost.more else []
        return [*map(str, self.lost.unread()), *more]

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

    def _room(self, target: Target) -> Xattrs:
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
        self.remote.closed(target)
        self.files.forget(target)
        self._measured.pop(target, None)
        self._walks.closed(target)
        return self.coherence.session_over(target)

    def waiting_bytes(self, target: Target) -> int:
        """Return how many bytes that programs wrote wait for the device."""
        return self.files.writes.waiting_bytes(target)

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
        tree = self.remote.ready(target)
        if tree is None:
            return
        root = self.remote.view(target).root
        path = RemotePath(b"." if root.startswith(b"~") else root)
        with trio.move_on_after(self.remote.view(target).request_timeout_s):
            try:
                space = await tree.space(path)
            except PamfsError:
                return  # it has no statvfs request
            except Exception:
                # A background task of ours must not end the mount.
                log.exception("%s: measuring its room failed", target)
                return
            self._measured[target] = MeasuredSpace(space, trio.current_time())
