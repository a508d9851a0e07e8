"""Credentials are checked out of a PAM, kept, and checked in again.

``build_providers`` makes what the configuration names; nothing connects yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from pamfs.config import HelperConfig, SeguraConfig, TenantConfig
from pamfs.sessions.account.clock import Clock
from pamfs.sessions.answers import Answers
from pamfs.sessions.checkout.base import Provider
from pamfs.sessions.checkout.helper import HelperProvider
from pamfs.sessions.checkout.listing import Listing, Listings


@dataclass(frozen=True, slots=True)
class Providers:
    """Who checks out, by tenant; a tenant that is not in it has its proxy do it."""

    by_tenant: Mapping[str, Provider]
    listings: Listings


def build_providers(
    tenants: Mapping[str, TenantConfig], answers: Answers, clock: Clock
) -> Providers:
    """Return what ``tenants`` configure; nothing connects yet.

    What time it is for a vault is told to ``clock``.
    """
    by_tenant: dict[str, Provider] = {}
    listings: list[tuple[str, Listing]] = []
    for name, tenant in tenants.items():
        match tenant.checkout:
            case SeguraConfig() as config:
                # A mount without a vault does not pay for an HTTP library.
                from pamfs.sessions.checkout.segura import SeguraProvider

                vault = SeguraProvider(name, config, answers, clock)
                by_tenant[name] = vault
                fetch, refresh_s = vault.list_targets, config.refresh_s
                listings.append((name, Listing(tenant, fetch, refresh_s, _now)))
            case HelperConfig() as config:
                by_tenant[name] = HelperProvider(config)
            case None:
                pass
    return Providers(by_tenant, Listings(listings))


def _now() -> float:
    return datetime.now(UTC).timestamp()
