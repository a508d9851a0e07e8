"""Finds further ways to a file that is being written: the same path, other channels.

SFTP version 3 has no inode numbers, and a path may lead to another file by now. So the
open handle sets a mark, an access time that no file has by chance; who sees it through
a new handle has the same file. Then the access time is put back. The modification
time is written as it was just told. Who is not told the times of the file, or may not
set them, gets no further way to it. For the asyncio side alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Final

import asyncssh
from asyncssh.constants import FILEXFER_ATTR_DEFINED_V4, FXF_WRITE, FXP_OPEN
from asyncssh.packet import String, UInt32
from asyncssh.sftp import SFTPClientHandler

from pamfs.transport.packets import Sent
from pamfs.transport.ways import Way, forget

# Seconds of 1987 to 2004, so that nobody takes the mark for something of today.
_MARKS: Final = 1 << 29
# Whoever sets times, looks at the file or closes it waits for as long as that.
_LOOK_S: Final = 15.0
_BACK_S: Final = 5.0


async def further_ways(
    first: Way, path: bytes, handlers: Sequence[SFTPClientHandler]
) -> list[Way]:
    """Return a way by each of ``handlers`` that leads to the file of ``first``."""
    opened: list[Way] = []
    same: list[Way] = []
    try:
        async with asyncio.timeout(_LOOK_S):
            await asyncio.gather(
                *(_open(handler, path, opened) for handler in handlers),
                return_exceptions=True,
            )
            if opened:
                same = await _same(first, opened)
    except (asyncssh.SFTPError, TimeoutError):
        pass  # the device does not let us know
    finally:
        for way in opened:
            if way not in same:
                forget(way)
    return same


async def _open(handler: SFTPClientHandler, path: bytes, opened: list[Way]) -> None:
    # Never to create, to empty or to append.
    attrs = asyncssh.SFTPAttrs().encode(handler.version)
    sent = Sent(handler, FXP_OPEN, String(path), UInt32(FXF_WRITE), attrs)
    opened.append(Way(handler, await sent.handle()))


async def _same(first: Way, ways: Sequence[Way]) -> list[Way]:
    known = await _told(first)
    if known.atime is None or known.mtime is None:
        return []
    async with _marked(first, known.atime, known.mtime) as mark:
        seen = await asyncio.gather(*map(_told, ways), return_exceptions=True)
    pairs = zip(ways, seen, strict=True)
    return [
        way
        for way, attrs in pairs
        if isinstance(attrs, asyncssh.SFTPAttrs) and attrs.atime == mark
    ]


@contextlib.asynccontextmanager
async def _marked(first: Way, atime: float, mtime: float) -> AsyncIterator[int]:
    mark = _MARKS + secrets.randbelow(_MARKS)
    try:
        # Given up on its way or not, it may arrive.
        await _set_times(first, mark, mtime)
        yield mark
    finally:
        async with asyncio.timeout(_BACK_S):
            now = await _told(first)
            known = mtime if now.mtime is None else now.mtime
            await _set_times(first, atime, known)


async def _told(way: Way) -> asyncssh.SFTPAttrs:
    return await way.handler.fstat(way.handle, FILEXFER_ATTR_DEFINED_V4)


async def _set_times(way: Way, atime: float, mtime: float) -> None:
    times = asyncssh.SFTPAttrs(atime=atime, mtime=mtime)
    await way.handler.fsetstat(way.handle, times)
