"""Finds further handles for a file that is written: the same path, other channels.

Law: a further handle is opened while no write is on its way, and the size of the file
is looked at through the first handle before and after. A file that became smaller was
emptied by the open: each of its writes fails from then on.

SFTP version 3 has no inode numbers, and a path may lead to another file by now. The
witness is our own writing: a handle is used once the size that it shows lies between
two that the first handle shows before and after, and grows with our writes, twice.
Mode, owner and time of change have to agree as well. Nothing on the device is changed
for it. A file that does not grow keeps one channel. For the asyncio side alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncssh
from asyncssh.constants import FILEXFER_ATTR_DEFINED_V4, FXF_WRITE, FXP_OPEN
from asyncssh.packet import String, UInt32
from asyncssh.sftp import SFTPClientHandler

from pamfs.transport.sftp.handles import Opening, handles_of
from pamfs.transport.sftp.striping import Way, Ways, forget

log = logging.getLogger(__name__)

# The writes of the file wait for as long as that, and then fail.
_LOOK_S: Final = 15.0
# A program that writes on as fast as the line allows has more by then.
_NEXT_S: Final = 1.0
# A handle has to show growth twice, within so many looks.
_GROWTHS: Final = 2
_ROUNDS: Final = 10


async def widen(ways: Ways, path: bytes, handlers: Sequence[SFTPClientHandler]) -> None:
    """Add a handle by each of ``handlers`` that is proved to be of the same file."""
    opened: list[_Candidate] = []
    same: list[_Candidate] = []
    try:
        with ways.held():
            await _open_all(ways, path, handlers, opened)
        async with asyncio.timeout(_LOOK_S):
            same = await _same(ways.first, opened)
    except (asyncssh.SFTPError, TimeoutError):
        same = []  # the device does not let us know
    finally:
        for one in opened:
            if one in same and not ways.is_closed:
                ways.add(one.way)
            else:
                forget(one.way)
        ways.stop_counting()


@dataclass(slots=True, eq=False)
class _Candidate:
    """A handle that may be of the same file, and how it was seen to grow."""

    way: Way
    size: int
    growths: int = 0


async def _open_all(
    ways: Ways,
    path: bytes,
    handlers: Sequence[SFTPClientHandler],
    opened: list[_Candidate],
) -> None:
    # Behind all writes so far: when the answer is here, none is on its way.
    before = await _look(ways.first)
    if before.size is None or await _next_offset(ways) < before.size:
        return  # it is not written at its end, or nothing more is
    try:
        async with asyncio.timeout(_LOOK_S):
            opens = [_open(handler, path) for handler in handlers]
            found = await asyncio.gather(*opens, return_exceptions=True)
            made = [way for way in found if isinstance(way, Way)]
            opened += [_Candidate(way, before.size) for way in made]
            after = await _look(ways.first)
    except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection) as exc:
        ways.fail(exc)  # as the writes themselves fail
        raise
    except (asyncssh.SFTPError, TimeoutError) as exc:
        raise _failed(ways, path, "may have changed it") from exc
    if after.size is None or after.size < before.size:
        raise _failed(ways, path, "changed it")


def _failed(ways: Ways, path: bytes, what: str) -> asyncssh.SFTPError:
    """Have all later writes fail, and say why; return the error."""
    log.error(
        "%r: opening it a second time for writing %s, so its writes fail "
        "with EIO; remove quirks shared-writes or set channels = 1 for the tenant",
        path,
        what,
    )
    failure = asyncssh.SFTPFailure(f"a second open {what}")
    ways.fail(failure)
    return failure


async def _next_offset(ways: Ways) -> int:
    """Return where the next write begins; less than any offset if none comes."""
    try:
        async with asyncio.timeout(_NEXT_S):
            return await ways.next_offset()
    except TimeoutError:
        return -1


async def _open(handler: SFTPClientHandler, path: bytes) -> Way:
    # Never to create, to empty or to append.
    attrs = asyncssh.SFTPAttrs().encode(handler.version)
    await handles_of(handler).room()
    sent = Opening(handler, FXP_OPEN, String(path), UInt32(FXF_WRITE), attrs)
    return Way(await sent.held())


async def _same(first: Way, found: list[_Candidate]) -> list[_Candidate]:
    """Return those of ``found`` that show what ``first`` shows, and grow with it."""
    for _ in range(_ROUNDS):
        if all(one.growths >= _GROWTHS for one in found):
            break
        found = await _alike(first, found)
    return [one for one in found if one.growths >= _GROWTHS]


async def _alike(first: Way, found: Sequence[_Candidate]) -> list[_Candidate]:
    low = await _look(first)
    looks = (_look(one.way) for one in found)
    seen = await asyncio.gather(*looks, return_exceptions=True)
    high = await _look(first)
    return [
        one
        for one, attrs in zip(found, seen, strict=True)
        if isinstance(attrs, asyncssh.SFTPAttrs) and _agrees(one, low, attrs, high)
    ]


def _agrees(
    one: _Candidate,
    low: asyncssh.SFTPAttrs,
    seen: asyncssh.SFTPAttrs,
    high: asyncssh.SFTPAttrs,
) -> bool:
    size = seen.size or 0
    one.growths += size > one.size
    one.size = size
    return (
        _identity(low) == _identity(seen) == _identity(high)
        and _is_between(low.size, size, high.size)
        and _is_between(low.mtime, seen.mtime, high.mtime)
    )


def _is_between(low: float | None, seen: float | None, high: float | None) -> bool:
    return (
        low is not None
        and seen is not None
        and high is not None
        and low <= seen <= high
    )


def _identity(attrs: asyncssh.SFTPAttrs) -> tuple[object, ...]:
    return attrs.permissions, attrs.uid, attrs.gid


async def _look(way: Way) -> asyncssh.SFTPAttrs:
    return await way.handler.fstat(way.handle, FILEXFER_ATTR_DEFINED_V4)
