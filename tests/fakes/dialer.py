"""A dialer without a network: the test says how each attempt goes.

``logins`` is the ledger: what was asked, sent, opened and hung up, in order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from pamfs.errors import ProtocolBrokenError
from pamfs.sessions.dial import Attempt
from pamfs.transport.base import RemoteTree
from tests.fakes.remote import FakeTree


@dataclass
class FakeLink:
    """An open session that lasts until the test loses it."""

    attempt: Attempt
    lease_expires_at: float | None = None
    host_key: str = "SHA256:fake"
    close_takes_s: float = 0.0
    is_closed: bool = False
    later: list[float | Exception] = field(default_factory=list)
    renewals: int = 0
    tree: RemoteTree = field(default_factory=FakeTree)

    def __post_init__(self) -> None:
        self._lost = trio.Event()
        self._reason = ""
        self._is_broken = False

    def lose(self, reason: str = "cable cut") -> None:
        self._reason = reason
        self._lost.set()

    def break_protocol(self) -> None:
        """Answer with a wrong id, say: asyncssh ends the session."""
        self._is_broken = True
        self.lose("the server broke the SFTP protocol: Invalid response id")

    async def renew(self) -> float | None:
        await trio.lowlevel.checkpoint()
        self.renewals += 1
        answer = self.later.pop(0) if self.later else None
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def wait_lost(self) -> str:
        await self._lost.wait()
        if self._is_broken:
            raise ProtocolBrokenError(self._reason)
        return self._reason

    async def close(self) -> None:
        await trio.sleep(self.close_takes_s)
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
    later: list[float | Exception] = field(default_factory=list)
    is_deaf_to_cancelling: bool = False
    dials: int = 0
    links: list[FakeLink] = field(default_factory=list)
    logins: list[FakeLogin] = field(default_factory=list)

    def begin(self, attempt: Attempt) -> FakeLogin:
        login = FakeLogin(self, attempt)
        self.logins.append(login)
        return login

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

    async def ask(self) -> None:
        await self.dialer.ask(self.attempt)

    async def obtain_code(self) -> None:
        await self.dialer.obtain_code(self.attempt)

    async def open(self) -> FakeLink:
        self.dialer.dials += 1
        with trio.CancelScope(shield=self.dialer.is_deaf_to_cancelling):
            await trio.sleep(self.dialer.takes_s)
        if self.dialer.failures:
            raise self.dialer.failures.pop(0)
        link = FakeLink(
            self.attempt,
            lease_expires_at=self.dialer.lease_expires_at,
            close_takes_s=self.dialer.close_takes_s,
            later=self.dialer.later,
        )
        self.dialer.links.append(link)
        self.is_over = True
        return link

    async def close(self) -> None:
        assert not self.is_over
        self.is_over = True
        await trio.lowlevel.cancel_shielded_checkpoint()
