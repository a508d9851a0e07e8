"""The way in: everything between a first access and an open session, put together.

From the outside in: the guard says who may cause a login at all, the pool has
one session per target, the account is spared a second wrong answer, an unknown
proxy is made known, the checkout gets the right to log in, and the connector does,
with people asked on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trio

from pamfs.audit import Audit
from pamfs.config import Config, session_bus, state_folder
from pamfs.model import Target
from pamfs.naming.targets import unlock_line
from pamfs.sessions.answers import Answers
from pamfs.sessions.audited import Audited
from pamfs.sessions.checkout.asking import Counter
from pamfs.sessions.checkout.checked import CheckedOut
from pamfs.sessions.checkout.held import Custody
from pamfs.sessions.checkout.orphans import Orphans
from pamfs.sessions.checkout.providers import build_providers
from pamfs.sessions.codes_state import FileState
from pamfs.sessions.connect import Connector
from pamfs.sessions.desktop import Desktop
from pamfs.sessions.guard import Guard
from pamfs.sessions.introductions import Introducing, Introductions
from pamfs.sessions.journal import new_journal
from pamfs.sessions.lockout import AccountDialer
from pamfs.sessions.otp import Codes
from pamfs.sessions.pool import Pool
from pamfs.sessions.prompts import Desks, build_chain
from pamfs.transport.bridge import Bridge


@dataclass(frozen=True, slots=True)
class Place:
    """What is opened from where: the configuration and the mount it serves."""

    config: Config
    mountpoint: Path
    is_foreground: bool

    def unlock_line(self, target: Target) -> str:
        """Return what to type to open ``target`` from another terminal."""
        return unlock_line(self.mountpoint, target)


class Entrance:
    """The pool of a mount, and what stands before and behind it."""

    def __init__(self, place: Place, audit: Audit) -> None:
        self.place = place
        self.desks = Desks()
        self._audit = audit
        self._leases = state_folder() / "leases"
        self._journal = new_journal(self._leases, place.config.path)

    def open(self, nursery: trio.Nursery, bridge: Bridge) -> None:
        """Build the way in; what works on its own runs in ``nursery``."""
        config, audit = self.place.config, self._audit
        prompter = build_chain(
            config.prompts,
            self.desks,
            self.place.unlock_line,
            is_foreground=self.place.is_foreground,
            audit=audit,
        )
        answers = Answers(prompter)
        self.codes = Codes(state=FileState(state_folder() / "codes.json"))
        providers = build_providers(config.tenants, answers, self.codes.clock)
        custody = self._custody = Custody(nursery, self._journal, audit)
        self._connector = Connector(
            bridge, nursery, prompter=prompter, codes=self.codes
        )
        checked = CheckedOut(
            self._connector, providers.by_tenant, Counter(answers, custody)
        )
        introductions = Introductions(bridge, answers, audit)
        self._accounts = AccountDialer(Introducing(checked, introductions))
        self.listings = providers.listings
        self.pool = Pool(nursery, config.tenants, Audited(self._accounts, audit))
        self.pool.guard_with(Guard(config.guard, self.place.mountpoint, audit=audit))
        self.pool.notices.subscribe(Desktop(nursery, session_bus()).show)
        orphans = Orphans(providers.by_tenant, custody)
        nursery.start_soon(orphans.give_back, self._leases, config.path)

    async def pardon(self, target: Target) -> None:
        """Forget what its account was refused: a person opens it on purpose."""
        if self.pool.ready(target) is None:
            tenant = self.place.config.tenants[target.tenant]
            self._accounts.pardon(tenant, target)
            await self._connector.pardon(tenant, target)

    def end_within(self, seconds: float) -> None:
        """Let no talk with a vault or helper last longer: the mount ends."""
        self._custody.uncut.end_within(seconds)

    async def unreturned(self) -> tuple[str, ...]:
        """Return a line for each lease that is held when all talks are over."""
        await self._custody.uncut.wait_over()
        return tuple(
            f"{lease.target}: "
            + (f"lease {lease.id}" if lease.id else "a lease that was asked for")
            for lease in self._journal.leases
        )

    def close(self) -> None:
        """Let go of what outlives the sessions."""
        self._journal.close()
