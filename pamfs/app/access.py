"""The commands of the control socket that open, close or answer for sessions."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from pamfs.control.connection import Handler
from pamfs.control.server import ControlStream, StreamHandler
from pamfs.errors import NameRefusedError, PamfsError
from pamfs.model import Caller, Name, Target
from pamfs.sessions.notices import Notice
from pamfs.sessions.pool import Pool
from pamfs.sessions.prompts import ControlPrompters
from pamfs.vfs.names.namespace import Namespace

Message = Mapping[str, object]

# Dirty data is stored before a target is locked, within this time.
_STORE_S: Final = 10.0
_NOTICES_KEPT: Final = 100  # for an agent that does not read


@dataclass(frozen=True, slots=True)
class Access:
    """The commands ``unlock``, ``lock`` and ``agent``."""

    namespace: Namespace
    pool: Pool
    control: ControlPrompters
    pardon: Callable[[Target], Awaitable[None]]
    store: Callable[[Target], Awaitable[None]]

    def handlers(self) -> dict[str, Handler]:
        """Return the commands of one line."""
        return {"lock": self._on_lock}

    def stream_handlers(self) -> dict[str, StreamHandler]:
        """Return the commands whose connection stays."""
        return {"unlock": self._on_unlock, "agent": self._on_agent}

    async def _on_lock(self, request: Message) -> Message:
        """Store what was written, then close a target, or all below a folder."""
        targets = self._targets_of(request)
        async with trio.open_nursery() as nursery:
            for target in targets:
                nursery.start_soon(self._close, target)
        return {"ok": True, "targets": [str(target) for target in targets]}

    async def _close(self, target: Target) -> None:
        if self.pool.ready(target) is not None:
            with trio.move_on_after(_STORE_S):
                await self.store(target)
        await self.pool.end(target)

    async def _on_agent(self, request: Message, stream: ControlStream) -> Message:
        """Send questions and notices to a ``pamfs agent``."""
        del request
        async with self._notices_to(stream):
            await self.control.agent.attend(stream)
        return {"ok": True}

    @asynccontextmanager
    async def _notices_to(
        self, stream: ControlStream, target: Target | None = None
    ) -> AsyncIterator[None]:
        """Send the notices about ``target``, or about all, until the body ends."""
        send_notice, received = trio.open_memory_channel[str](_NOTICES_KEPT)

        def keep(notice: Notice) -> None:
            if target in {None, notice.target}:
                with contextlib.suppress(trio.WouldBlock):  # the log has it
                    send_notice.send_nowait(str(notice))

        async def pass_on() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                async for text in received:
                    await stream.send({"notice": text})

        with self.pool.notices.subscribed(keep):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pass_on)
                yield
                nursery.cancel_scope.cancel()

    async def _on_unlock(self, request: Message, stream: ControlStream) -> Message:
        """Open a session; a client that hangs up cancels its request."""
        target = self._target_of(request)
        caller = Caller(stream.peer.pid, stream.peer.uid, os.getgid())
        reply: Message = {"ok": False, "error": "hung up"}

        async def attend(task_status: trio.TaskStatus[None]) -> None:
            await self.control.unlock.attend(stream, target, task_status)
            nursery.cancel_scope.cancel()

        async with self._notices_to(stream, target), trio.open_nursery() as nursery:
            await nursery.start(attend)
            try:
                await self.pardon(target)
                await self.pool.unlock(target, caller)
                reply = {"ok": True, "target": str(target)}
            except PamfsError as exc:
                reply = {"ok": False, "error": str(exc)}
            nursery.cancel_scope.cancel()
        return reply

    def _targets_of(self, request: Message) -> Sequence[Target]:
        tenant, name = _names(request)
        if name:
            return [self._target_of(request)]
        if tenant and not self.namespace.has_tenant(tenant):
            raise NameRefusedError(f"there is no tenant {os.fsdecode(tenant)!r}")
        wanted = {os.fsdecode(tenant)} if tenant else None
        return [
            target
            for target in self.pool.targets()
            if wanted is None or target.tenant in wanted
        ]

    def _target_of(self, request: Message) -> Target:
        tenant, name = _names(request)
        if not name or not self.namespace.has_tenant(tenant):
            raise NameRefusedError(
                "this path names no target: MOUNTPOINT/TENANT/CREDENTIAL@DEVICE"
            )
        return self.namespace.find_target(tenant, name)


def _names(request: Message) -> tuple[Name, Name]:
    """Return the tenant and the target in a path below the mount point, if any."""
    path = os.fsencode(str(request.get("path", "")))
    tenant, _, rest = path.strip(b"/").partition(b"/")
    return Name(b"" if tenant == b"." else tenant), Name(rest.partition(b"/")[0])
