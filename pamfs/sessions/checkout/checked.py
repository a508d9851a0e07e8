"""Check out before the login, check in after the hang-up: a dialer around a dialer.

    dialer = CheckedOut(Connector(...), providers, counter)

Law: a lease that is taken for an attempt is given back when the attempt is closed,
or else when the link it led to is. Tenants without a provider are
the proxy's own affair: its session is the lease.
"""

from __future__ import annotations

from collections.abc import Mapping

from pamfs.sessions.checkout.asking import Counter
from pamfs.sessions.checkout.base import Provider
from pamfs.sessions.checkout.held import Held
from pamfs.sessions.dial import Attempt, Dialer, Link, Login
from pamfs.transport.base import RemoteTree


class CheckedOut:
    """Makes logins that hold a lease; a ``sessions.dial.Dialer``."""

    def __init__(
        self, dialer: Dialer, providers: Mapping[str, Provider], counter: Counter
    ) -> None:
        self._dialer = dialer
        self._providers = providers
        self._counter = counter

    def begin(self, attempt: Attempt) -> Login:
        """Return a login that has done nothing yet."""
        login = self._dialer.begin(attempt)
        provider = self._providers.get(attempt.target.tenant)
        if provider is None:
            return login
        return CheckedLogin(login, attempt, provider, self._counter)


class CheckedLogin:
    """One attempt, and its lease; a ``sessions.dial.Login``."""

    def __init__(
        self, login: Login, attempt: Attempt, provider: Provider, counter: Counter
    ) -> None:
        self._login = login
        self._attempt = attempt
        self._provider = provider
        self._counter = counter
        self._held: Held | None = None

    async def ask(self) -> None:
        """Check out, then get what else comes before the account's own secrets."""
        self._held = await self._counter.check_out(self._attempt, self._provider)
        await self._login.ask()

    async def obtain_code(self) -> None:
        """Get the password and the one-time code that go out unasked."""
        await self._login.obtain_code()

    async def open(self) -> Link:
        """Dial, log in, and open the file channel; the lease is the link's then."""
        link = await self._login.open()
        held, self._held = self._held, None
        return link if held is None else CheckedLink(link, held)

    async def close(self) -> None:
        """Let go of all that was got for it, then check in."""
        try:
            await self._login.close()
        finally:
            if self._held is not None:
                await self._held.give_back()


class CheckedLink:
    """One open session with its lease; a ``sessions.dial.Link``."""

    def __init__(self, link: Link, held: Held) -> None:
        self._link = link
        self._held = held

    @property
    def tree(self) -> RemoteTree:
        """Return the files behind it."""
        return self._link.tree

    @property
    def host_key(self) -> str:
        """Return the fingerprint of the proxy's host key."""
        return self._link.host_key

    @property
    def lease_expires_at(self) -> float | None:
        """Return when it ends: the vault's lease or the proxy's, the earlier one."""
        ends = (self._held.lease.expires_at, self._link.lease_expires_at)
        return min((end for end in ends if end is not None), default=None)

    async def wait_lost(self) -> str:
        """Wait until it is lost; return why."""
        return await self._link.wait_lost()

    async def renew(self) -> float | None:
        """Ask for a later end; return it, or None if there is none."""
        return self.lease_expires_at if await self._held.renew() else None

    async def close(self) -> None:
        """Hang up, then check in; the lease is not in use any more by then."""
        try:
            await self._link.close()
        finally:
            await self._held.give_back()
