"""Further SFTP channels of one connection, opened when one is too narrow.

A server grants each channel a window (OpenSSH: 2 MiB), and no more than that is on its
way at once: at 100 ms, 20 MB/s. Some proxies allow one channel only; who has refused
a second is not asked again while the mount lasts. Where one could not be opened for
another reason, that session keeps what it has.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Final

import asyncssh
import trio

from pamfs.errors import PamfsError, RemoteError, SessionLostError
from pamfs.transport.bridge import Bridge, Make
from pamfs.transport.sftp.requests import Requests
from pamfs.transport.sftp.status import translated

# A channel that is not open by then is none: nobody waits for it.
_OPEN_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Further:
    """How further channels of a connection are opened, and how many at most.

    ``refused`` holds the proxies that allow none; it outlives the session.
    """

    open: Make[asyncssh.SFTPClient]
    most: int
    proxy: str = ""
    refused: set[str] = field(default_factory=set)


class Channels:
    """The further channels of one session, one after the other."""

    def __init__(
        self, bridge: Bridge, first: Requests, further: Further | None
    ) -> None:
        self._bridge = bridge
        self._first = first
        self._further = further
        self._lock = trio.Lock()
        self._open: list[Requests] = []
        self._has_failed = False

    @property
    def may_grow(self) -> bool:
        """Whether there are, or may be, more than the first."""
        further = self._further
        if further is None or further.most <= 1:
            return False
        return bool(self._open) or self._may_ask(further)

    def _may_ask(self, further: Further) -> bool:
        return not self._has_failed and further.proxy not in further.refused

    async def all(self) -> list[Requests]:
        """Return all further channels, opening them when asked first."""
        further = self._further
        if further is None:
            return []
        async with self._lock:
            self._open = [channel for channel in self._open if channel.is_open]
            if not self._open:
                # One alone, so that a proxy that refuses is asked once.
                await self._open_one(further)
            if self._open:
                async with trio.open_nursery() as nursery:
                    for _ in range(further.most - 1 - len(self._open)):
                        nursery.start_soon(self._open_one, further)
            return list(self._open)

    async def _open_one(self, further: Further) -> None:
        if not self._may_ask(further):
            return
        try:
            with trio.fail_after(_OPEN_S), translated("a further channel"):
                client = await self._bridge.call(further.open)
        except (PamfsError, trio.TooSlowError) as exc:
            self._has_failed = True
            if await self._is_refusal(exc):
                further.refused.add(further.proxy)
        else:
            self._open.append(Requests(self._bridge, client))

    async def _is_refusal(self, exc: Exception) -> bool:
        if not isinstance(exc.__cause__, asyncssh.ChannelOpenError):
            return isinstance(exc, RemoteError)
        # asyncssh says so too of a connection that was lost: then nothing answers.
        look = functools.partial(self._first.handler.realpath, b".")
        try:
            with trio.fail_after(_OPEN_S):
                await self._first.ask("realpath", look)
        except (SessionLostError, trio.TooSlowError):
            return False
        except RemoteError:
            pass
        return True
