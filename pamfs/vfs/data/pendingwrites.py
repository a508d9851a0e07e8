"""The writes of one inode that its device has not acknowledged, as one record.

``WriteQueue`` has their order; here is what goes out behind them, how requests wait for
them, and what a lost session did to them. Only ``writeback`` makes, sends and ends one;
all else reads it as ``Inode.unstored``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from pamfs.errors import PamfsError
from pamfs.model import AttrChange, Attrs, Extent, Target
from pamfs.vfs.data.writequeue import WriteQueue
from pamfs.vfs.handles import OpenFile
from pamfs.vfs.names.attributes import merged, paired
from pamfs.vfs.names.inodes import Inode

Queue = WriteQueue[OpenFile]


@dataclass(frozen=True, slots=True)
class TrailingStat:
    """A request for attributes behind the write ``number``, maybe with a change."""

    number: int
    asked_at: float
    change: AttrChange | None


@dataclass(slots=True, eq=False)
class PendingWrites:
    """The writes of one inode that the device has not acknowledged.

    ``change`` goes out behind them; ``seen`` are the attributes that came back last.

    Its life: ``put`` makes it with the first write; tasks (``_carry``) send what is
    queued, ``_look`` what goes out behind; ``_freed`` ends it once nothing is queued,
    in flight or due. After a lost session ``_recover`` has it to itself, for nothing is
    sent while ``is_recovering``. ``given_up`` is final for what was queued then.
    """

    send: Callable[[PendingWrites], object]
    inode: Inode
    target: Target
    queue: Queue = field(default_factory=Queue)
    # Of the queued bytes, those that the budget has counted: a write that found no
    # room is queued all the same if the queue is empty.
    budgeted: int = 0
    hurried: int = 0  # how many requests wait in ``settled``
    is_starting: bool = False  # whether a task to send more is about to begin
    # When the device was heard from last about this file: ``_watch`` counts from here.
    reported_at: float = field(default_factory=trio.current_time)
    changed: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    scopes: set[trio.CancelScope] = field(default_factory=set)
    writer: OpenFile | None = None
    reached: int = 0  # where the furthest write ended
    change: AttrChange | None = None
    wants_look: bool = False
    looks_sent: int = 0
    looks_done: int = 0
    seen: tuple[TrailingStat, Attrs] | None = None
    given_up: PamfsError | None = None
    is_recovering: bool = False  # they wait for a session, and for the file in it
    recoveries: int = 0  # since a write was acknowledged

    @property
    def end(self) -> int:
        """Return where the furthest of the writes ends."""
        return self.queue.end

    @property
    def extents(self) -> Sequence[Extent]:
        """Return where the writes go."""
        return self.queue.extents()

    @property
    def is_followed(self) -> bool:
        """Whether a change waits for the writes."""
        return self.change is not None

    @property
    def is_foretold(self) -> bool:
        """Whether the attributes after the writes are known: a change sets mtime."""
        return self.change is not None and self.change.mtime_ns is not None

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is queued or on its way."""
        return self.queue.is_empty and not self.is_due and not self.is_looking

    @property
    def is_due(self) -> bool:
        """Whether anything is to go out behind the writes."""
        return self.change is not None or self.wants_look

    @property
    def is_looking(self) -> bool:
        """Whether a look is on its way; there is one at a time."""
        return self.looks_sent > self.looks_done

    def follow(self, change: AttrChange) -> bool:
        """Send ``change`` after the writes; return False if it may be refused.

        Only mode and times of a file that was created through this handle qualify; a
        failure is reported by the close.
        """
        owned = change.size, change.uid, change.gid
        if self.writer is None or not self.writer.is_new or owned != (None,) * 3:
            return False
        if self.inode.seen is not None:
            change = paired(change, self.inode.seen)
        self.change = change if self.change is None else merged(self.change, change)
        return True

    async def settled(self, *, looks: bool = False) -> None:
        """Wait until each write so far was acknowledged, or refused.

        With ``looks`` also wait for the attributes after them.
        """
        number = self.queue.newest
        self.wants_look = self.wants_look or looks
        # Wait for the next stat: it is sent after the writes so far.
        look = self.looks_sent + (looks or self.is_followed)
        self.hurried += 1
        try:
            self.send(self)
            while not self._is_settled(number, look):
                await self.changed.park()
        finally:
            self.hurried -= 1

    def _is_settled(self, number: int, look: int) -> bool:
        # A look that was waited for may have been put back (``_look_again``) or given
        # up: then none is due or in flight, and none will come.
        is_coming = self.is_due or self.is_looking
        is_told = self.looks_done >= look or not is_coming
        return self.queue.is_done(number) and is_told
