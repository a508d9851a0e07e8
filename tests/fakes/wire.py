"""A wire that is not SSH: no host key, no keys, and a password if there is one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from pamfs.config import TenantConfig
from pamfs.model import Secret, Target
from pamfs.transport.base import LoginTry
from pamfs.transport.bridge import Bridge
from tests.fakes.memory import MemoryFs
from tests.fakes.remote import Device, FakeTree


class FakeWireLink:
    """A ``wires.WireLink``."""

    host_key: Final = ""

    def __init__(self) -> None:
        self.tree = FakeTree(MemoryFs(), Device())
        self._closed = trio.Event()

    async def wait_lost(self) -> str:
        await self._closed.wait()
        return "closed"

    async def close(self) -> None:
        self._closed.set()
        await trio.lowlevel.checkpoint()


class FakeWireDialer:
    """A ``wires.Dialer``; ``logins`` gets each user name and password."""

    def __init__(self, logins: list[tuple[str, str]]) -> None:
        self._logins = logins

    async def load_keys(self, passphrase: Callable[[str], Awaitable[Secret]]) -> None:
        del passphrase
        await trio.lowlevel.checkpoint()

    async def open(self, one: LoginTry) -> FakeWireLink:
        one.on_answered()
        password = await one.responder.password()
        text = password.reveal() if password else ""
        self._logins.append((one.user_name.reveal(), text))
        return FakeWireLink()

    def forget(self) -> None:
        """There are no keys."""


class FakeWire:
    """A ``wires.Wire``."""

    has_host_key: Final = False

    def __init__(
        self, bridge: Bridge | None = None, nursery: trio.Nursery | None = None
    ) -> None:
        del bridge, nursery
        self.logins: list[tuple[str, str]] = []

    def begin(self, tenant: TenantConfig, target: Target) -> FakeWireDialer:
        del tenant, target
        return FakeWireDialer(self.logins)
