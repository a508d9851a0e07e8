"""One attempt to log in, and the link that it ends with when it succeeds.

Law of questions: a person is asked only on behalf of a caller that waits. When that
caller leaves, the question is withdrawn and asked anew for the next one; without any
the attempt ends. The same happens if the caller has no terminal or desktop on which to
ask.

An attempt has ``connect_timeout`` until the proxy has answered, and ``login_timeout``
from then on, since a person may have to approve it on a phone. Both are paused while
pamfs asks a person; that has its own limit (``prompt_timeout``).

``Login`` is what a session needs of an attempt, and ``Logins`` makes them:
``login.steps`` is the real one. ``run`` reports ``ANSWERED`` and ``CODE_OBTAINED`` on
its way, and raises a ``LoginError`` to end the attempt. A cancelled ``run`` leaves no
connection behind. If ``run`` ends without a link, ``close`` is called once.

Law of the link: ``close`` runs every hook once, in the order in which they were added,
whatever the others did. So the connection is hung up before the lease behind it is
checked in, and the record of its end comes last.
"""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
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
from pamfs.sessions.machine import Event
from pamfs.transport.base import RemoteTree

CloseHook = Callable[[], Awaitable[object]]


class RenewableLease(Protocol):
    """The lease behind a session, where a vault or a helper granted one."""

    @property
    def expires_at(self) -> float | None:
        """Return when it ends, in seconds since the epoch; None: unknown."""
        ...

    async def renew(self) -> bool:
        """Ask for a later end; return whether there is one."""
        ...


class Link:
    """An open connection to a target; ``tree`` gives access to the files.

    ``host_key`` is the fingerprint of the proxy's key, ``SHA256:...``. ``lease`` is
    None where the proxy's own session is the lease; SSH does not transmit its end
    (facts/pam.md#segura-login).
    """

    def __init__(
        self,
        tree: RemoteTree,
        host_key: str,
        wait_lost: Callable[[], Awaitable[str]],
    ) -> None:
        """``wait_lost`` returns why the connection is gone, for a person."""
        self.tree = tree
        self.host_key = host_key
        self.wait_lost = wait_lost
        self.lease: RenewableLease | None = None
        self._close_hooks: list[CloseHook] = []

    def on_close(self, hook: CloseHook) -> None:
        """Await ``hook`` when the link closes, after those added before."""
        self._close_hooks.append(hook)

    @property
    def lease_expires_at(self) -> float | None:
        """Return when the lease ends, in seconds since the epoch; None: unknown."""
        return None if self.lease is None else self.lease.expires_at

    async def renew(self) -> float | None:
        """Ask for a longer lease; return its new end, or None if there is none."""
        if self.lease is None:
            await trio.lowlevel.checkpoint()
            return None
        return self.lease.expires_at if await self.lease.renew() else None

    async def close(self) -> None:
        """Hang up; return when the connection is gone. May be called when lost."""
        hooks, self._close_hooks = self._close_hooks, []
        async with AsyncExitStack() as stack:
            for hook in reversed(hooks):
                stack.push_async_callback(hook)


V = TypeVar("V")
# Called after each step of an attempt.
Reached = Callable[[Event], Awaitable[None]]

# How long to wait until a cancelled prompt is removed from the terminal.
QUIET_WITHIN_S: Final = 2.0


class Limit(Enum):
    """The limit that the time counts against."""

    CONNECT = "connect_timeout"
    LOGIN = "login_timeout"


