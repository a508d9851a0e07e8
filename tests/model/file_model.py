"""What a program knows of one file: what it wrote, and what was said to be stored."""

from __future__ import annotations

from dataclasses import dataclass, field

from pamfs.model import Extent
from tests.fakes.memory import Node
from tests.model.world import Opened


class BrokenLawError(AssertionError):
    """What must never happen."""


@dataclass(eq=False)
class Handle:
    """One open of a file. ``owes``: which data of it is missing, so it must fail."""

    opened: Opened
    file: FileModel
    is_append: bool
    owes: str = ""


@dataclass
class Write:
    """One write or, without data, a change of the size to ``start``."""

    start: int
    data: bytes | None
    writer: Handle | None

    @property
    def stop(self) -> int:
        return self.start + len(self.data or b"")

    @property
    def is_append(self) -> bool:
        return self.writer is not None and self.writer.is_append

    @property
    def mark(self) -> bytes:
        """Return what occurs in its data and in no other; empty if it is too short."""
        return (self.data or b"").partition(b"|")[0] + b"|"

    def done_on(self, content: bytearray) -> None:
        """Do it as a file system does."""
        content.extend(bytes(max(0, self.start - len(content))))
        if self.data is None:
            del content[self.start :]
        else:
            content[self.start : self.stop] = self.data


@dataclass(eq=False)
class FileModel:
    """A file as its program knows it.

    ``stored`` is what it was when all of it was known to be stored, and ``since`` what
    was done to it from then on, whether it succeeded or not.
    """

    node: Node
    stored: bytes
    content: bytearray = field(init=False)
    since: list[Write] = field(default_factory=list)
    handles: list[Handle] = field(default_factory=list)
    is_damaged: bool = False

    def __post_init__(self) -> None:
        self.content = bytearray(self.stored)

    def change(self, write: Write) -> None:
        self.since.append(write)
        if not self.is_damaged:
            write.done_on(self.content)

    def damage(self) -> None:
        """Note that an operation failed: what the file holds now is not known."""
        self.is_damaged = True

    def pin(self) -> None:
        """Note that everything so far is stored."""
        self.stored = bytes(self.content)
        self.since.clear()

    @property
    def least(self) -> int:
        """Return the size that it has at least."""
        cuts = [write.start for write in self.since if write.data is None]
        return min([len(self.stored), *cuts])

    def check_possible(self) -> None:
        """Raise unless each byte of it on the device was written there."""
        found = bytes(self.node.content)
        if not self.least <= len(found) <= self._most:
            raise BrokenLawError(
                f"{len(found)} bytes, not {self.least} to {self._most}"
            )
        if found == self.content:
            return
        for write in self.since:
            data = write.data or b""
            if len(data) >= 40 and found.count(write.mark) > data.count(write.mark):
                raise BrokenLawError(f"{write.mark!r} was stored twice")
        stored = self.stored.ljust(len(found), b"\0")
        for at, byte in enumerate(found):
            if byte != stored[at] and byte not in self._possible(at):
                raise BrokenLawError(f"a byte at {at} that nobody wrote there")

    @property
    def _most(self) -> int:
        """Return the size that it has at most; an append is where the end was."""
        most = len(self.stored)
        for write in self.since:
            end = most if write.is_append else 0
            most = max(most, write.stop, end + len(write.data or b""))
        return most

    def _possible(self, at: int) -> set[int]:
        possible: set[int] = set()
        for write in self.since:
            if write.data is None:
                possible.add(0)
            elif write.is_append:
                possible.update(write.data)
            elif write.start <= at < write.stop:
                possible.add(write.data[at - write.start])
            elif write.start > at:
                possible.add(0)
        return possible

    def check_read(self, found: bytes, wanted: Extent, reader: Handle) -> None:
        """Raise if ``found``, read at ``wanted``, lacks what ``reader`` wrote.

        What other handles wrote may be lost; then they must report it.
        """
        for at in range(wanted.start, min(wanted.stop, len(self.content))):
            here = found[at - wanted.start : at - wanted.start + 1]
            if here != self.content[at : at + 1]:
                writer = self._writer_of(at, reader)
                writer.owes = f"the byte at {at} is missing in a read"
                self.damage()
                return
        if len(found) > len(self.content) - wanted.start and not self.is_damaged:
            raise BrokenLawError(f"{len(found)} bytes behind the end")

    def check_stored(self, writer: Handle) -> None:
        """Raise if the device lacks what was written through ``writer``."""
        found = bytes(self.node.content)
        if found == self.content:
            self.pin()
            return
        for at in range(max(len(found), len(self.content))):
            if found[at : at + 1] != self.content[at : at + 1]:
                self._writer_of(at, writer)
                if writer.is_append:
                    return  # what follows has moved

    def _writer_of(self, at: int, reader: Handle) -> Handle:
        """Return who wrote a byte that is not there; raise if ``reader`` did."""
        is_hole = at >= len(self.node.content)
        writers = [
            write.writer
            for write in self.since
            if write.data is None
            or write.start <= at < write.stop
            or (is_hole and at < write.stop)
        ]
        if reader.is_append:  # it went to the end, wherever that was
            others = [write.writer for write in self.since]
            writers = [one for one in others if one is not reader] or writers
        last = writers[-1] if writers else None
        if last is None or last is reader:
            raise BrokenLawError(f"the byte at {at} is missing, or another one")
        return last
