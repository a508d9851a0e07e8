"""The targets that a vault lists, for ``ls``: the last good copy.

Law: looking does not connect. It waits only where there is no list yet, for the fetch
under way, and no longer than ``FIRST_WAIT_S``; without any list it is an error, never
an empty folder. A listing of a copy older than ``refresh_s`` starts a refresh in the
background; while the vault cannot be reached, the copy stays and is reported as stale.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

import trio

from pamfs.config import TenantConfig
from pamfs.errors import (
    LoginError,
    NameRefusedError,
    NotListedError,
    ungrouped,
)
from pamfs.model import Name, Target
from pamfs.naming.dialects import MASK
from pamfs.naming.targets import parse_target, target_name

log = logging.getLogger(__name__)

# The retry interval while the vault cannot be reached.
RETRY_S: Final = 30.0
# The default time limit of one request to a vault.
FIRST_WAIT_S: Final = 10.0


class TargetList:
    """The names of one tenant's targets, as its vault last said."""

    def __init__(
        self,
        tenant: TenantConfig,
        fetch: Callable[[], Awaitable[Sequence[Target]]],
        refresh_s: float,
        now: Callable[[], float],
    ) -> None:
        self._tenant = tenant
        self._fetch = fetch
        self._refresh_s = refresh_s
        self._now = now
        self._names: tuple[Name, ...] = ()
        self._fetched_at: float | None = None
        self._error = ""
        self._code = NotListedError.code
        self._has_tried = trio.Event()
        self._refused: frozenset[str] = frozenset()
        self._wanted = trio.Event()
        self._next = -math.inf

    async def names(self) -> Sequence[Name]:
        """Return the copy, and start a refresh if it is old.

        Raises ``NotListedError`` if no list has ever come.
        """
        if trio.current_time() >= self._next:
            self._next = math.inf
            self._has_tried = trio.Event()
            self._wanted.set()
        if self._fetched_at is None:
            with trio.move_on_after(FIRST_WAIT_S):
                await self._has_tried.wait()
        if self._fetched_at is None:
            why = self._error or f"no answer within {FIRST_WAIT_S:g} s"
            raise NotListedError(self._tenant.name, why, self._code)
        return self._names

    def status(self) -> dict[str, object]:
        """Return the count of targets, the time of the copy and the last error."""
        return {
            "tenant": self._tenant.name,
            "targets": len(self._names),
            "fetched_at": self._fetched_at,
            "is_stale": bool(self._error) or self._fetched_at is None,
            "error": self._error or None,
        }

    async def keep(self) -> None:
        """Fetch now, and again after each listing of an old copy; until cancelled."""
        while True:
            await self.refresh()
            self._wanted = trio.Event()
            await self._wanted.wait()

    async def refresh(self) -> None:
        """Fetch the list; keep the old one if that fails."""
        # A refresh is under way: a listing starts no other.
        self._next = math.inf
        try:
            with ungrouped():
                targets = await self._fetch()
        except LoginError as exc:
            self._failed(str(exc), exc.code)
        except Exception as exc:
            log.exception("%s: the vault's list: an error of ours", self._tenant.name)
            self._failed(type(exc).__name__)
        else:
            self._names = tuple(dict.fromkeys(self._usable(targets)))
            self._fetched_at = self._now()
            self._error = ""
            self._next = trio.current_time() + self._refresh_s
            log.info("%s: the vault lists %d", self._tenant.name, len(self._names))
        finally:
            self._has_tried.set()

    def _failed(self, why: str, code: int = NotListedError.code) -> None:
        if why != self._error:
            log.warning("%s: the vault's list is stale: %s", self._tenant.name, why)
        self._error, self._code = why, code
        self._next = trio.current_time() + min(RETRY_S, self._refresh_s)

    def _usable(self, targets: Sequence[Target]) -> Iterator[Name]:
        refused = {}
        for target in targets:
            try:
                yield self._name_of(target)
            except NameRefusedError as exc:
                refused[str(target)] = str(exc)
        if refused.keys() - self._refused:
            first, why = next(iter(refused.items()))
            log.info(
                "%s: %d of the vault's names cannot be shown, the first is %a: %s",
                self._tenant.name,
                len(refused),
                first,
                why,
            )
        self._refused = frozenset(refused)

    def _name_of(self, target: Target) -> Name:
        """Return the name of ``target``; raise ``NameRefusedError``."""
        name = target_name(target)
        if parse_target(self._tenant.name, name) != target:
            raise NameRefusedError("the name would mean another target")
        login = self._tenant.login
        masked = MASK if login.dialect.takes_otp else ""
        login.dialect.user_name(login.operator, target, masked)
        return name


class TargetLists:
    """The listings of a mount, by tenant."""

    def __init__(self, listings: Sequence[tuple[str, TargetList]] = ()) -> None:
        self._listings = dict(listings)

    async def names(self, tenant: str) -> Sequence[Name]:
        """Return what the vault of ``tenant`` listed last, or raise."""
        listing = self._listings.get(tenant)
        return await listing.names() if listing else ()

    def status(self) -> list[dict[str, object]]:
        """Return the status of each list."""
        return [listing.status() for listing in self._listings.values()]

    async def keep(self) -> None:
        """Keep all lists refreshed, until cancelled."""
        async with trio.open_nursery() as nursery:
            for listing in self._listings.values():
                nursery.start_soon(listing.keep)
