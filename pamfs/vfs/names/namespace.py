"""The two synthetic levels, ``/`` and ``/tenant``, and what a symbolic link shows.

Law: every name here comes from the configuration or from the last list of the
vault; nothing connects. A vault that has never answered is an error, not an empty
folder. A name that is no target, or that desktops probe for in every folder, is
ENOENT at once.

Law of ``symlinks = "contain"``: a contained link that is followed inside the mount
never leaves its target. The shown link climbs first and then descends, and never
climbs above the root: no ``..`` follows a name, because that name may itself be a
link. An absolute link is taken relative to the root of the target. No link is hidden or
refused.
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
class TargetView:
    """How the files of a target are shown."""

    root: bytes
    owner: Owner
    symlinks: Symlinks
    attr_timeout_s: float
    request_timeout_s: float
    ahead: Ahead


# The names of a tenant that its vault listed last; raises if it never answered.
VaultNames = Callable[[str], Awaitable[Sequence[Name]]]


async def _nothing_more(_tenant: str) -> Sequence[Name]:
    return ()


class Namespace:
    """The configured tenants and targets, by the names the kernel uses."""

    def __init__(self, config: Config, listed: VaultNames = _nothing_more) -> None:
        self._listed = listed
        self._tenants: dict[Name, TenantConfig] = {
            Name(name.encode()): tenant for name, tenant in config.tenants.items()
        }
        # Made once: each request asks for one several times.
        self._views = {
            tenant.name: _view(tenant, tenant.files.root)
            for tenant in config.tenants.values()
        }
        self._views_of_own_roots = {
            listed.target: _view(tenant, listed.root)
            for tenant in config.tenants.values()
            for listed in tenant.files.targets
            if listed.root is not None
        }
        self._probes = [os.fsencode(pattern) for pattern in config.guard.probe_names]

    def tenants(self) -> Sequence[Name]:
        """Return the names of the top level."""
        return sorted(self._tenants)

    async def targets(self, tenant: Name) -> Sequence[Name]:
        """Return the names that ``ls /tenant`` shows: ours, and those of its vault."""
        config = self._tenants[tenant]
        names = {listed.name for listed in config.files.targets}
        if not config.files.only_listed:
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
        for listed in config.files.targets:
            if listed.name == name:
                return listed.target
        if config.files.only_listed or self.is_probe(name):
            raise NameRefusedError(f"{config.name} has no such target")
        try:
            return parse_target(config.name, name)
        except NameRefusedError as exc:
            log.info("no target in %s: %s", config.name, exc)
            raise

    def view(self, target: Target) -> TargetView:
        """Return how ``target`` is shown."""
        own = self._views_of_own_roots
        return (own and own.get(target)) or self._views[target.tenant]


def _view(tenant: TenantConfig, root: bytes) -> TargetView:
    files = tenant.files
    return TargetView(
        root=root,
        owner=files.owner,
        symlinks=files.symlinks,
        attr_timeout_s=files.attr_timeout_s,
        request_timeout_s=files.request_timeout_s,
        ahead=files.ahead,
    )


def contained(content: bytes, depth: int, root: bytes) -> bytes:
    """Return ``content`` as shown in a folder ``depth`` levels below the root.

    A relative link that climbs first and stays inside is shown as it is stored.
    """
    if content.startswith(b"/"):
        _, names = _normalized(_without_root(content, root))
        return b"../" * depth + b"/".join(names) or b"."
    climbs, names = _normalized(content)
    if climbs <= depth and not _turns_back(content):
        return content
    return b"../" * min(climbs, depth) + b"/".join(names) or b"."


def _without_root(content: bytes, root: bytes) -> bytes:
    prefix = root.rstrip(b"/")
    if content == prefix or content.startswith(prefix + b"/"):
        return content[len(prefix) :]
    return content


def _normalized(content: bytes) -> tuple[int, list[bytes]]:
    """Return how far up the path leads, and the names down from there."""
    climbs = 0
    names: list[bytes] = []
    for part in content.split(b"/"):
        if part == b".." and names:
            names.pop()
        elif part == b"..":
            climbs += 1
        elif part not in {b"", b"."}:
            names.append(part)
    return climbs, names


def _turns_back(content: bytes) -> bool:
    parts = [part for part in content.split(b"/") if part not in {b"", b"."}]
    downs = [index for index, part in enumerate(parts) if part != b".."]
    return bool(downs) and b".." in parts[downs[0] :]
