"""The key of an account: what counts as one account at the PAM."""

from __future__ import annotations

from pamfs.config import TenantConfig
from pamfs.model import Target


def account_key(tenant: TenantConfig, target: Target) -> str:
    """Return the key of the account that logs in to ``target``.

    Everything that counts wrong answers goes by it: turn and back-off (``turn``),
    the ledger on disk (``ledger``), and what is known of one-time codes.
    """
    proxy = f"{tenant.proxy_host}:{tenant.proxy_port}"
    return "\0".join((proxy, *tenant.dialect.account(tenant.operator, target)))


def former_account_key(tenant: TenantConfig) -> str:
    """Return the key that ledgers of earlier versions have for the account."""
    return f"{tenant.operator}%{tenant.name}@{tenant.proxy_host}:{tenant.proxy_port}"
