"""A directory read with several READDIRs on their way at once.

A small one takes two round trips: the handle, and what it holds. How long it is
shows only at its end, so the waves double. For the asyncio side alone.
"""

from __future__ import annotations

from typing import Final, cast

import asyncssh
from asyncssh.constants import FXP_OPENDIR, FXP_READDIR
from asyncssh.packet import String
from asyncssh.sftp import SFTPClientHandler

from pamfs.transport.packets import Sent, close_unheard, give_up

# One READDIR is answered with the names, the next with the end.
_FIRST: Final = 2
# OpenSSH answers with 100 names: 3,200 of them on their way, some 500 kB.
_MOST: Final = 32


async def read_directory(
    handler: SFTPClientHandler, path: bytes
) -> list[asyncssh.SFTPName]:
    """Return every entry of ``path``, or raise; never a part."""
    handle = await Sent(handler, FXP_OPENDIR, String(path)).handle()
    try:
        names: list[asyncssh.SFTPName] = []
        wave = _FIRST
        while not await _read_wave(handler, handle, wave, names):
            wave = min(2 * wave, _MOST)
        return names
    finally:
        close_unheard(handler, handle)


async def _read_wave(
    handler: SFTPClientHandler,
    handle: bytes,
    count: int,
    names: list[asyncssh.SFTPName],
) -> bool:
    """Add what ``count`` READDIRs find to ``names``; return whether that was all."""
    sent = [Sent(handler, FXP_READDIR, String(handle)) for _ in range(count)]
    is_all = False
    try:
        for request in sent:
            try:
                found = await request.answer()
            except asyncssh.SFTPEOFError:
                is_all = True
            else:
                more, is_last = cast("tuple[list[asyncssh.SFTPName], bool]", found)
                names += more
                is_all = is_all or is_last
    finally:
        give_up(sent)
    return is_all
