"""The real steps of a login, around a part that knows the wire."""

from __future__ import annotations

from pamfs.config import TenantConfig
from pamfs.model import Target
from pamfs.sessions.account.turn import Account, Accounts
from pamfs.sessions.checkout.base import Provider
from pamfs.sessions.checkout.lease_requests import LeaseRequests
from pamfs.sessions.login.steps import (
    Checkout,
    HostKeyCheck,
    LoginSteps,
    ProxyLogins,
    TrustInDial,
)


class FreeAccount(Account):
    """An account whose logins never wait for each other and never back off."""

    @property
    def is_accepted(self) -> bool:
        return True

    def check(self, wanted_at: float) -> None:
        """Let every login begin."""


class FreeAccounts(Accounts):
    """The accounts of tests that are about something else."""

    def of(self, tenant: TenantConfig, target: Target) -> Account:
        account = Accounts.of(self, tenant, target)
        free = self._by_key[account.key] = FreeAccount(account.key)
        free.former_keys, free.code_free = account.former_keys, account.code_free
        free._proven = account._proven
        return free


def steps(
    proxy: ProxyLogins,
    *,
    host_keys: HostKeyCheck | None = None,
    provider: Provider | None = None,
    counter: LeaseRequests | None = None,
    accounts: Accounts | None = None,
) -> LoginSteps:
    """Return logins that check out of ``provider`` for the tenant acme."""
    checkout = None
    if provider is not None and counter is not None:
        checkout = Checkout({"acme": provider}, counter)
    return LoginSteps(
        proxy,
        accounts=Accounts() if accounts is None else accounts,
        host_keys=host_keys or TrustInDial(),
        checkout=checkout,
    )
