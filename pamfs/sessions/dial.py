"""What the pool asks of whoever dials: the Protocols between policy and wire.

An attempt is one ``Login``: ``ask``, then ``obtain_code``, then ``open``, each at
most once and each raising a ``LoginError`` to end the attempt. A cancelled
``open`` leaves no connection behind. Whatever ends the attempt but a link, ``close``
is called once. ``sessions.connect`` is the real one.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

import trio

from pamfs.config import TenantConfig
from pamfs.errors import (
    DeclinedError,
    LoginError,
    LoginTimeoutError,
    NobodyToAskError,
    UnreachableError,
)
from pamfs.model import Caller, Target
from pamfs.sessions.patience import Limit, Patience
from pamfs.transport.base import RemoteTree

V = TypeVar("V")

# A prompt that takes longer to go away keeps nobody waiting for it.
QUIET_WITHIN_S: Final = 2.0


@dataclass(slots=True)
class Attempt:
    """One try to log in, on behalf of the caller who wanted it first.

    Law: a person is asked only for a caller who waits. One who leaves takes the
    question along, and it is asked anew for the next; without any it is over. So it
    is with one behind whom there is no person.
    """

    target: Target
    tenant: TenantConfig
    caller: Caller
    patience: Patience
    # Whether the proxy spoke: from then on, lateness is its doing, not the network's.
    is_answered: bool = False
    # Whether a secret went out that was not judged: from then on, silence may be a no.
    has_sent: bool = False
    # What it waits for that nobody here can hasten: an approval.
    awaiting: str = ""
    # Says a line to whoever works through the mount, without asking anything.
    tell: Callable[[str], object] = lambda _text: None
    is_wanted: bool = True
    waiting: Sequence[Caller] = ()
    _unaskable: set[Caller] = field(default_factory=set)
    _asking: set[trio.CancelScope] = field(default_factory=set)
    _quiet: trio.Event = field(default_factory=trio.Event)

    @property
    def is_asking(self) -> bool:
        """Whether a person is being asked right now."""
        return bool(self._asking)

    async def ask(self, ask: Callable[[Caller], Awaitable[V]]) -> V:
        """Return the person's answer; the login's own time stands still."""
        with self.patience.paused():
            while self.is_wanted:
                try:
                    with trio.CancelScope() as scope:
                        return await self._ask(scope, ask)
                except NobodyToAskError:
                    if not self._pass_on():
                        raise
        raise DeclinedError("nobody waits for it any more")

    def pass_to(self, caller: Caller) -> None:
        """Go on for ``caller``; what is being asked is asked there instead."""
        self.caller = caller
        for scope in self._asking:
            scope.cancel()

    def _pass_on(self) -> bool:
        """Go on for a waiter who may be asked; return whether there is one."""
        self._unaskable.add(self.caller)
        left = [caller for caller in self.waiting if caller not in self._unaskable]
        self.caller = first_to_ask(left) if left else self.caller
        return bool(left)

    async def wait_quiet(self) -> None:
        """Wait until no person is being asked: a terminal is clean again then."""
        with trio.CancelScope(shield=True) as scope:
            scope.deadline = trio.current_time() + QUIET_WITHIN_S
            while self._asking:
                await self._quiet.wait()

    async def _ask(
        self, scope: trio.CancelScope, ask: Callable[[Caller], Awaitable[V]]
    ) -> V:
        self._asking.add(scope)
        try:
            return await ask(self.caller)
        finally:
            self._asking.discard(scope)
            self._quiet.set()
            self._quiet = trio.Event()

    def answered(self) -> None:
        """Note that the proxy spoke: from now on it has the time for a login."""
        self.is_answered = True
        self.patience.use(Limit.LOGIN)

    def lateness(self) -> LoginError:
        """Return what it means that the patience is at its end."""
        within = f"within {self.tenant.connect_timeout_s:g} s (connect_timeout)"
        if not self.is_answered:
            return UnreachableError(f"the proxy did not answer {within}")
        if self.patience.limit_in_use is Limit.LOGIN:
            within = (
                f"within {self.tenant.login_timeout_s:g} s (login_timeout: raise it"
            )
            within += " if a person has to approve the login elsewhere)"
        return LoginTimeoutError(f"the login was not finished {within}")


def first_to_ask(waiting: Sequence[Caller]) -> Caller:
    """Return who of ``waiting`` is asked: the mount's own user before all others."""
    own = os.getuid()
    return min(waiting, key=lambda caller: caller.uid != own)


class Link(Protocol):
    """One open session: an SSH connection with one SFTP channel."""

    @property
    def tree(self) -> RemoteTree:
        """Return the files behind it."""
        ...

    @property
    def host_key(self) -> str:
        """Return the fingerprint of the proxy's host key, ``SHA256:...``."""
        ...

    @property
    def lease_expires_at(self) -> float | None:
        """Return when the lease ends, in seconds since the epoch; None: unknown."""
        ...

    async def renew(self) -> float | None:
        """Ask for a longer lease; return its new end, or None if there is none."""
        ...

    async def wait_lost(self) -> str:
        """Wait until it is lost; return why, for a person."""
        ...

    async def close(self) -> None:
        """Hang up; return when the connection is gone. May be called when lost."""
        ...


class Login(Protocol):
    """One attempt, and the only holder of its secrets."""

    async def ask(self) -> None:
        """Get what comes before the account's own secrets: a lease, the keys."""
        ...

    async def obtain_code(self) -> None:
        """Get the password and the one-time code that go out unasked."""
        ...

    async def open(self) -> Link:
        """Dial, log in, and open the file channel."""
        ...

    async def close(self) -> None:
        """Let go of all that was got for it; there is no link. Bounded, shielded."""
        ...


class Dialer(Protocol):
    """Makes attempts."""

    def begin(self, attempt: Attempt) -> Login:
        """Return a login that has done nothing yet."""
        ...
