"""The ``segura`` provider: custody over REST, and the list behind ``ls``.

The vendor's terms are reversed: granting custody is its "check-in"
(facts/pam.md#segura-vault-words).
Custody of an SSH key is documented nowhere, so for a key the session is the lease.
"""

from __future__ import annotations

import logging
from typing import Final
from urllib.parse import quote

import trio

from pamfs.config import SeguraConfig
from pamfs.errors import LoginError
from pamfs.model import Target
from pamfs.sessions.account.clock import Clock, time_of_day
from pamfs.sessions.answers import Answers
from pamfs.sessions.checkout.base import (
    ASKED,
    Answer,
    Busy,
    Denied,
    Lease,
    Pending,
    Request,
    UnansweredGrantError,
)
from pamfs.sessions.checkout.segura_api import (
    NOT_IN_CUSTODY,
    Body,
    CredentialRow,
    SeguraHttp,
    UnansweredError,
    VaultRefusal,
    credentials_of,
    devices_of,
    expiry_of,
    id_of,
    services_of,
)

log = logging.getLogger(__name__)

# Parallel requests: a vault may list a thousand devices, and has other clients.
_DEVICES_AT_ONCE: Final = 4
_DEVICE_AGE_S: Final = 3600.0
_KEY_DOMAIN: Final = "key"  # facts/pam.md#segura-user-names
_SSH: Final = ("ssh", 22)
# The services of a device that are listed: those with a wire.
_LISTED: Final = frozenset({"ssh"})
_NO_CUSTODY: Final = "none"


class SeguraProvider:
    """Checks out of one vault; a ``base.Provider``."""

    def __init__(
        self, tenant: str, config: SeguraConfig, answers: Answers, clock: Clock
    ) -> None:
        self._tenant = tenant
        self._http = SeguraHttp(tenant, config, answers, clock)
        self._known: dict[str, tuple[list[tuple[str, int]], float]] = {}
        self._rows: dict[tuple[str, str, str], CredentialRow] = {}

    async def acquire(self, request: Request, pending: Pending | None) -> Answer:
        """Take custody; a ``pending`` request is repeated by its id."""
        target = request.target
        if pending is None:
            row = await self._find(target)
            if row is None:
                return Denied(f"the vault shows no {target.credential}@{target.device}")
            if row.is_key:
                return Lease(target, _NO_CUSTODY)
            number = row.id
        else:
            number = pending.id
        try:
            answer = await self._http.ask("GET", _credential(number))
        except UnansweredError as exc:
            raise UnansweredGrantError(exc, Lease(target, number)) from None
        if not isinstance(answer, VaultRefusal):
            return _lease(target, number, answer)
        if answer.is_busy:
            return Busy(answer.holder)
        if answer.is_waiting:
            return Pending(number, f"the vault: {answer.text}")
        raise answer.error(f"custody of {target.credential}@{target.device}")

    async def renew(self, lease: Lease) -> Lease | None:
        """Take custody again; None if the lease does not end later than before."""
        if lease.id == _NO_CUSTODY:
            return None
        answer = await self._http.ask("GET", _credential(lease.id))
        if isinstance(answer, VaultRefusal):
            log.info("%s: not renewed: %s", lease.target, answer.text)
            return None
        longer = _lease(lease.target, lease.id, answer)
        ends, ended = longer.expires_at, lease.expires_at
        is_longer = ends is not None and ended is not None and ends > ended
        return longer if is_longer else None

    async def release(self, lease: Lease) -> None:
        """Return custody; "not in custody" counts as returned."""
        number = lease.id
        if number == ASKED:
            row = await self._find(lease.target)
            number = _NO_CUSTODY if row is None or row.is_key else row.id
        if number == _NO_CUSTODY:
            return
        path = f"/pam/credential/custody/{quote(number, safe='')}"
        answer = await self._http.ask("DELETE", path)
        if not isinstance(answer, VaultRefusal):
            return
        if answer.number != NOT_IN_CUSTODY:
            raise answer.error(f"release of {lease.target}")
        log.info("%s: was given back already", lease.target)

    async def list_targets(self) -> list[Target]:
        """Return every target that the application may see."""
        rows = await self._list()
        services = await self._services({row.hostname for row in rows})
        return [
            Target(self._tenant, row.name, row.hostname, _domain(row), proto, port)
            for row in rows
            for proto, port in services.get(row.hostname, [_SSH])
        ]

    async def _find(self, target: Target) -> CredentialRow | None:
        """Return the credential of ``target``, from the last list if it is in it."""
        key = (target.domain, target.credential, target.device)
        if key not in self._rows:
            await self._list()
        return self._rows.get(key)

    async def _list(self) -> list[CredentialRow]:
        answer = await self._http.ask("GET", "/pam/credential")
        if isinstance(answer, VaultRefusal):
            raise answer.error("the list of credentials")
        rows = credentials_of(answer)
        self._rows = {(_domain(row), row.name, row.hostname): row for row in rows}
        return rows

    async def _services(self, hostnames: set[str]) -> dict[str, list[tuple[str, int]]]:
        """Return the SSH services of each device whose connectivities are shown."""
        answer = await self._http.ask("GET", "/pam/device")
        if isinstance(answer, VaultRefusal):
            # An application that may not see devices still lists credentials.
            log.info("%s: no list of devices: %s", self._tenant, answer.text)
            return {}
        found: dict[str, list[tuple[str, int]]] = {}
        limit = trio.CapacityLimiter(_DEVICES_AT_ONCE)
        failures: list[LoginError] = []

        async def look(hostname: str, number: str) -> None:
            async with limit:
                try:
                    services = await self._services_of(number)
                except LoginError as exc:
                    failures.append(exc)
                    return
            if services:
                found[hostname] = [one for one in services if one[0] in _LISTED]

        async with trio.open_nursery() as nursery:
            for hostname, number in devices_of(answer).items():
                if hostname in hostnames:
                    nursery.start_soon(look, hostname, number)
        if failures:
            raise failures[0]
        return found

    async def _services_of(self, number: str) -> list[tuple[str, int]]:
        """Return a device's connectivities; a device seldom changes them."""
        services, until = self._known.get(number, ([], 0.0))
        if trio.current_time() >= until:
            body = await self._http.ask("GET", f"/pam/device/{quote(number, safe='')}")
            services = [] if isinstance(body, VaultRefusal) else services_of(body)
            self._known[number] = (services, trio.current_time() + _DEVICE_AGE_S)
        return services


def _credential(number: str) -> str:
    return f"/pam/credential/{quote(number, safe='')}"


def _domain(row: CredentialRow) -> str:
    return _KEY_DOMAIN if row.is_key else row.domain


def _lease(target: Target, number: str, body: Body) -> Lease:
    expires_at = expiry_of(body)
    if expires_at is not None and expires_at <= time_of_day():
        log.info("%s: custody ends in the past, so its end is not known", target)
        expires_at = None
    # Some releases leave the id out of the answer.
    return Lease(target, id_of(body) or number, expires_at, expires_at is not None)
