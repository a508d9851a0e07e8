"""A login from its first step to its last, in the order in which they are taken.

    logins = LoginSteps(proxy, accounts, host_keys, checkout, audit)
    login = logins.begin(attempt)              # for sessions.session
    link = await login.run(reached)

``SteppedLogin.run`` is the list. Each step is in a module of its own: back-off and turn
of the account (``account.turn``), the proxy's host key (``login.host_key_prompt``), the
lease (``checkout``), keys, secrets and the connection (``login.dial``). The guard has
admitted the caller before (``Pool``).

Law: if the attempt ends without a link, ``close`` releases what the steps obtained;
otherwise the link owns it and releases it when it closes. Tenants without a provider
check out nothing: the proxy's session is the lease.

The order, and why: file descriptors first, since a login that finds none for its socket
has cost a lease and a code. The host key before anything is asked or sent: no secret
for a proxy that is not known. The lease and the keys before the account's turn, because
they may take minutes (an approval, a passphrase) and the proxy counts none of it. The
turn before the code: a code that waits for another login grows old. The dial last, and
the account is looked at again right before it: the login ahead may have been refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from pamfs.audit import Audit, NoAudit, errno_name
from pamfs.config import TenantConfig
from pamfs.descriptors import check_free
from pamfs.errors import HostKeyError, PamfsError
from pamfs.model import Target
from pamfs.sessions.account.turn import Account, Accounts, Turn
from pamfs.sessions.attempt import Attempt, Link, Reached
from pamfs.sessions.checkout.base import Provider
from pamfs.sessions.checkout.custody import HeldLease
from pamfs.sessions.checkout.lease_requests import LeaseRequests
from pamfs.sessions.machine import Event

_ID_BYTES: Final = 6  # unique enough within years of one audit file


class ProxyLogin(Protocol):
    """The steps of one attempt that know secrets and the wire."""

    @property
    def has_host_key(self) -> bool:
        """Whether the wire has a host key, which is checked before all else."""
        ...

    async def load_keys(self) -> None:
        """Load the keys; a passphrase is no secret of the account's."""
        ...

    async def obtain_secrets(self) -> None:
        """Get the password and the one-time code that go out unasked."""
        ...

    async def dial(self) -> Link:
        """Dial, log in, and open the file channel."""
        ...

    async def close(self) -> None:
        """Drop every secret (no link exists); shielded, with a time limit."""
        ...


class ProxyLogins(Protocol):
    """Makes the logins of a mount; each one uses the wire of its target."""

    def begin(self, attempt: Attempt, account: Account) -> ProxyLogin:
        """Return a login that has done nothing yet."""
        ...

    async def pardon(self, account: Account) -> None:
        """Forget the refusals of ``account`` that are on disk."""
        ...


class HostKeyCheck(Protocol):
    """Makes proxies known before anything is sent to them."""

    async def ensure_known(self, attempt: Attempt) -> None:
        """Return once the proxy may be dialed; its key is checked there again."""
        ...

    def distrust(self, attempt: Attempt) -> None:
        """Note that the key was not right after all."""
        ...


class TrustInDial:
    """Leaves host keys to the dial alone."""

    async def ensure_known(self, attempt: Attempt) -> None:
        """Do nothing."""

    def distrust(self, attempt: Attempt) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """Where leases come from: the provider of each tenant that has one."""

    providers: Mapping[str, Provider]
    requests: LeaseRequests

    async def take(self, attempt: Attempt) -> HeldLease | None:
        """Check out; None: this tenant has no provider."""
        provider = self.providers.get(attempt.target.tenant)
        if provider is None:
            return None
        return await self.requests.check_out(attempt, provider)


@dataclass(frozen=True, slots=True)
class LoginSteps:
    """Makes the logins of a mount, from these parts."""

    proxy: ProxyLogins
    accounts: Accounts = field(default_factory=Accounts)
    host_keys: HostKeyCheck = field(default_factory=TrustInDial)
    checkout: Checkout | None = None
    audit: Audit = field(default_factory=NoAudit)

    def begin(self, attempt: Attempt) -> SteppedLogin:
        """Return a login that has done nothing yet."""
        return SteppedLogin(self, attempt)

    async def pardon(self, tenant: TenantConfig, target: Target) -> None:
        """End the back-off of the account of ``target``, also in the ledger."""
        account = self.accounts.of(tenant, target)
        account.pardon()
        await self.proxy.pardon(account)


class SteppedLogin:
    """One attempt; a ``Login``."""

    def __init__(self, parts: LoginSteps, attempt: Attempt) -> None:
        self._parts = parts
        self._attempt = attempt
        self._account = parts.accounts.of(attempt.tenant, attempt.target)
        self._proxy = parts.proxy.begin(attempt, self._account)
        self._lease: HeldLease | None = None
        self._stage = "ask"  # the audit's word for what is under way

    async def run(self, reached: Reached) -> Link:
        """Run the steps in order and return the link.

        A step raises ``PamfsError`` to end the attempt.
        """
        account, attempt = self._account, self._attempt
        with self._failure_recorded(), Turn(account, attempt) as turn:
            check_free()
            account.check(wanted_at=trio.current_time())
            if self._proxy.has_host_key:
                await self._parts.host_keys.ensure_known(attempt)
            await self._check_out()
            await self._proxy.load_keys()
            await reached(Event.ANSWERED)

            self._stage = "code"
            wanted_at = trio.current_time()
            await turn.take()  # first: a code would expire while another login runs
            account.check(wanted_at)
            with account.back_off_noted():
                await self._proxy.obtain_secrets()
            await reached(Event.CODE_OBTAINED)

            self._stage = "login"
            await turn.take()  # the account may have been refused meanwhile
            account.check(wanted_at)
            with account.outcome_noted(attempt):
                link = await self._dial()
        self._hand_over_to(link)
        return link

    async def _check_out(self) -> None:
        if self._parts.checkout is not None:
            self._lease = await self._parts.checkout.take(self._attempt)

    async def _dial(self) -> Link:
        try:
            return await self._proxy.dial()
        except HostKeyError:
            self._parts.host_keys.distrust(self._attempt)
            raise

    def _hand_over_to(self, link: Link) -> None:
        """Let the lease and the record of the end go with ``link``. Does not wait."""
        # The hooks run in this order: the lease goes back once the connection is gone
        # (the wire's own hook was first), and the record of the end comes last.
        lease, self._lease = self._lease, None
        if lease is not None:
            link.lease = lease
            link.on_close(lease.give_back)
        self._record(
            "login", session=secrets.token_hex(_ID_BYTES), host_key=link.host_key
        )
        link.on_close(self._record_end)

    async def close(self) -> None:
        """Release what the attempt obtained, the lease last."""
        try:
            await self._proxy.close()
        finally:
            if self._lease is not None:
                await self._lease.give_back()

    @contextmanager
    def _failure_recorded(self) -> Iterator[None]:
        try:
            yield
        except PamfsError as exc:
            kind = type(exc).__name__.removesuffix("Error")
            error = errno_name(exc)
            self._record("login_failed", stage=self._stage, error=error, kind=kind)
            raise

    def _record(self, event: str, **facts: object) -> None:
        target, caller = str(self._attempt.target), self._attempt.caller
        self._parts.audit.record(
            event, target=target, pid=caller.pid, uid=caller.uid, **facts
        )

    async def _record_end(self) -> None:
        target = str(self._attempt.target)
        self._parts.audit.record("session_closed", target=target)
