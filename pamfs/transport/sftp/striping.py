"""Striping: the writes of one open file go through handles on several channels.

A server grants each channel a window (OpenSSH: 2 MiB), and no more than that is in
flight at once: 20 MB/s at a round trip of 100 ms. ``channels`` opens more channels of
the connection, ``widening`` opens the same file on each and checks that it is the same,
and this module decides which handle a write takes.

Laws:

* Writes leave in the order of the calls. ``write`` sends at once, or queues the write
  behind all that have to wait.
* With one handle the server keeps the order of its channel. With several it does not:
  so a write that overlaps one in flight waits until that is answered.
* Every request that is not a write waits for all writes before it (``behind``), as it
  would on one channel.
* A write on a channel that was lost is sent again through the first handle: it is the
  same bytes at the same offset, so storing them twice changes nothing.
* While further handles are opened, no write is in flight (``held``): the size of the
  file then proves whether the open has emptied it. If it has, each later write fails.

For the asyncio side alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import asyncssh
from asyncssh.constants import FXP_WRITE
from asyncssh.packet import SSHPacket, String, UInt32, UInt64
from asyncssh.sftp import SFTPClientHandler

from pamfs.transport.bridge import Make
from pamfs.transport.sftp.handles import Held
from pamfs.transport.sftp.packets import Sent

V = TypeVar("V")

_LOST = (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection)


@dataclass(slots=True, eq=False)
class Way:
    """One handle, and how much is on its way to it."""

    held: Held
    nbytes: int = 0

    @property
    def handler(self) -> SFTPClientHandler:
        """Return the channel that it goes by."""
        return self.held.handler

    @property
    def handle(self) -> bytes:
        """Return the handle on the server."""
        return self.held.handle

    def send(self, offset: int, part: memoryview) -> Sent:
        """Put a write on the wire."""
        where = String(self.held.handle) + UInt64(offset) + UInt32(len(part))
        return Sent(self.held.handler, FXP_WRITE, where, part)


class Counted:
    """A write that may have to wait; ``reply`` and ``decoded`` as of ``Sent``.

    ``reply`` may be cancelled by its caller; ``landed`` is done once the server has
    answered, or nothing was sent.
    """

    def __init__(self, offset: int, part: memoryview) -> None:
        loop = asyncio.get_running_loop()
        self.reply: asyncio.Future[tuple[int, SSHPacket]] = loop.create_future()
        self.landed: asyncio.Future[None] = loop.create_future()
        self.offset = offset
        self.part = part
        self.sent: Sent | None = None

    def overlaps(self, other: Counted) -> bool:
        """Whether both write some byte."""
        ends = self.offset + len(self.part), other.offset + len(other.part)
        return self.offset < ends[1] and other.offset < ends[0]

    def decoded(self, kind: int, packet: SSHPacket) -> object:
        """Return what ``reply`` means, or raise the status that it is."""
        assert self.sent is not None  # noqa: S101 - there is a reply to it
        return self.sent.decoded(kind, packet)

    def end(self, exc: BaseException | None, found: tuple[int, SSHPacket]) -> None:
        """Give the caller the answer, if the caller still waits."""
        self.landed.set_result(None)
        if self.reply.done():
            return
        if exc is None:
            self.reply.set_result(found)
        else:
            self.reply.set_exception(exc)


_NOTHING = 0, SSHPacket(b"")


class Ways:
    """All handles of one open file; the first is the one that it was opened with."""

    def __init__(self, first: Way) -> None:
        self.first = first
        self._ways = [first]
        self._is_ordered = True
        self._is_held = False
        # Whether each write on its way is known; needed from the first hold on.
        self._is_counting = False
        self._waiting: deque[Counted] = deque()
        self._flying: set[Counted] = set()
        self._failure: Exception | None = None
        self._arrived = asyncio.Event()
        self.is_closed = False

    @property
    def count(self) -> int:
        """Return how many handles there are."""
        return len(self._ways)

    @property
    def is_ordered(self) -> bool:
        """Whether the server keeps the order, as of one channel.

        Never again after a second handle: what was lost with it is sent once more.
        """
        return self._is_ordered and not self._waiting

    async def next_offset(self) -> int:
        """Return where the next write begins, once one waits: inside ``held``."""
        await self._arrived.wait()
        return self._waiting[0].offset

    def add(self, way: Way) -> None:
        """Let writes go by ``way`` too; it leads to the same file."""
        self._is_ordered = False
        self._ways.append(way)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let no write leave inside the block; all leave at its end, in their order."""
        self._is_counting = self._is_held = True
        self._arrived.clear()
        try:
            yield
        finally:
            self._is_held = False
            self._advance()

    def stop_counting(self) -> None:
        """Note that no further handle was found: one channel keeps the order."""
        if self._is_ordered and self._failure is None:
            self._is_counting = False

    def fail(self, failure: Exception) -> None:
        """Refuse all writes that wait, and all later ones."""
        self._is_counting, self._failure = True, failure
        waiting, self._waiting = self._waiting, deque()
        for write in waiting:
            write.end(failure, _NOTHING)

    def write(self, offset: int, part: memoryview) -> Sent | Counted:
        """Send ``part`` by the handle that has the least on its way."""
        if not self._is_counting:
            return self.first.send(offset, part)
        write = Counted(offset, part)
        if self._failure is not None:
            write.end(self._failure, _NOTHING)
        else:
            self._waiting.append(write)
            self._arrived.set()
            self._advance()
        return write

    def _advance(self) -> None:
        """Send what waits, in order, up to what still has to wait."""
        while self._waiting and not self._is_held:
            write = self._waiting[0]
            is_wanted = not write.reply.done()
            if is_wanted and not self._may_go(write):
                return
            self._waiting.popleft()
            if is_wanted:
                self._flying.add(write)
                self._send(write, min(self._ways, key=lambda way: way.nbytes))
            else:
                write.landed.set_result(None)

    def _may_go(self, write: Counted) -> bool:
        return self._is_ordered or not any(map(write.overlaps, self._flying))

    def _send(self, write: Counted, way: Way) -> None:
        try:
            write.sent = way.send(write.offset, write.part)
        except asyncssh.SFTPError as exc:
            self._ended(write, way, exc, _NOTHING)
        else:
            way.nbytes += len(write.part)
            answered = functools.partial(self._answered, write, way)
            write.sent.reply.add_done_callback(answered)

    def _answered(
        self, write: Counted, way: Way, reply: asyncio.Future[tuple[int, SSHPacket]]
    ) -> None:
        way.nbytes -= len(write.part)
        if reply.cancelled():
            self._ended(write, way, asyncssh.SFTPConnectionLost("cancelled"), _NOTHING)
            return
        exc = reply.exception()
        self._ended(write, way, exc, _NOTHING if exc else reply.result())

    def _ended(
        self,
        write: Counted,
        way: Way,
        exc: BaseException | None,
        found: tuple[int, SSHPacket],
    ) -> None:
        if isinstance(exc, _LOST) and way is not self.first:
            # Whether it was stored is not known: once more is the same file.
            with contextlib.suppress(ValueError):
                self._ways.remove(way)
            self._send(write, self.first)
            return
        self._flying.discard(write)
        write.end(exc, found)
        self._advance()

    def behind(self, make: Make[V]) -> Make[V]:
        """Return ``make``, done when all writes so far have landed."""
        if self.is_ordered:
            return make

        async def later() -> V:
            landed = [write.landed for write in (*self._flying, *self._waiting)]
            if landed:
                await asyncio.wait(landed)
            return await make()

        return later

    async def close(self) -> None:
        """Give all handles back; raise what the server says about any."""
        self.is_closed = True
        ways, self._ways = self._ways[1:], [self.first]
        answers = await asyncio.gather(
            *(_closed(way) for way in ways), return_exceptions=True
        )
        await _closed(self.first)
        for answer in answers:
            if isinstance(answer, asyncssh.SFTPError) and not isinstance(answer, _LOST):
                raise answer


async def _closed(way: Way) -> None:
    await way.held.close().answer()


def forget(way: Way) -> None:
    """Give the handle of a way back that will not be used."""
    way.held.close_unheard()
