"""A vault to check out of: the lab's, and providers that speak to it over HTTPS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from pamfs.config import SeguraConfig, TenantConfig, load
from pamfs.lab.runtime import Lab, running
from pamfs.lab.spec import LabSpec
from pamfs.model import Target
from pamfs.sessions.account.clock import Clock
from pamfs.sessions.account.codes import Codes
from pamfs.sessions.answers import Answers
from pamfs.sessions.checkout.base import Lease, Provider, Request
from pamfs.sessions.checkout.custody import Custody
from pamfs.sessions.checkout.lease_requests import LeaseRequests
from pamfs.sessions.checkout.segura import SeguraProvider
from pamfs.sessions.login.dial import WireLogins
from pamfs.sessions.pool import Pool
from pamfs.transport.bridge import ThreadBridge
from pamfs.transport.wires import Wires
from tests.fakes.journals import MemoryJournal
from tests.fakes.logins import FreeAccounts, steps
from tests.fakes.people import FakePerson
from tests.fakes.tenants import RECORD_OF, changed
from tests.integration.lab_site import spec

ROOT = Target("acme", "root", "web01")
HELD = Target("acme", "held", "web01")
WITHIN_S = 60.0


@dataclass
class VaultSite:
    """A lab on the asyncio side, and what a mount's tenant acme would have."""

    bridge: ThreadBridge
    lab: Lab
    journal: MemoryJournal = field(default_factory=MemoryJournal)
    clock: Clock = field(default_factory=Clock)

    def tenant(self, **changes: Any) -> TenantConfig:
        acme = load(self.lab.folder / "config-vault.toml").tenants["acme"]
        assert isinstance(acme.checkout, SeguraConfig)
        ours = {k: changes.pop(k) for k in list(changes) if k in RECORD_OF}
        return changed(acme, checkout=replace(acme.checkout, **changes), **ours)

    def provider(self, **changes: Any) -> SeguraProvider:
        config = self.tenant(**changes).checkout
        assert isinstance(config, SeguraConfig)
        return SeguraProvider("acme", config, Answers(FakePerson()), self.clock)

    async def events(self, name: str) -> list[dict[str, Any]]:
        async def read() -> list[dict[str, Any]]:
            return [e for e in self.lab.audit_events() if e["event"] == name]

        return await self.bridge.call(read)

    async def admin(self, act: str, *args: str) -> Any:
        async def do() -> Any:
            return getattr(self.lab, act)(*args)

        return await self.bridge.call(do)

    async def in_custody(self) -> list[str]:
        return [row["target"] for row in await self.admin("custody")]

    @asynccontextmanager
    async def pool(
        self, acme: TenantConfig, provider: Provider | None = None
    ) -> AsyncIterator[Pool]:
        """Run a pool that checks out first; at its end nothing is held."""
        answers = Answers(FakePerson())
        async with trio.open_nursery() as nursery:
            dialer = WireLogins(
                Wires(self.bridge, nursery), prompter=answers.prompter, codes=Codes()
            )
            counter = LeaseRequests(answers, Custody(nursery, self.journal))
            logins = steps(
                dialer,
                provider=provider or self.provider(),
                counter=counter,
                accounts=FreeAccounts(),
            )
            pool = Pool(nursery, {"acme": acme}, logins)
            try:
                yield pool
            finally:
                assert await pool.close(10) == ()
                nursery.cancel_scope.cancel()
        assert self.journal.leases == []


@asynccontextmanager
async def vault(
    bridge: ThreadBridge, folder: Path, chosen: LabSpec | None = None
) -> AsyncIterator[VaultSite]:
    """Run a lab, and yield ways to its vault."""
    context = running(folder / "lab", chosen or spec())
    lab = await bridge.call(context.__aenter__)
    try:
        with trio.fail_after(WITHIN_S):
            yield VaultSite(bridge, lab)
    finally:
        await bridge.call(lambda: context.__aexit__(None, None, None))


async def lease_of(provider: Provider, target: Target = ROOT) -> Lease:
    answer = await provider.acquire(Request(target), None)
    assert isinstance(answer, Lease), answer
    return answer
