"""Whatever order a server works in, the file becomes what was written."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pamfs.vfs.data.writequeue import Chunk, WriteQueue

AT_MOST = 8
ONE, OTHER = "one", "other"
WRITERS = st.sampled_from([ONE, OTHER])


def write(content: bytearray, start: int, data: bytes) -> None:
    content.extend(bytes(max(0, start - len(content))))
    content[start : start + len(data)] = data


class DeviceModel(RuleBasedStateMachine):
    """``device`` is what a server stored that takes what flies in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: WriteQueue[str] = WriteQueue()
        self.meant = bytearray()
        self.device = bytearray()
        self.flying: list[Chunk[str]] = []
        self.puts = 0

    @rule(
        writer=WRITERS,
        start=st.integers(0, 40),
        data=st.binary(min_size=1, max_size=20),
    )
    def writes(self, writer: str, start: int, data: bytes) -> None:
        self.queue.put(writer, start, data, is_append=False)
        write(self.meant, start, data)
        self.puts += 1

    @rule(writer=WRITERS, data=st.binary(min_size=1, max_size=20))
    def writes_on(self, writer: str, data: bytes) -> None:
        self.writes(writer, len(self.meant), data)

    @rule(writer=WRITERS, data=st.binary(min_size=1, max_size=20))
    def appends(self, writer: str, data: bytes) -> None:
        self.queue.put(writer, 7, data, is_append=True)
        self.meant += data
        self.puts += 1

    @rule(is_urgent=st.booleans())
    def sends(self, is_urgent: bool) -> None:
        chunk = self.queue.take(AT_MOST, is_urgent=is_urgent)
        if chunk is None:
            # Something is on its way, or there is nothing to send.
            assert self.flying or not self.queue.waiting_bytes
            return
        assert 0 < len(chunk.data) <= AT_MOST
        assert len(chunk.data) == chunk.extent.size
        for other in self.flying:
            assert not other.is_append
            assert not chunk.is_append
            assert not other.extent.overlaps(chunk.extent)
        self.flying.append(chunk)

    @rule(pick=st.integers(0, 9))
    def answers(self, pick: int) -> None:
        if not self.flying:
            return
        chunk = self.flying.pop(pick % len(self.flying))
        start = len(self.device) if chunk.is_append else chunk.extent.start
        write(self.device, start, bytes(chunk.data))
        self.queue.done(chunk)

    @rule(arrived=st.integers(0, 255), cut=st.integers(0, AT_MOST))
    def loses_its_session(self, arrived: int, cut: int) -> None:
        """Whatever was on its way was stored or not; none was acknowledged."""
        for number, chunk in enumerate(self.flying):
            is_there = arrived >> number % 8 & 1
            if chunk.is_append:
                self.queue.recall(chunk)
                self.looks_at(chunk, min(cut, chunk.extent.size) * is_there)
                continue
            if is_there:
                write(self.device, chunk.extent.start, bytes(chunk.data))
            self.queue.recall(chunk)
        self.flying.clear()

    def looks_at(self, chunk: Chunk[str], stored: int) -> None:
        self.device += bytes(chunk.data[:stored])
        assert self.queue.recalled() == (chunk,)
        self.queue.stored(chunk, stored)

    @invariant()
    def counts_agree(self) -> None:
        assert self.queue.flying_bytes == sum(len(c.data) for c in self.flying)
        assert self.queue.is_empty == (self.queue.held_bytes == 0)
        assert self.queue.newest == self.puts
        assert self.queue.is_done(0)
        assert self.queue.is_done(self.puts) == self.queue.is_empty

    def teardown(self) -> None:
        while not self.queue.is_empty:
            self.sends(is_urgent=True)
            self.answers(0)
        assert self.device == self.meant
        assert self.queue.end == 0


TestDeviceModel = DeviceModel.TestCase
