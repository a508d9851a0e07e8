"""What is known of an open file, to find after a lost session whether it is the same.

Law: a handle is opened again only to a file that all evidence fits. What the device
acknowledged is evidence; what was sent and not acknowledged may be there or not.

SFTP version 3 has no inode numbers, so a name that leads to another file after a lost
session shows only in size, time and content. The evidence is one-sided on purpose: the
size may only have grown and the time only moved on, since what was in flight may have
been stored. One ``Evidence`` serves all opens of an inode. It is changed with each
answer of the device, never by what was only sent; ``changes`` is the exception, which
widens what fits before a change whose answer may be lost. Pure: no I/O.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from pamfs.model import AttrChange, Attrs, Data, Extent

# This much of the last acknowledged write is kept, and compared with what is read back.
TAIL_BYTES: Final = 4096
_SECOND_NS: Final = 1_000_000_000


@dataclass(slots=True)
class Evidence:
    """The last attributes of one file, and the data that the device acknowledged.

    ``size`` is the least that it must have. ``tail`` is the end of what was
    acknowledged last, at ``tail_at``; of an append that is a guess, which may be too
    small. ``behind`` is what was found behind the tail of appends.
    """

    told: Attrs
    size: int = field(init=False)
    is_written: bool = False
    longest: int = 0  # by a change of size that is not answered
    tail_at: int = 0
    tail: bytes = b""
    behind: bytes = b""

    def __post_init__(self) -> None:
        self.size = self.told.size

    def acknowledged(self, start: int, data: Data) -> None:
        """Note that the device has ``data`` at ``start``."""
        stop = start + len(data)
        kept = data[-TAIL_BYTES:]
        self.is_written = True
        self.size = max(self.size, stop)
        self.tail_at, self.tail = stop - len(kept), bytes(kept)

    def appended(self, data: Data) -> None:
        """Note that the device has ``data`` at what was the end of the file."""
        self.acknowledged(self.size, data)

    def looked(self, attrs: Attrs) -> None:
        """Note attributes that were requested after all acknowledged writes."""
        self.told, self.longest = attrs, 0
        self._cut_to(attrs.size)

    def note_change(self, change: AttrChange) -> None:
        """Note that ``change`` is sent: whether it happens is not known yet."""
        if change.size is not None:
            self.is_written = True
            self.longest = max(self.longest, self.size, change.size)
            self._cut_to(min(self.size, change.size))
        if change.mtime_ns is not None:
            self.is_written = True
            mtime_ns = min(self.told.mtime_ns, change.mtime_ns)
            self.told = replace(self.told, mtime_ns=mtime_ns)

    def _cut_to(self, size: int) -> None:
        self.size = size
        self.tail = self.tail[: max(0, size - self.tail_at)]

    def range_to_verify(self, unsure: Iterable[Extent]) -> Extent | None:
        """Return the range of the tail to read back; None if no byte of it is certain.

        The ranges in ``unsure`` are left out: they may hold old or new bytes.
        """
        # One piece is enough; where an extent cuts the tail in two the first one is
        # kept, and the loop may cut it further.
        start, stop = self.tail_at, self.tail_at + len(self.tail)
        for extent in unsure:
            if extent.start <= start < extent.stop:
                start = min(stop, extent.stop)
            elif start < extent.start < stop:
                stop = extent.start
        return Extent(start, stop) if start < stop else None

    def fits(self, attrs: Attrs, at_most: int | None = None) -> bool:
        """Whether ``attrs`` may be those of this file, at most ``at_most`` bytes long.

        True if it is at least as long as what was acknowledged and not older than
        ``told``.
        """
        if not stat.S_ISREG(attrs.mode):
            return False
        longest = max(self.size, self.longest, at_most or 0)
        if at_most is not None and attrs.size > longest:
            return False
        # SFTP has whole seconds; a time that was set here has nanoseconds.
        is_newer = attrs.mtime_ns // _SECOND_NS >= self.told.mtime_ns // _SECOND_NS
        return attrs.size >= self.size and is_newer

    def fits_tail(self, wanted: Extent, found: Data) -> bool:
        """Whether ``found`` is what was acknowledged at ``wanted``."""
        begin = wanted.start - self.tail_at
        return self.tail[begin : begin + wanted.size] == bytes(found)

    def find_tail(self, found: bytes) -> bool:
        """Find the tail in ``found``, which is at ``tail_at`` or later; note the rest.

        Other clients may have appended before it.
        """
        at = found.find(self.tail)
        if at < 0:
            return False
        self.tail_at += at
        self.behind = found[at + len(self.tail) :]
        self.size = max(self.size, self.tail_at + len(self.tail))
        return True

    def stored_bytes_of(self, data: Data) -> int:
        """Return how many bytes of an unacknowledged append are on the device."""
        # Used once: an append is in flight alone, so no later one can be stored.
        behind, self.behind = self.behind, b""
        whole = bytes(data)
        if whole.startswith(behind):
            return len(behind)
        return len(whole) if whole in behind else 0
