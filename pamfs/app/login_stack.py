"""Everything between a first access and an open session, put together for a mount.

From the outside in: the guard decides which programs may cause a login, the pool has
one session per target, and ``login.steps`` lists the steps of each login: the account,
the proxy's host key, the lease, and the connection, with people asked on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import trio

from pamfs.audit import Audit
from pamfs.config import (
    Config,
    HelperConfig,
    SeguraConfig,
    TenantConfig,
    session_bus,
    state_folder,
)
from pamfs.model import Target
from pamfs.naming.targets import unlock_line
from pamfs.sessions.account.clock import Clock, time_of_day
from pamfs.sessions.account.codes import Codes
from pamfs.sessions.account.ledger import FileStore
from pamfs.sessions.answers import Answers
from pamfs.sessions.checkout.base import Provider
from pamfs.sessions.checkout.custody import Custody
from pamfs.sessions.checkout.helper import HelperProvider
from pamfs.sessions.checkout.journal import Orphans, new_journal
from pamfs.sessions.checkout.lease_requests import LeaseRequests
from pamfs.sessions.checkout.listing import TargetList, TargetLists
from pamfs.sessions.guard import Guard
from pamfs.sessions.login.dial import WireLogins
from pamfs.sessions.login.host_key_prompt import HostKeyPrompts
from pamfs.sessions.login.steps import Checkout, LoginSteps
from pamfs.sessions.notices import Desktop
from pamfs.sessions.pool import Pool
from pamfs.sessions.prompts import ControlPrompters, build_chain
from pamfs.transport.bridge import Bridge
from pamfs.transport.wires import Wires


@dataclass(frozen=True, slots=True)
class Providers:
    """The providers by tenant; without one the proxy checks out by itself."""

    by_tenant: Mapping[str, Provider]
    listings: TargetLists


def build_providers(
    tenants: Mapping[str, TenantConfig], answers: Answers, clock: Clock
) -> Providers:
    """Return what ``tenants`` configure; nothing connects yet.

    ``clock`` is compared with the clock of each vault.
    """
    by_tenant: dict[str, Provider] = {}
    listings: list[tuple[str, TargetList]] = []
    for name, tenant in tenants.items():
        match tenant.checkout:
            case SeguraConfig() as config:
                # A mount without a vault does not pay for an HTTP library.
                from pamfs.sessions.checkout.segura import SeguraProvider

                vault = SeguraProvider(name, config, answers, clock)
                by_tenant[name] = vault
                fetch, refresh_s = vault.list_targets, config.refresh_s
                listings.append(
                    (name, TargetList(tenant, fetch, refresh_s, time_of_day))
                )
            case HelperConfig() as config:
                by_tenant[name] = HelperProvider(config)
            case None:
                pass
    return Providers(by_tenant, TargetLists(listings))


@dataclass(frozen=True, slots=True)
class Place:
    """What is opened from where: the configuration and the mount it serves."""

    config: Config
    mountpoint: Path
    is_foreground: bool

    def unlock_line(self, target: Target) -> str:
        """Return what to type to open ``target`` from another terminal."""
        return unlock_line(self.mountpoint, target)


class LoginStack:
    """The pool of a mount, and what its logins are made with."""

    def __init__(self, place: Place, audit: Audit) -> None:
        self.place = place
        self.control = ControlPrompters()
        self._audit = audit
        self._leases = state_folder() / "leases"
        self._journal = new_journal(self._leases, place.config.path)

    def open(self, nursery: trio.Nursery, bridge: Bridge) -> None:
        """Build the pool; what works on its own runs in ``nursery``."""
        config, audit = self.place.config, self._audit
        prompter = build_chain(
            config.prompts,
            self.control,
            self.place.unlock_line,
            is_foreground=self.place.is_foreground,
            audit=audit,
        )
        answers = Answers(prompter)
        self.codes = Codes(store=FileStore(state_folder() / "codes.json"))
        providers = build_providers(config.tenants, answers, self.codes.clock)
        custody = self._custody = Custody(nursery, self._journal, audit)
        self._logins = LoginSteps(
            WireLogins(Wires(bridge, nursery), prompter=prompter, codes=self.codes),
            host_keys=HostKeyPrompts(bridge, answers, audit),
            checkout=Checkout(providers.by_tenant, LeaseRequests(answers, custody)),
            audit=audit,
        )
        self.listings = providers.listings
        self.pool = Pool(nursery, config.tenants, self._logins)
        self.pool.guard_with(Guard(config.guard, self.place.mountpoint, audit=audit))
        self.pool.notices.subscribe(Desktop(nursery, session_bus()).show)
        orphans = Orphans(providers.by_tenant, custody)
        nursery.start_soon(orphans.give_back, self._leases, config.path)

    async def pardon(self, target: Target) -> None:
        """Forget the refusals of its account: a person opens it on purpose."""
        if self.pool.ready(target) is None:
            tenant = self.place.config.tenants[target.tenant]
            await self._logins.pardon(tenant, target)

    def end_within(self, seconds: float) -> None:
        """Bound every request to a vault or helper from now on: the mount ends."""
        self._custody.calls.end_within(seconds)

    async def unreturned(self) -> tuple[str, ...]:
        """Return a line for each lease that is held when all requests are over."""
        await self._custody.calls.wait_over()
        return tuple(
            f"{lease.target}: "
            + (
                f"lease {lease.id}"
                if lease.id
                else "a lease that was asked for, perhaps granted"
            )
            for lease in self._journal.leases
        )

    def close(self) -> None:
        """Let go of what outlives the sessions."""
        self._journal.close()
