"""The writes of one file that its device has not acknowledged, in their order.

Law: pieces go out in the order in which they came. One that overlaps what is on
its way waits for that, and an append goes alone, so that whatever order a server
works in, the file becomes what the programs wrote. Only neighbours of one writer
are sent as one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from pamfs.model import Data, Extent

W = TypeVar("W")

# With more pieces than this, each of them is not compared with what is read: that would
# take longer than waiting for them.
COMPARED_PIECES: Final = 64


@dataclass(slots=True, eq=False)
class QueuedWrite(Generic[W]):
    """One write: ``taken`` of it was sent, ``left`` is not acknowledged."""

    number: int
    writer: W
    start: int
    data: Data
    is_append: bool
    taken: int = 0
    left: int = 0

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

    @property
    def held_bytes(self) -> int:
        """Return how much of it is not acknowledged."""
        return self.waiting_bytes + self.flying_bytes

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
        """Return what to send now, as on its way; None: nothing, or not yet.

        Less than ``at_most`` waits for more to come, as long as something is on
        its way and no request waits for the end (``is_urgent``).
        """
        run = self._ready(at_most, is_urgent=is_urgent)
        return self._send(run) if run else None

    def may_take(self, at_most: int, *, is_urgent: bool) -> bool:
        """Whether ``take`` has something to send now."""
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
        if not self._flying:
            return True
        if head.is_append or self._flying[0].is_append:
            return False
        wanted = Extent(head.sent_until, head.sent_until + size)
        return not any(chunk.extent.overlaps(wanted) for chunk in self._flying)

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
        chunk = Chunk(first.writer, extent, data, first.is_append, run)
        for piece, part in run:
            piece.taken += part
            if piece.taken == len(piece.data):
                self._unsent.popleft()
        self._flying.append(chunk)
        self.waiting_bytes -= size
        self.flying_bytes += size
        return chunk

    def done(self, chunk: Chunk[W]) -> None:
        """Note that ``chunk`` was acknowledged, or refused."""
        self._flying.remove(chunk)
        self.flying_bytes -= chunk.extent.size
        for piece, part in chunk.parts:
            piece.left -= part
            if not piece.left:
                self._drop(piece)

    def _drop(self, piece: QueuedWrite[W]) -> None:
        del self._undone[piece.number]
        if not self._undone:
            self.end = 0

    @property
    def has_unsent(self) -> bool:
        """Whether some of it is not even on its way."""
        return bool(self._unsent)

    @property
    def has_append(self) -> bool:
        """Whether an append is not acknowledged."""
        return any(piece.is_append for piece in self._undone.values())

    def is_apart(self, wanted: Extent) -> bool:
        """Whether it is known that nothing of it goes to ``wanted``."""
        if len(self._undone) > COMPARED_PIECES or self.has_append:
            return False
        return not any(
            piece.start < wanted.stop and wanted.start < piece.start + len(piece.data)
            for piece in self._undone.values()
        )

    def writers(self) -> set[W]:
        """Return the writers with writes that are not acknowledged."""
        return {piece.writer for piece in self._undone.values()}

    def give_up(self) -> None:
        """Drop what was not sent."""
        for piece in self._unsent:
            rest = len(piece.data) - piece.taken
            self.waiting_bytes -= rest
            piece.left -= rest
            if not piece.left:
                self._drop(piece)
        self._unsent.clear()


def _continues(before: QueuedWrite[W], piece: QueuedWrite[W]) -> bool:
    if piece.writer is not before.writer or piece.is_append is not before.is_append:
        return False
    if piece.is_append:
        return True
    return piece.start == before.start + len(before.data)
