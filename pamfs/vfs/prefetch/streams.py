"""Readahead: blocks of an open file, fetched before a program reads them.

``ReadStream`` decides (no I/O): a stream counts as sequential when a read begins
where the one before ended, or when a large request begins at the start of the
file. Until then only what was asked for is fetched. Its window doubles each time a
program had to wait, at most once for each window, up to twice the bytes in flight
at the measured rate (``background.Pace``).

Law: a block belongs to one open file and is dropped once it was read: the kernel
keeps the page. A block is served only while it is fresh and the file is not known
to have changed. Any write to the file drops its blocks, and while a write is not
acknowledged nothing is fetched. A fetch that fails is not an error: the reader
sends its own request.

Invariant: the bytes of every block, landed or in flight, count in the budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from pamfs.model import Data, Extent, Target
from pamfs.transport.base import RemoteFile, RemoteTree
from pamfs.vfs.background import MIN_WINDOW, Background, Pace, Window, fetching
from pamfs.vfs.names.attributes import differs
from pamfs.vfs.names.inodes import Inode

# The kernel asks for this much at once only when it reads ahead itself.
SURE_BYTES: Final = 64 << 10


class ReadStream:
    """One place in a file where a program reads sequentially.

    ``position`` is where its next read is expected, ``until`` where that ends
    which was fetched for it.
    """

    __slots__ = ("_grown_for", "is_sure", "position", "until", "window")

    def __init__(self, start: int, stop: int) -> None:
        self.is_sure = start == 0 and stop >= SURE_BYTES
        self.position = self.until = stop
        self.window = Window(MIN_WINDOW)
        self._grown_for = 0

    def follows(self, start: int) -> bool:
        """Whether a read at ``start`` carries on with this stream."""
        return start == self.position or (
            self.is_sure and self.position < start < self.until
        )

    def came(self, stop: int) -> None:
        """Note a read that follows, up to ``stop``."""
        self.is_sure = True
        self.position = max(self.position, stop)
        self.until = max(self.until, self.position)

    def lost(self) -> None:
        """Note that the blocks beyond the position are gone."""
        self.until = self.position

    def waited(self, at_most: int) -> None:
        """Note that a program had to wait for a block: the window is too small."""
        if self.position > self._grown_for:
            self.window.widen(at_most)
            self._grown_for = self.until

    def plan(self, size: int, step: int, asked: int = 0) -> Extent | None:
        """Return what to fetch next of a file of ``size``; None: the window is full.

        Up to ``asked`` it is fetched whatever the window: a program waits for it.
        """
        if not self.is_sure:
            return None
        wanted = min(max(self.position + self.window.size, asked), size)
        part = min(step, self.window.size // 2)
        if wanted - self.until >= part or self.until < min(asked, size):
            return Extent(self.until, min(self.until + part, size))
        if self.until < wanted == size:
            return Extent(self.until, size)
        return None

    def fetching(self, extent: Extent) -> None:
        """Note that ``extent``, the last plan, is being fetched."""
        self.until = extent.stop


# Streams of one open file; beyond that the one read longest ago is dropped.
_STREAMS: Final = 8
# A stream that is this far beyond a block will not come back to it.
_PASSED: Final = 1 << 20

ReadAt = Callable[[int, int], Awaitable[Data]]


class ReadableFile(Protocol):
    """What readahead needs of an open file."""

    inode: Inode
    tree: RemoteTree
    remote: RemoteFile


@dataclass(slots=True, eq=False)
class Block:
    """One fetch; ``data`` is set when it has landed, and None if it failed."""

    asked: Extent
    stop: int  # where the data ends
    unread: int
    data: memoryview | None = None
    landed_at: float = 0.0
    landed: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def start(self) -> int:
        """Return where it begins."""
        return self.asked.start

    def land(self, data: Data, at: float) -> None:
        """Take the data, unless it is the end of the file."""
        if len(data):
            self.stop = self.start + len(data)
            self.unread = len(data)
            self.data, self.landed_at = memoryview(data), at

    def is_older(self, instant: float) -> bool:
        """Whether it landed before ``instant``."""
        return self.data is not None and self.landed_at < instant

    def is_passed(self, position: int) -> bool:
        """Whether a stream at ``position`` needs no more of it."""
        if self.data is None:
            return False
        return self.unread <= 0 or self.stop + _PASSED <= position


@dataclass(slots=True, eq=False)
class StreamBlocks:
    """One stream and its blocks, in order."""

    stream: ReadStream
    blocks: deque[Block] = field(default_factory=deque)
    wanted: list[int] = field(default_factory=list)  # where the reads begin that wait

    def cut(self, start: int, stop: int) -> Data | None:
        """Return the bytes, counted as read, or None unless all are here."""
        parts: list[tuple[Block, memoryview]] = []
        at = start
        for block in self.blocks:
            if block.stop <= at:
                continue
            if block.start > at or block.data is None:
                return None
            part = block.data[at - block.start : stop - block.start]
            parts.append((block, part))
            at += len(part)
            if at == stop:
                break
        else:
            return None
        for block, part in parts:
            block.unread -= len(part)
        return parts[0][1] if len(parts) == 1 else b"".join(p for _, p in parts)

    def reaches(self, position: int) -> bool:
        """Whether anything beyond ``position`` is here or on its way."""
        return bool(self.blocks) and self.blocks[-1].stop > position

    def awaited(self, start: int, stop: int) -> Block | None:
        """Return the first block to wait for; None: no wait brings all of it."""
        at, first = start, None
        for block in self.blocks:
            if block.start <= at < block.stop:
                at = block.stop
                if block.data is None:
                    first = first or block
        return first if at >= stop else None


@dataclass(slots=True, eq=False)
class TargetReadahead:
    """What the open files of one target share: pace, bytes in flight, budget."""

    target: Target
    background: Background
    fresh_s: float
    within_s: float
    pace: Pace = field(default_factory=Pace)
    flying_bytes: int = 0


class Readahead:
    """The readahead of one open file."""

    def __init__(self, feed: TargetReadahead, source: ReadableFile) -> None:
        self._feed = feed
        self._source = source
        self._lanes: list[StreamBlocks] = []  # the one read last first
        self._known = source.inode.seen
        self._request_bytes = 0

    def take(self, start: int, stop: int) -> Data | None:
        """Return the bytes if they are here, and fetch on; else None."""
        lane = self._lane_at(start)
        if lane is None:
            return None
        self._look_again(lane)
        data = lane.cut(start, min(stop, self._size))
        if data is None:
            return None
        lane.stream.came(start + len(data))
        position = min((lane.stream.position, *lane.wanted))
        while lane.blocks and lane.blocks[0].is_passed(position):
            self._let_go(lane.blocks.popleft())
        self._fetch_on(lane)
        return data

    async def wait(self, start: int, stop: int) -> Data | None:
        """As ``take``, after waiting for blocks in flight."""
        self._request_bytes = stop - start
        while (lane := self._lane_at(start)) is not None:
            end = min(stop, self._size)
            self._fetch_on(lane, end)
            block = lane.awaited(start, end)
            if block is None:
                break
            lane.stream.came(end)
            lane.stream.waited(self._window)
            self._fetch_on(lane)
            lane.wanted.append(start)
            try:
                await block.landed.wait()
            finally:
                lane.wanted.remove(start)
        return self.take(start, stop)

    def missed(self, start: int, stop: int) -> None:
        """Note a read that goes to the device; fetch what may follow."""
        self._request_bytes = stop - start
        for lane in self._lanes:
            if lane.stream.follows(start):
                lane.stream.came(stop)
                if not lane.reaches(stop):
                    lane.stream.lost()
                self._lanes.remove(lane)
                break
        else:
            lane = StreamBlocks(ReadStream(start, stop))
        self._lanes.insert(0, lane)
        for old in self._lanes[_STREAMS:]:
            self._empty(old)
        del self._lanes[_STREAMS:]
        self._fetch_on(lane)

    def drop(self) -> None:
        """Drop all blocks: the file has changed, or is closed."""
        for lane in self._lanes:
            self._empty(lane)
        self._lanes.clear()

    def drop_stale(self) -> bool:
        """Drop streams that were not read on in time; return whether there were any."""
        oldest = trio.current_time() - self._feed.fresh_s
        stale = [
            lane
            for lane in self._lanes
            if lane.blocks and all(block.is_older(oldest) for block in lane.blocks)
        ]
        for lane in stale:
            self._empty(lane)
        return bool(stale)

    @property
    def _size(self) -> int:
        seen = self._source.inode.seen
        return 0 if seen is None else seen.size

    @property
    def _window(self) -> int:
        tree = self._source.tree
        step = tree.capabilities.max_read_bytes
        # The next request must be in flight while this one is answered.
        window = self._feed.pace.window(tree.round_trip_s, step)
        return max(window, 2 * self._request_bytes)

    def _lane_at(self, start: int) -> StreamBlocks | None:
        for lane in self._lanes:
            blocks = lane.blocks
            if blocks and blocks[0].start <= start < blocks[-1].stop:
                return lane
        return None

    def _look_again(self, lane: StreamBlocks) -> None:
        """Drop blocks that are too old, and all of them if the file has changed."""
        seen = self._source.inode.seen
        if seen is not self._known:
            known, self._known = self._known, seen
            if seen is None or known is None or differs(known, seen):
                self.drop()
        oldest = trio.current_time() - self._feed.fresh_s
        while lane.blocks and lane.blocks[0].is_older(oldest):
            self._let_go(lane.blocks.popleft())

    def _fetch_on(self, lane: StreamBlocks, asked: int = 0) -> None:
        """Fetch what the stream plans; up to ``asked`` a program waits for it."""
        stream, source = lane.stream, self._source
        if source.inode.unstored is not None:
            return  # the read could overtake the queued write
        step = source.tree.capabilities.max_read_bytes
        while extent := stream.plan(self._size, step, asked):
            # The bound is one for all streams, but each may have one block in flight.
            is_full = self._feed.flying_bytes >= self._window
            if is_full and lane.reaches(max(stream.position, asked - 1)):
                return
            if not self._feed.background.budget.take(self._feed.target, extent.size):
                return
            stream.fetching(extent)
            self._feed.flying_bytes += extent.size
            block = Block(extent, extent.stop, extent.size)
            lane.blocks.append(block)
            self._feed.background.spawn(self._fetch, lane, block, source.remote.read_at)

    async def _fetch(self, lane: StreamBlocks, block: Block, read_at: ReadAt) -> None:
        asked_at, delivered = trio.current_time(), self._feed.pace.delivered
        block.scope.deadline = asked_at + self._feed.within_s
        try:
            with fetching(self._feed.target, "a block"), block.scope:
                data = await read_at(block.asked.start, block.asked.size)
                now = trio.current_time()
                self._feed.pace.came(len(data), delivered, now - asked_at)
                block.land(data, now)
        finally:
            self._feed.flying_bytes -= block.asked.size
            if block.data is None or block.scope.cancel_called:
                block.data = None
                self._feed.background.budget.give_back(
                    self._feed.target, block.asked.size
                )
                if block in lane.blocks:
                    lane.blocks.remove(block)
            block.landed.set()

    def _let_go(self, block: Block) -> None:
        if block.data is None:
            block.scope.cancel()  # its bytes are given back when the fetch has ended
        else:
            self._feed.background.budget.give_back(self._feed.target, block.asked.size)

    def _empty(self, lane: StreamBlocks) -> None:
        while lane.blocks:
            self._let_go(lane.blocks.popleft())
