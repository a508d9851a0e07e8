"""The two synthetic levels: ``/`` lists tenants, ``/tenant`` lists targets.

Law: everything here is answered from the configuration and the vault's last list;
nothing connects. A list that has never come is an error, not an empty folder. A
name that is no target, or that only desktops probe for, is ENOENT at once.
"""

from __future__ import annotations

import fnmatch
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from pamfs.config import Ahead, Config, Owner, Symlinks, TenantConfig
from pamfs.errors import NameRefusedError
from pamfs.model import Name, Target
from pamfs.naming.targets import parse_target

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class View:
    """How the files of a target are shown."""

    root: bytes
    owner: Owner
    symlinks: Symlinks
    attr_timeout_s: float
    request_timeout_s: float
    ahead: Ahead


# What else a tenant has, as its vault said last; raises if it never has.
Listed = Callable[[str], Awaitable[Sequence[Name]]]


async def _nothing_more(_tenant: str) -> Sequence[Name]:
    return ()


class Namespace:
    """The configured tenants and targets, by the names the kernel uses."""

    def __init__(self, config: Config, listed: Listed = _nothing_more) -> None:
        self._listed = listed
        self._tenants: dict[Name, TenantConfig] = {
            Name(name.encode()): tenant for name, tenant in config.tenants.items()
        }
        self._by_name = config.tenants
        self._roots = {
            listed.target: listed.root
            for tenant in config.tenants.values()
            for listed in tenant.targets
            if listed.root is not None
        }
        self._probes = [os.fsencode(pattern) for pattern in config.guard.probe_names]

    def tenants(self) -> Sequence[Name]:
        """Return the names of the top level."""
        return sorted(self._tenants)

    async def targets(self, tenant: Name) -> Sequence[Name]:
        """Return the names that ``ls /tenant`` shows: ours, and those of its vault."""
        config = self._tenants[tenant]
        names = {listed.name for listed in config.targets}
        if not config.only_listed:
            names.update(await self._listed(config.name))
        return sorted(names)

    def has_tenant(self, name: Name) -> bool:
        """Whether the top level has ``name``."""
        return name in self._tenants

    def is_probe(self, name: Name) -> bool:
        """Whether ``name`` is one that programs look for everywhere."""
        return any(fnmatch.fnmatchcase(name, probe) for probe in self._probes)

    def find_target(self, tenant: Name, name: Name) -> Target:
        """Return the target called ``name``; raise ``NameRefusedError``."""
        config = self._tenants[tenant]
        for listed in config.targets:
            if listed.name == name:
                return listed.target
        if config.only_listed or self.is_probe(name):
            raise NameRefusedError(f"{config.name} has no such target")
        try:
            return parse_target(config.name, name)
        except NameRefusedError as exc:
            log.info("no target in %s: %s", config.name, exc)
            raise

    def view(self, target: Target) -> View:
        """Return how ``target`` is shown."""
        tenant = self._by_name[target.tenant]
        return View(
            root=self._roots.get(target, tenant.root),
            owner=tenant.owner,
            symlinks=tenant.symlinks,
            attr_timeout_s=tenant.attr_timeout_s,
            request_timeout_s=tenant.request_timeout_s,
            ahead=tenant.ahead,
        )
