"""Finds further ways to a file that is being written: the same path, other channels.

SFTP version 3 has no inode numbers, and a path may lead to another file by now. So the
open handle sets a mark, an access time that no file has by chance; who sees it through
a new handle has the same file. Then the access time is put back. The modification
time is written as it was just told. Who may not set the times of the file gets no
further way to it. For the asyncio side alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Final

import asyncssh
from asyncssh.constants import FILEXFER_ATTR_DEFINED_V4, FXF_WRITE
from asyncssh.sftp import SFTPClientHandler

from pamfs.transport.ways import Way, forget

# Seconds of 1987 to 2004, so that nobody takes the mark for something of today.
_MARKS: Final = 1 << 29


async def further_ways(
    first: Way, path: bytes, handlers: Sequence[SFTPClientHandler]
) -> list[Way]:
    """Return a way by each of ``handlers`` that leads to the file of ``first``."""
    found = await asyncio.gather(
        *(_opened(handler, path) for handler in handlers), return_exceptions=True
    )
    ways = [way for way in found if isinstance(way, Way)]
    same: list[Way] = []
    try:
        if ways:
            same = await _same(first, ways)
    except asyncssh.SFTPError:
        pass  # the device does not let us know
    finally:
        for way in ways:
            if way not in same:
                forget(way)
    return same


async def _opened(handler: SFTPClientHandler, path: bytes) -> Way:
    # Never to create, to empty or to append.
    handle = await handler.open(path, FXF_WRITE, asyncssh.SFTPAttrs())
    return Way(handler, handle)


async def _same(first: Way, ways: Sequence[Way]) -> list[Way]:
    async with _marked(first) as mark:
        seen = await asyncio.gather(*map(_told, ways), return_exceptions=True)
    pairs = zip(ways, seen, strict=True)
    return [
        way
        for way, attrs in pairs
        if isinstance(attrs, asyncssh.SFTPAttrs) and attrs.atime == mark
    ]


@contextlib.asynccontextmanager
async def _marked(first: Way) -> AsyncIterator[int]:
    known = await _told(first)
    mark = _MARKS + secrets.randbelow(_MARKS)
    await _set_times(first, mark, known.mtime or 0)
    try:
        yield mark
    finally:
        now = await _told(first)
        await _set_times(first, known.atime or 0, now.mtime or 0)


async def _told(way: Way) -> asyncssh.SFTPAttrs:
    return await way.handler.fstat(way.handle, FILEXFER_ATTR_DEFINED_V4)


async def _set_times(way: Way, atime: float, mtime: float) -> None:
    times = asyncssh.SFTPAttrs(atime=atime, mtime=mtime)
    await way.handler.fsetstat(way.handle, times)