class PausableDeadline:
    """The remaining seconds of each limit.

    Time counts only inside ``limit`` and outside ``paused``.

    Each limit counts over all tries of an attempt.
    """

    def __init__(self, connect_s: float, login_s: float = math.inf) -> None:
        self._left_s = {Limit.CONNECT: connect_s, Limit.LOGIN: login_s}
        self._limit = Limit.CONNECT
        self._scope: trio.CancelScope | None = None
        self._pauses = 0
        self._is_cancelled = False

    @property
    def limit_in_use(self) -> Limit:
        """Return the limit that the time counts against now."""
        return self._limit

    def use(self, limit: Limit) -> None:
        """Count the time against ``limit`` from now on."""
        self._stop()
        self._limit = limit
        self._start()

    @property
    def is_cancelled(self) -> bool:
        """Whether it was cancelled on purpose, and did not run out."""
        return self._is_cancelled

    @contextmanager
    def limit(self) -> Iterator[trio.CancelScope]:
        """Cancel the body when no time is left; the scope says whether it was."""
        with trio.CancelScope() as scope:
            self._scope = scope
            self._start()
            if self._is_cancelled:
                scope.cancel()
            try:
                yield scope
            finally:
                self._stop()
                self._scope = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the time during the body; pauses may overlap."""
        self._stop()
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            self._start()

    def cancel(self) -> None:
        """Cancel what runs inside ``limit``, now and later."""
        self._is_cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    def _start(self) -> None:
        if self._scope is not None and not self._pauses:
            self._scope.deadline = trio.current_time() + self._left_s[self._limit]

    def _stop(self) -> None:
        if self._scope is not None and not self._pauses:
            self._left_s[self._limit] = self._scope.deadline - trio.current_time()
            self._scope.deadline = math.inf


class Callers:
    """The callers that wait for one attempt, and the one that it asks: ``current``.

    The law of questions is kept here. ``join`` and ``leave`` count the callers; a
    question that is open while ``current`` changes is withdrawn and asked anew.
    """

    def __init__(self, first: Caller) -> None:
        self.current = first
        self.is_wanted = True
        self._waiting: list[Caller] = []
        self._without_prompt: set[Caller] = set()
        self._asking: set[trio.CancelScope] = set()
        self._quiet = trio.Event()

    @property
    def is_asking(self) -> bool:
        """Whether a person is being asked right now."""
        return bool(self._asking)

    async def ask(self, ask: Callable[[Caller], Awaitable[V]]) -> V:
        """Return a person's answer, asked on behalf of a caller that waits."""
        while self.is_wanted:
            try:
                with trio.CancelScope() as scope:
                    return await self._ask(scope, ask)
            except NobodyToAskError:
                if not self._pass_on():
                    raise
        raise DeclinedError("no program waits for this login any more")

    async def _ask(
        self, scope: trio.CancelScope, ask: Callable[[Caller], Awaitable[V]]
    ) -> V:
        self._asking.add(scope)
        try:
            return await ask(self.current)
        finally:
            self._asking.discard(scope)
            self._quiet.set()
            self._quiet = trio.Event()

    def pass_to(self, caller: Caller) -> None:
        """Go on for ``caller``: open questions are withdrawn and asked there."""
        self.current = caller
        for scope in self._asking:
            scope.cancel()

    def join(self, caller: Caller) -> None:
        """Note that ``caller`` waits from now on."""
        self._waiting.append(caller)
        self.is_wanted = True

    def leave(self, caller: Caller) -> bool:
        """Note that ``caller`` waits no more; return whether to end the attempt.

        An attempt that asks no person goes on without callers, and the next caller
        finds the session open.
        """
        self._waiting.remove(caller)
        if not self._waiting:
            self.is_wanted = False
            return self.is_asking
        if caller == self.current and caller not in self._waiting:
            self.pass_to(first_to_ask(self._waiting))
        return False

    def _pass_on(self) -> bool:
        """Go on for a waiting caller that may be asked; return whether there is one."""
        self._without_prompt.add(self.current)
        left = [
            caller for caller in self._waiting if caller not in self._without_prompt
        ]
        self.current = first_to_ask(left) if left else self.current
        return bool(left)

    async def wait_quiet(self) -> None:
        """Wait until no prompt is open, ``QUIET_WITHIN_S`` seconds at most."""
        with trio.CancelScope(shield=True) as scope:
            scope.deadline = trio.current_time() + QUIET_WITHIN_S
            while self._asking:
                await self._quiet.wait()


def first_to_ask(waiting: list[Caller]) -> Caller:
    """Return the caller to ask: the mount's own user before all others."""
    own = os.getuid()
    return min(waiting, key=lambda caller: caller.uid != own)


@dataclass(slots=True)
class Attempt:
    """One attempt to log in: for which callers, until when, and how far it came."""

    target: Target
    tenant: TenantConfig
    callers: Callers
    deadline: PausableDeadline
    # Gives a notice to the users of the mount.
    notify: Callable[[str], object] = lambda _text: None
    # Whether the proxy answered; decides which timeout error is reported.
    is_answered: bool = False
    # Whether a secret was sent and not answered yet; a timeout then counts as a
    # refusal.
    has_sent: bool = False
    # What the login waits for, other than the proxy and prompts; shown by ``pamfs
    # status``.
    awaiting: str = ""
    # Returns what a question says of it if it replaces a session that was lost.
    reconnection: Callable[[], str] = lambda: ""

    @property
    def caller(self) -> Caller:
        """Return the caller on whose behalf it goes on now."""
        return self.callers.current

    async def ask(self, ask: Callable[[Caller], Awaitable[V]]) -> V:
        """Return a person's answer; the deadline is paused meanwhile."""
        with self.deadline.paused():
            return await self.callers.ask(ask)

    def answered(self) -> None:
        """Note that the proxy answered: from now on ``login_timeout`` counts."""
        self.is_answered = True
        self.deadline.use(Limit.LOGIN)

    def lateness(self) -> LoginError:
        """Return the error for a deadline that ran out."""
        limits = self.tenant.session
        within = f"within {limits.connect_timeout_s:g} s (connect_timeout)"
        if not self.is_answered:
            return UnreachableError(f"the proxy did not answer {within}")
        if self.deadline.limit_in_use is Limit.LOGIN:
            within = f"within {limits.login_timeout_s:g} s (login_timeout: raise it"
            within += " if a person has to approve the login elsewhere)"
        return LoginTimeoutError(f"the login was not finished {within}")


class Login(Protocol):
    """The interface of one login to its session; it alone holds the secrets."""

    async def run(self, reached: Reached) -> Link:
        """Log in and open the file channel; ``reached`` is awaited after each part."""
        ...

    async def close(self) -> None:
        """Release what the attempt obtained; no link exists. Shielded, bounded."""
        ...


class Logins(Protocol):
    """Makes attempts."""

    def begin(self, attempt: Attempt) -> Login:
        """Return a login that has done nothing yet."""
        ...
