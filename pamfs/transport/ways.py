"""The ways that writes of one open file take: one handle on each of its channels.

Law: two writes of the same bytes never fly at once by different ways, and whatever is
not a write waits for all that fly, as if there were one channel. For the asyncio side
alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TypeVar

import asyncssh
from asyncssh.constants import FXP_WRITE
from asyncssh.packet import String, UInt32, UInt64
from asyncssh.sftp import SFTPClientHandler

from pamfs.transport.bridge import Make
from pamfs.transport.packets import Sent, close_unheard

V = TypeVar("V")

_LOST = (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection)


@dataclass(slots=True, eq=False)
class Way:
    """One handle, and how much is on its way to it."""

    handler: SFTPClientHandler
    handle: bytes
    nbytes: int = 0


@dataclass(slots=True, eq=False)
class _Flight:
    start: int
    end: int
    landed: asyncio.Event


class Ways:
    """All handles of one open file; the first is the one that it was opened with."""

    def __init__(self, first: Way) -> None:
        self._first = first
        self._ways = [first]
        self._flights: set[_Flight] = set()
        self._is_ordered = True

    @property
    def count(self) -> int:
        """Return how many ways there are."""
        return len(self._ways)

    @property
    def is_ordered(self) -> bool:
        """Whether the server keeps the order, as of one channel.

        Never again after a second way: what was lost with it is sent once more.
        """
        return self._is_ordered

    def add(self, way: Way) -> None:
        """Let writes go by ``way`` too; it leads to the same file."""
        self._is_ordered = False
        self._ways.append(way)

    async def write(self, offset: int, part: memoryview) -> None:
        """Store ``part`` by the way that has the least to carry."""
        flight = _Flight(offset, offset + len(part), asyncio.Event())
        before = [] if self._is_ordered else self._over(flight)
        self._flights.add(flight)
        try:
            for earlier in before:
                await earlier.landed.wait()
            await self._carried(offset, part)
        finally:
            self._flights.discard(flight)
            flight.landed.set()

    def _over(self, new: _Flight) -> list[_Flight]:
        return [f for f in self._flights if f.start < new.end and new.start < f.end]

    async def _carried(self, offset: int, part: memoryview) -> None:
        way = min(self._ways, key=lambda way: way.nbytes)
        try:
            await self._send(way, offset, part)
        except _LOST:
            if way is self._first:
                raise
            # Whether it was stored is not known: once more is the same file.
            with contextlib.suppress(ValueError):
                self._ways.remove(way)
            await self._send(self._first, offset, part)

    async def _send(self, way: Way, offset: int, part: memoryview) -> None:
        way.nbytes += len(part)
        where = String(way.handle) + UInt64(offset) + UInt32(len(part))
        sent = Sent(way.handler, FXP_WRITE, where, part)
        try:
            await sent.answer()
        finally:
            sent.give_up()
            way.nbytes -= len(part)

    def behind(self, make: Make[V]) -> Make[V]:
        """Return ``make``, done when all writes that fly now have landed."""
        if self._is_ordered:
            return make

        async def later() -> V:
            for flight in list(self._flights):
                await flight.landed.wait()
            return await make()

        return later

    async def close(self) -> None:
        """Give all handles back; raise what the server says about any."""
        ways, self._ways = self._ways[1:], [self._first]
        answers = await asyncio.gather(
            *(way.handler.close(way.handle) for way in ways), return_exceptions=True
        )
        await self._first.handler.close(self._first.handle)
        for answer in answers:
            if isinstance(answer, asyncssh.SFTPError) and not isinstance(answer, _LOST):
                raise answer


def forget(way: Way) -> None:
    """Give the handle of a way back that will not be used."""
    close_unheard(way.handler, way.handle)
