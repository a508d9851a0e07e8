"""Logins without a network: the test says how each attempt goes.

A ``FakeDialer`` stands for all of a login (``attempt.Logins``) or for the part that
knows the wire (``steps.ProxyLogins``). ``logins`` is the ledger: what was asked, sent,
opened and hung up, in order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from pamfs.errors import ProtocolBrokenError
from pamfs.sessions.account.turn import Account
from pamfs.sessions.attempt import Attempt, Link, Reached
from pamfs.sessions.machine import Event
from tests.fakes.remote import FakeTree


@dataclass
class FakeLease:
    """A lease that ends then; ``later`` says what each renewal answers."""

    expires_at: float | None
    later: list[float | Exception]
    renewals: int = 0

    async def renew(self) -> bool:
        await trio.lowlevel.checkpoint()
        self.renewals += 1
        answer = self.later.pop(0) if self.later else None
        if isinstance(answer, Exception):
            raise answer
        self.expires_at = answer or self.expires_at
        return answer is not None


class FakeLink(Link):
    """An open session that lasts until the test loses it."""

    def __init__(self, dialer: FakeDialer, attempt: Attempt) -> None:
        self._lost = trio.Event()
        self._reason = ""
        self._is_broken = False
        super().__init__(FakeTree(), "SHA256:fake", self._wait_lost)
        self.attempt = attempt
        self.is_closed = False
        self._close_takes_s = dialer.close_takes_s
        self._lease = FakeLease(dialer.lease_expires_at, dialer.later)
        self.lease = self._lease
        self.on_close(self._hang_up)

    @property
    def renewals(self) -> int:
        return self._lease.renewals

    def lose(self, reason: str = "cable cut") -> None:
        self._reason = reason
        self._lost.set()

    def break_protocol(self) -> None:
        """Answer with a wrong id, say: asyncssh ends the session."""
        self._is_broken = True
        self.lose("the server broke the SFTP protocol: Invalid response id")

    async def _wait_lost(self) -> str:
        await self._lost.wait()
        if self._is_broken:
            raise ProtocolBrokenError(self._reason)
        return self._reason

    async def _hang_up(self) -> None:
        await trio.sleep(self._close_takes_s)
        assert not self.is_closed
        self.is_closed = True


async def nothing(_attempt: Attempt) -> None:
    await trio.lowlevel.checkpoint()


@dataclass
class FakeDialer:
    """Opens sessions after ``takes_s``, unless ``failures`` has one to raise."""

    takes_s: float = 1.0
    failures: list[Exception] = field(default_factory=list)
    ask: Callable[[Attempt], Awaitable[None]] = nothing
    obtain_code: Callable[[Attempt], Awaitable[None]] = nothing
    lease_expires_at: float | None = None
    close_takes_s: float = 0.0
    has_host_key: bool = True
    later: list[float | Exception] = field(default_factory=list)
    is_deaf_to_cancelling: bool = False
    dials: int = 0
    links: list[FakeLink] = field(default_factory=list)
    logins: list[FakeLogin] = field(default_factory=list)

    def begin(self, attempt: Attempt, account: Account | None = None) -> FakeLogin:
        del account
        login = FakeLogin(self, attempt)
        self.logins.append(login)
        return login

    async def pardon(self, account: Account) -> None:
        """There is nothing on disk."""

    @property
    def open_links(self) -> list[FakeLink]:
        return [link for link in self.links if not link.is_closed]

    @property
    def open_logins(self) -> list[FakeLogin]:
        """Return the attempts that still hold what they got."""
        return [login for login in self.logins if not login.is_over]


@dataclass
class FakeLogin:
    dialer: FakeDialer
    attempt: Attempt
    is_over: bool = False

    @property
    def has_host_key(self) -> bool:
        return self.dialer.has_host_key

    async def run(self, reached: Reached) -> Link:
        await self.load_keys()
        await reached(Event.ANSWERED)
        await self.obtain_secrets()
        await reached(Event.CODE_OBTAINED)
        return await self.dial()

    async def load_keys(self) -> None:
        await self.dialer.ask(self.attempt)

    async def obtain_secrets(self) -> None:
        await self.dialer.obtain_code(self.attempt)

    async def dial(self) -> Link:
        self.dialer.dials += 1
        with trio.CancelScope(shield=self.dialer.is_deaf_to_cancelling):
            await trio.sleep(self.dialer.takes_s)
        if self.dialer.failures:
            raise self.dialer.failures.pop(0)
        link = FakeLink(self.dialer, self.attempt)
        self.dialer.links.append(link)
        self.is_over = True
        return link

    async def close(self) -> None:
        assert not self.is_over
        self.is_over = True
        await trio.lowlevel.cancel_shielded_checkpoint()


async def on(_event: Event) -> None:
    """Go on with the login."""
    await trio.lowlevel.checkpoint()
