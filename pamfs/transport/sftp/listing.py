"""A directory read with several READDIRs on their way at once.

A small one takes two round trips: the handle, and what it holds. The length is not
known in advance, so each batch is twice as large as the one before. Replies after the
end are ignored, as in OpenSSH and sshfs. An entry without its type, permissions or size
is asked for by name, many at once. For the asyncio side alone.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import stat
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

import asyncssh
from asyncssh.constants import (
    FILEXFER_ATTR_DEFINED_V4,
    FXF_READ,
    FXP_OPEN,
    FXP_OPENDIR,
    FXP_READDIR,
)
from asyncssh.packet import String, UInt32
from asyncssh.sftp import SFTPClientHandler

from pamfs.model import Attrs, Entry, Name
from pamfs.transport.sftp.attributes import attrs_of, is_complete, type_of
from pamfs.transport.sftp.handles import HeldHandle, OpenRequest, handles_of
from pamfs.transport.sftp.packets import SentRequest, StartedCall, give_up

# One READDIR is answered with the names, the next with the end.
_FIRST: Final = 2
# OpenSSH answers with 100 names: 3,200 of them on their way, some 500 kB.
_MOST: Final = 32
# LSTATs on their way for one listing.
_LOOKS: Final = 64
_NAME_MAX: Final = 255
_DOTS: Final = frozenset({b".", b".."})
# What the longname of an entry begins with, as ``ls -l`` has it.
_LETTERS: Final[Mapping[bytes, int]] = {
    b"-": stat.S_IFREG,
    b"d": stat.S_IFDIR,
    b"l": stat.S_IFLNK,
    b"c": stat.S_IFCHR,
    b"b": stat.S_IFBLK,
    b"p": stat.S_IFIFO,
    b"s": stat.S_IFSOCK,
}


class _Missing(enum.Enum):
    """Why an entry that was looked at is not shown."""

    GONE = enum.auto()
    INCOMPLETE = enum.auto()


@dataclass(frozen=True, slots=True)
class DirectoryContents:
    """What a directory holds, and how many entries could not be made sense of."""

    entries: Sequence[Entry]
    left_out: int


async def read_directory(handler: SFTPClientHandler, path: bytes) -> DirectoryContents:
    """Return every entry of ``path`` but the dots, or raise; never a part."""
    good: dict[Name, asyncssh.SFTPName] = {}
    left_out = 0
    for found in await _read_names(handler, path):
        name = Name(_bytes(found.filename))
        if _may_be(name):
            good[name] = found  # one that comes twice is shown once
        elif name not in _DOTS:
            left_out += 1
    incomplete = {n: found for n, found in good.items() if not is_complete(found.attrs)}
    looks = await _looked_at(handler, path, incomplete)
    entries: list[Entry] = []
    for name, found in good.items():
        attrs = looks[name] if name in incomplete else attrs_of(found.attrs)
        if isinstance(attrs, Attrs):
            entries.append(Entry(name, attrs))
        else:
            left_out += attrs is _Missing.INCOMPLETE
    return DirectoryContents(entries, left_out)


def _bytes(text: bytes | str | None) -> bytes:
    # A path given as bytes is answered in bytes.
    return text.encode() if isinstance(text, str) else text or b""


def _may_be(name: bytes) -> bool:
    """Whether a file of this kernel can have this name."""
    return (
        0 < len(name) <= _NAME_MAX
        and name not in _DOTS
        and b"/" not in name
        and b"\0" not in name
    )


async def is_directory(handler: SFTPClientHandler, path: bytes) -> bool:
    """Whether ``path`` can be opened as a directory; raise if that is refused."""
    try:
        held = await _opened(handler, path)
    except asyncssh.SFTPFailure:
        # Either it is not a directory, or the server has no free handle; opening it as
        # a file tells which.
        await _check_opens(handler, path)
        return False
    except (asyncssh.SFTPNotADirectory, asyncssh.SFTPNoSuchFile):
        return False
    held.close_nowait()
    return True


async def _check_opens(handler: SFTPClientHandler, path: bytes) -> None:
    """Raise unless ``path`` opens as a file, or is there and may not be read."""
    attrs = asyncssh.SFTPAttrs().encode(handler.version)
    await handles_of(handler).take_place()
    opening = OpenRequest(handler, FXP_OPEN, String(path), UInt32(FXF_READ), attrs)
    with contextlib.suppress(asyncssh.SFTPPermissionDenied):
        (await opening.held()).close_nowait()


async def _opened(handler: SFTPClientHandler, path: bytes) -> HeldHandle:
    await handles_of(handler).take_place()
    return await OpenRequest(handler, FXP_OPENDIR, String(path)).held()


async def _read_names(
    handler: SFTPClientHandler, path: bytes
) -> list[asyncssh.SFTPName]:
    held = await _opened(handler, path)
    try:
        names: list[asyncssh.SFTPName] = []
        wave = _FIRST
        # The number of entries is not limited yet.
        while not await _read_wave(held, wave, names):
            wave = min(2 * wave, _MOST)
        held.check()
        return names
    finally:
        held.close_nowait()


async def _read_wave(
    held: HeldHandle, count: int, names: list[asyncssh.SFTPName]
) -> bool:
    """Add what ``count`` READDIRs find to ``names``; return whether that was all."""
    held.check()
    handle = String(held.handle)
    sent = [SentRequest(held.handler, FXP_READDIR, handle) for _ in range(count)]
    try:
        for request in sent:
            found = await request.answer()
            more, is_last = cast("tuple[list[asyncssh.SFTPName], bool]", found)
            names += more
            # Servers made with ssh2 end a listing with no names.
            if is_last or not more:
                return True
    except asyncssh.SFTPEOFError:
        return True
    finally:
        give_up(sent)
    return False


async def _looked_at(
    handler: SFTPClientHandler,
    folder: bytes,
    incomplete: Mapping[Name, asyncssh.SFTPName],
) -> Mapping[Name, Attrs | _Missing]:
    """Return what LSTAT tells of ``incomplete``."""
    above = folder.rstrip(b"/") + b"/"
    begun: deque[StartedCall[asyncssh.SFTPAttrs]] = deque()
    coming = (
        StartedCall(handler.lstat(above + name, FILEXFER_ATTR_DEFINED_V4))
        for name in incomplete
    )
    begun.extend(itertools.islice(coming, _LOOKS))
    looks: dict[Name, Attrs | _Missing] = {}
    try:
        for name, found in incomplete.items():
            looks[name] = await _look(begun.popleft(), found)
            begun.extend(itertools.islice(coming, 1))
    finally:
        for look in begun:
            look.give_up()
    return looks


async def _look(
    look: StartedCall[asyncssh.SFTPAttrs], found: asyncssh.SFTPName
) -> Attrs | _Missing:
    try:
        seen = await look
    except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection):
        raise
    except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
        return _Missing.GONE
    except asyncssh.SFTPError:
        seen = found.attrs
    if is_complete(seen):
        return attrs_of(seen)
    # Nothing but the longname is left to tell what it is.
    letter = _bytes(found.longname)[:1]
    kind = type_of(seen) or type_of(found.attrs) or _LETTERS.get(letter, 0)
    is_sized = kind != stat.S_IFREG or seen.size is not None
    return attrs_of(seen, kind) if kind and is_sized else _Missing.INCOMPLETE
