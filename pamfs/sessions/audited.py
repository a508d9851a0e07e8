"""Records logins and the ends of sessions: a dialer around a dialer.

    dialer = Audited(CheckedOut(...), audit)

It is the outermost, so that a check-in belongs to the session that ends with it.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from pamfs.audit import Audit, errno_name
from pamfs.errors import PamfsError
from pamfs.sessions.dial import Attempt, Dialer, Link, Login
from pamfs.transport.base import RemoteTree

V = TypeVar("V")

_ID_BYTES: Final = 6  # unique enough within years of one audit file


class Audited:
    """Makes logins that are recorded; a ``sessions.dial.Dialer``."""

    def __init__(self, dialer: Dialer, audit: Audit) -> None:
        self._dialer = dialer
        self._audit = audit

    def begin(self, attempt: Attempt) -> Login:
        """Return a login that has done nothing yet."""
        return AuditedLogin(self._dialer.begin(attempt), attempt, self._audit)


class AuditedLogin:
    """One attempt and what became of it; a ``sessions.dial.Login``."""

    def __init__(self, login: Login, attempt: Attempt, audit: Audit) -> None:
        self._login = login
        self._attempt = attempt
        self._audit = audit

    async def ask(self) -> None:
        """Get what comes before the account's own secrets."""
        await self._recorded("ask", self._login.ask)

    async def obtain_code(self) -> None:
        """Get the password and the one-time code that go out unasked."""
        await self._recorded("code", self._login.obtain_code)

    async def open(self) -> Link:
        """Dial, log in, and open the file channel."""
        link = await self._recorded("login", self._login.open)
        session = secrets.token_hex(_ID_BYTES)
        self._record("login", session=session, host_key=link.host_key)
        return AuditedLink(link, str(self._attempt.target), self._audit)

    async def close(self) -> None:
        """Let go of all that was got for it."""
        await self._login.close()

    async def _recorded(self, stage: str, run: Callable[[], Awaitable[V]]) -> V:
        try:
            return await run()
        except PamfsError as exc:
            kind = type(exc).__name__.removesuffix("Error")
            self._record("login_failed", stage=stage, error=errno_name(exc), kind=kind)
            raise

    def _record(self, event: str, **facts: object) -> None:
        target, caller = str(self._attempt.target), self._attempt.caller
        self._audit.record(
            event, target=target, pid=caller.pid, uid=caller.uid, **facts
        )


class AuditedLink:
    """One open session whose end is recorded; a ``sessions.dial.Link``."""

    def __init__(self, link: Link, target: str, audit: Audit) -> None:
        self._link = link
        self._target = target
        self._audit = audit
        self._is_recorded = False

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
        """Return when the lease ends."""
        return self._link.lease_expires_at

    async def renew(self) -> float | None:
        """Ask for a longer lease."""
        return await self._link.renew()

    async def wait_lost(self) -> str:
        """Wait until it is lost; return why."""
        return await self._link.wait_lost()

    async def close(self) -> None:
        """Hang up, and record that the session is over."""
        try:
            await self._link.close()
        finally:
            if not self._is_recorded:
                self._is_recorded = True
                self._audit.record("session_closed", target=self._target)
