"""The writes of one file that its device has not acknowledged, in their order.

Law: pieces go out in the order in which they came. One that overlaps what is on
its way waits for that, and an append goes alone, so that whatever order a server
works in, the file becomes what the programs wrote. Only neighbours of one writer
are sent as one. What was on its way when a session was lost is sent again before
anything that was not.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from pamfs.model import Data, Extent

W = TypeVar("W")

# With more pieces than this a read waits instead of being compared with each piece:
# comparing would take longer.
COMPARED_PIECES: Final = 64


@dataclass(slots=True, eq=False)
class QueuedWrite(Generic[W]):
    """One write: ``taken`` bytes were sent, ``left`` bytes are not acknowledged."""

    number: int
    writer: W
    start: int
    data: Data
    is_append: bool
    taken: int = 0
    left: int = 0

    @property
    def extent(self) -> Extent:
        """Return where it goes."""
        return Extent(self.start, self.start + len(self.data))

    @property
    def sent_until(self) -> int:
        """Return where its next byte goes."""
        return self.start + self.taken


@dataclass(slots=True, eq=False)
class Chunk(Generic[W]):
    """What is sent as one write, and the pieces that it is made of."""

    writer: W
    extent: Extent
    data: Data
    is_append: bool
    parts: list[tuple[QueuedWrite[W], int]] = field(default_factory=list)
    number: int = 0


class WriteQueue(Generic[W]):
    """The pieces of one file, from ``put`` to ``done``.

    ``end`` is where the furthest of them ends since it was last empty.
    """

    def __init__(self) -> None:
        self.end = 0
        self.waiting_bytes = 0
        self.flying_bytes = 0
        self._number = 0
        self._unsent: deque[QueuedWrite[W]] = deque()
        self._undone: dict[int, QueuedWrite[W]] = {}  # by number, oldest first
        self._flying: list[Chunk[W]] = []
        self._chunks = 0
        self._recalled: list[Chunk[W]] = []  # in the order in which they were taken

    @property
    def held_bytes(self) -> int:
        """Return how much of it is not acknowledged."""
        return self.waiting_bytes + self.flying_bytes

    def bytes_of(self, writer: W) -> int:
        """Return how much of what ``writer`` wrote is not acknowledged."""
        return sum(p.left for p in self._undone.values() if p.writer is writer)

    @property
    def is_empty(self) -> bool:
        """Whether everything was acknowledged, or refused."""
        return not self._undone

    @property
    def newest(self) -> int:
        """Return the number of the write that came last."""
        return self._number

    def is_done(self, number: int) -> bool:
        """Whether every write up to ``number`` was acknowledged, or refused."""
        return not self._undone or next(iter(self._undone)) > number

    def put(self, writer: W, start: int, data: Data, *, is_append: bool) -> None:
        """Queue a write; ``start`` of an append is a guess."""
        self._number += 1
        size = len(data)
        piece = QueuedWrite(self._number, writer, start, data, is_append, left=size)
        self._undone[piece.number] = piece
        self._unsent.append(piece)
        self.waiting_bytes += size
        self.end = max(self.end, start + size)

    def take(self, at_most: int, *, is_urgent: bool) -> Chunk[W] | None:
        """Return the next chunk to send, and count it as in flight.

        None: nothing may be sent now.

        A chunk shorter than ``at_most`` bytes waits for more data while another is in
        flight, unless a request waits for the end of the queue (``is_urgent``).
        """
        if self._recalled:
            return self._sent_again()
        run = self._ready(at_most, is_urgent=is_urgent)
        return self._send(run) if run else None

    def may_take(self, at_most: int, *, is_urgent: bool) -> bool:
        """Whether ``take`` has something to send now."""
        if self._recalled:
            return self._may_fly(self._recalled[0].extent, self._recalled[0].is_append)
        return bool(self._ready(at_most, is_urgent=is_urgent))

    def _ready(
        self, at_most: int, *, is_urgent: bool
    ) -> list[tuple[QueuedWrite[W], int]]:
        if not self._unsent:
            return []
        run = self._run(at_most)
        size = sum(part for _, part in run)
        if not self._may_go(run[0][0], size):
            return []
        may_grow = size < at_most and len(run) == len(self._unsent)
        if may_grow and self._flying and not is_urgent:
            return []
        return run

    def _may_go(self, head: QueuedWrite[W], size: int) -> bool:
        wanted = Extent(head.sent_until, head.sent_until + size)
        return self._may_fly(wanted, head.is_append)

    def _may_fly(self, wanted: Extent, is_append: bool) -> bool:  # noqa: FBT001
        if not self._flying:
            return True
        if is_append or self._flying[0].is_append:
            return False
        return not any(chunk.extent.overlaps(wanted) for chunk in self._flying)

    def _sent_again(self) -> Chunk[W] | None:
        chunk = self._recalled[0]
        if not self._may_fly(chunk.extent, chunk.is_append):
            return None
        self._flown(self._recalled.pop(0))
        return chunk

    def _flown(self, chunk: Chunk[W]) -> None:
        size = chunk.extent.size
        self._flying.append(chunk)
        self.waiting_bytes -= size
        self.flying_bytes += size

    def _run(self, at_most: int) -> list[tuple[QueuedWrite[W], int]]:
        """Return the pieces, each with its part, that make one write."""
        run: list[tuple[QueuedWrite[W], int]] = []
        size = 0
        for piece in self._unsent:
            if run and not _continues(run[-1][0], piece):
                break
            part = min(len(piece.data) - piece.taken, at_most - size)
            run.append((piece, part))
            size += part
            if size == at_most:
                break
        return run

    def _send(self, run: list[tuple[QueuedWrite[W], int]]) -> Chunk[W]:
        first = run[0][0]
        size = sum(part for _, part in run)
        extent = Extent(first.sent_until, first.sent_until + size)
        views = [
            memoryview(piece.data)[piece.taken : piece.taken + part]
            for piece, part in run
        ]
        data = views[0] if len(views) == 1 else b"".join(views)
        self._chunks += 1
        chunk = Chunk(first.writer, extent, data, first.is_append, run, self._chunks)
        for piece, part in run:
            piece.taken += part
            if piece.taken == len(piece.data):
                self._unsent.popleft()
        self._flown(chunk)
        return chunk

    def recall(self, chunk: Chunk[W]) -> None:
        """Take back ``chunk``, which was on its way when the session was lost."""
        self._flying.remove(chunk)
        self.flying_bytes -= chunk.extent.size
        self.waiting_bytes += chunk.extent.size
        bisect.insort(self._recalled, chunk, key=lambda other: other.number)

    def recalled(self) -> Sequence[Chunk[W]]:
        """Return what was taken back and is not on its way again."""
        return tuple(self._recalled)

    def stored(self, chunk: Chunk[W], nbytes: int) -> None:
        """Note that the device has the first ``nbytes`` of a recalled chunk."""
        size = chunk.extent.size
        self.waiting_bytes -= min(nbytes, size)
        if nbytes >= size:
            self._recalled.remove(chunk)
        self._acknowledge(chunk, nbytes)
        chunk.extent = Extent(chunk.extent.start + nbytes, chunk.extent.stop)
        chunk.data = memoryview(chunk.data)[nbytes:]

    def done(self, chunk: Chunk[W]) -> None:
        """Note that ``chunk`` was acknowledged, or refused."""
        self._flying.remove(chunk)
        self.flying_bytes -= chunk.extent.size
        self._acknowledge(chunk, chunk.extent.size)

    def _acknowledge(self, chunk: Chunk[W], nbytes: int) -> None:
        left: list[tuple[QueuedWrite[W], int]] = []
        for piece, part in chunk.parts:
            came = min(part, nbytes)
            nbytes -= came
            piece.left -= came
            if not piece.left:
                self._drop(piece)
            if part > came:
                left.append((piece, part - came))
        chunk.parts = left

    def _drop(self, piece: QueuedWrite[W]) -> None:
        del self._undone[piece.number]
        if not self._undone:
            self.end = 0

    @property
    def has_unsent(self) -> bool:
        """Whether any data was not sent yet, or was recalled."""
        return bool(self._unsent or self._recalled)

    @property
    def has_append(self) -> bool:
        """Whether an append is not acknowledged."""
        return any(piece.is_append for piece in self._undone.values())

    def over(self, wanted: Extent) -> Sequence[tuple[int, Data]] | None:
        """Return what goes to ``wanted``, with its place, the oldest first.

        None: that is not known, or too much to compare.
        """
        if len(self._undone) > COMPARED_PIECES or self.has_append:
            return None
        pieces = self._undone.values()
        return [(p.start, p.data) for p in pieces if p.extent.overlaps(wanted)]

    def extents(self) -> Sequence[Extent]:
        """Return where what is not acknowledged goes."""
        return [piece.extent for piece in self._undone.values()]

    def writers(self) -> set[W]:
        """Return the writers with writes that are not acknowledged."""
        return {piece.writer for piece in self._undone.values()}

    def give_up(self) -> None:
        """Drop what was not sent, and what was taken back."""
        for chunk in self._recalled:
            self.waiting_bytes -= chunk.extent.size
            self._acknowledge(chunk, chunk.extent.size)
        self._recalled.clear()
        for piece in self._unsent:
            rest = len(piece.data) - piece.taken
            self.waiting_bytes -= rest
            piece.left -= rest
            if not piece.left:
                self._drop(piece)
        self._unsent.clear()


def laid_over(data: Data, start: int, queued: Sequence[tuple[int, Data]]) -> Data:
    """Return ``data``, read at ``start``, as it will be once ``queued`` is written."""
    if not queued:
        return data
    made = bytearray(data)
    for place, piece in queued:
        skipped = max(0, start - place)
        at = max(0, place - start)
        part = memoryview(piece)[skipped : skipped + len(made) - at]
        made[at : at + len(part)] = part
    return bytes(made)


def _continues(before: QueuedWrite[W], piece: QueuedWrite[W]) -> bool:
    if piece.writer is not before.writer or piece.is_append is not before.is_append:
        return False
    if piece.is_append:
        return True
    return piece.start == before.start + len(before.data)
