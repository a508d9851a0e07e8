"""One open session as its users hold it: the files, the lease, and what ends with it.

Law: ``close`` runs every hook once, in the order in which they were added, whatever
the others did. So the connection is hung up before the lease behind it is checked
in, and the record of its end comes last.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Protocol

import trio

from pamfs.transport.base import RemoteTree

CloseHook = Callable[[], Awaitable[object]]


class RenewableLease(Protocol):
    """The lease behind a session, where a vault or a helper granted one."""

    @property
    def expires_at(self) -> float | None:
        """Return when it ends, in seconds since the epoch; None: unknown."""
        ...

    async def renew(self) -> bool:
        """Ask for a later end; return whether there is one."""
        ...


class Link:
    """An SSH connection with its file channels; ``tree`` is the files behind it.

    ``host_key`` is the fingerprint of the proxy's key, ``SHA256:...``. ``lease`` is
    None where the proxy's own session is the lease: SSH does not tell its end
    (facts/pam.md#segura-login).
    """

    def __init__(
        self,
        tree: RemoteTree,
        host_key: str,
        wait_lost: Callable[[], Awaitable[str]],
    ) -> None:
        """``wait_lost`` returns why the connection is gone, for a person."""
        self.tree = tree
        self.host_key = host_key
        self.wait_lost = wait_lost
        self.lease: RenewableLease | None = None
        self._close_hooks: list[CloseHook] = []

    def on_close(self, hook: CloseHook) -> None:
        """Have ``hook`` awaited when the link closes, behind those added before."""
        self._close_hooks.append(hook)

    @property
    def lease_expires_at(self) -> float | None:
        """Return when the lease ends, in seconds since the epoch; None: unknown."""
        return None if self.lease is None else self.lease.expires_at

    async def renew(self) -> float | None:
        """Ask for a longer lease; return its new end, or None if there is none."""
        if self.lease is None:
            await trio.lowlevel.checkpoint()
            return None
        return self.lease.expires_at if await self.lease.renew() else None

    async def close(self) -> None:
        """Hang up; return when the connection is gone. May be called when lost."""
        hooks, self._close_hooks = self._close_hooks, []
        async with AsyncExitStack() as stack:
            for hook in reversed(hooks):
                stack.push_async_callback(hook)
