"""A pool with the real dialer over real sockets, and labs and proxies to dial."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from pamfs.audit import NoAudit
from pamfs.config import AnswerSource, HostKeyPolicy, SourceKind, TenantConfig, load
from pamfs.lab.runtime import Lab, running
from pamfs.lab.spec import LabSpec
from pamfs.model import Target
from pamfs.sessions.account.codes import Codes
from pamfs.sessions.account.turn import Accounts
from pamfs.sessions.answers import Answers
from pamfs.sessions.login.dial import WireLogins
from pamfs.sessions.login.host_key_prompt import HostKeyPrompts
from pamfs.sessions.pool import Pool
from pamfs.transport.bridge import ThreadBridge
from pamfs.transport.wires import Wires
from tests.fakes.logins import FreeAccounts, steps
from tests.fakes.people import FakePerson
from tests.fakes.pools import borrow
from tests.fakes.proxy import Script, scripted
from tests.fakes.tenants import changed, tenant

WITHIN_S = 30.0


@dataclass
class SessionSite:
    """The asyncio side, and the folder in which everything happens."""

    bridge: ThreadBridge
    folder: Path
    person: FakePerson = field(default_factory=FakePerson)
    codes: Codes | None = None
    within_s: float = WITHIN_S
    spares_account: bool = False

    @asynccontextmanager
    async def pool(self, *tenants: TenantConfig) -> AsyncIterator[Pool]:
        """Run a pool; at its end nothing of it is left."""
        codes = self.codes or Codes()
        with trio.fail_after(self.within_s):
            async with trio.open_nursery() as nursery:
                connector = WireLogins(
                    Wires(self.bridge, nursery), prompter=self.person, codes=codes
                )
                answers = Answers(self.person)
                logins = steps(
                    connector,
                    host_keys=HostKeyPrompts(self.bridge, answers, NoAudit()),
                    accounts=Accounts() if self.spares_account else FreeAccounts(),
                )
                pool = Pool(nursery, {one.name: one for one in tenants}, logins)
                try:
                    yield pool
                finally:
                    assert await pool.close(10) == ()

    @asynccontextmanager
    async def lab(self, spec: LabSpec, **changes: Any) -> AsyncIterator[LabSite]:
        """Run a lab and a pool that is configured for its first tenant."""
        context = running(self.folder / "lab", spec)
        lab = await self.bridge.call(context.__aenter__)
        try:
            config = load(lab.folder / "config.toml")
            acme = changed(config.tenants["acme"], **changes)
            async with self.pool(acme) as pool:
                yield LabSite(self.bridge, lab, pool, acme)
        finally:
            await self.bridge.call(lambda: context.__aexit__(None, None, None))

    @asynccontextmanager
    async def proxy(self, script: Script, **changes: Any) -> AsyncIterator[Pool]:
        """Run a scripted proxy and a pool that is configured for it."""
        async with scripted(self.bridge, script) as port:
            settings: dict[str, Any] = {
                "port": port,
                "password": AnswerSource(SourceKind.VALUE, "hunter2"),
                "host_keys": HostKeyPolicy.PINNED,
                "host_key": script.host_key.get_fingerprint(),
                **changes,
            }
            async with self.pool(tenant(**settings)) as pool:
                yield pool


@dataclass
class LabSite:
    """A lab that runs on the asyncio side, and the pool that dials it."""

    bridge: ThreadBridge
    running: Lab
    pool: Pool
    acme: TenantConfig

    async def events(self, name: str) -> list[dict[str, Any]]:
        """Return the audit log's events of that name."""

        async def read() -> list[dict[str, Any]]:
            return [e for e in self.running.audit_events() if e["event"] == name]

        return await self.bridge.call(read)

    async def admin(self, act: str, *args: str) -> None:
        """Do what an administrator does."""

        async def do() -> None:
            getattr(self.running, act)(*args)

        await self.bridge.call(do)

    async def borrow(self, target: Target) -> None:
        """Borrow a session once."""
        await borrow(self.pool, target)


async def eventually(is_so: Callable[[], bool]) -> None:
    """Wait for what the other side does in its own time."""
    with trio.fail_after(WITHIN_S):
        while not is_so():  # noqa: ASYNC110 - nothing of ours could be waited for
            await trio.sleep(0.01)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SessionSite]:
    """Provide the asyncio side in a thread of its own."""
    with ThreadBridge.running() as bridge:
        yield SessionSite(bridge, tmp_path)
