"""One request to asyncssh: over the bridge, and back as a value or our error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import asyncssh

from pamfs.errors import RemoteError, SessionLostError
from pamfs.transport.bridge import Bridge
from pamfs.transport.status import translated

V = TypeVar("V")
Make = Callable[[], Coroutine[Any, Any, V]]
Explain = Callable[[int], Awaitable[int]]


class Requests:
    """The way one SFTP channel is asked."""

    def __init__(self, bridge: Bridge, client: asyncssh.SFTPClient) -> None:
        self._bridge = bridge
        self._client = client

    async def ask(self, operation: str, make: Make[V]) -> V:
        """Return what ``make()`` does, or raise an error of ours."""
        try:
            with translated(operation):
                return await self._bridge.call(make)
        except RemoteError as exc:
            if not self._is_open():
                # asyncssh ended the session over a reply that makes no sense, and
                # says so with the class that a server's BAD_MESSAGE has.
                raise SessionLostError(f"{operation}: a bad reply") from exc
            raise

    def _is_open(self) -> bool:
        return self._client._handler._writer is not None  # noqa: SLF001 - no public way

    async def explained(self, operation: str, make: Make[V], explain: Explain) -> V:
        """As ``ask``; a refusal's errno is what ``explain`` finds it to have meant."""
        try:
            return await self.ask(operation, make)
        except RemoteError as exc:
            code = await explain(exc.code)
            raise RemoteError(code, operation) from exc
