"""Makes a proxy known that is not, before anything goes there: a dialer around one.

    dialer = Introducing(CheckedOut(...), Introductions(bridge, answers, audit))

Law: the question comes before every other of the login, reason and checkout
included, and for one proxy there is one at a time: whoever waits for it finds the
proxy known, gets the no that was said meanwhile, or is asked himself. A key that has
changed is never asked about.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from pamfs.audit import Audit
from pamfs.errors import (
    CannotAskError,
    HostKeyError,
    LoginError,
    NobodyToAskError,
    UnknownProxyError,
)
from pamfs.model import Caller
from pamfs.sessions.answers import Answers
from pamfs.sessions.cooling import as_login_error
from pamfs.sessions.dial import Attempt, Dialer, Link, Login
from pamfs.sessions.prompts import Question
from pamfs.sessions.questions import Kind
from pamfs.transport.bridge import Bridge
from pamfs.transport.ssh.host_keys import HostKeys, ShownKey
from pamfs.transport.ssh.keyscan import scan


class Introducing:
    """Makes logins that know their proxy first; a ``sessions.dial.Dialer``."""

    def __init__(self, dialer: Dialer, introductions: Introductions) -> None:
        self._dialer = dialer
        self._introductions = introductions

    def begin(self, attempt: Attempt) -> Login:
        """Return a login that has done nothing yet."""
        login = self._dialer.begin(attempt)
        return _IntroducedLogin(login, attempt, self._introductions)


class _IntroducedLogin:
    def __init__(
        self, login: Login, attempt: Attempt, introductions: Introductions
    ) -> None:
        self._login = login
        self._attempt = attempt
        self._introductions = introductions

    async def ask(self) -> None:
        """Know the proxy, then get what comes before the account's own secrets."""
        await self._introductions.meet(self._attempt)
        await self._login.ask()

    async def obtain_code(self) -> None:
        """Get the password and the one-time code that go out unasked."""
        await self._login.obtain_code()

    async def open(self) -> Link:
        """Dial, log in, and open the file channel."""
        try:
            return await self._login.open()
        except HostKeyError:
            self._introductions.forget(self._attempt)
            raise

    async def close(self) -> None:
        """Let go of all that was got for it."""
        await self._login.close()


@dataclass(slots=True)
class _Proxy:
    """What is known of one: a line that is not its own may vouch for its key."""

    turn: trio.Lock = field(default_factory=trio.Lock)
    is_vouched_for: bool = False
    error: LoginError = field(default_factory=lambda: LoginError("none"))
    failed_at: float = -math.inf

    def failed(self, error: LoginError) -> None:
        """Note how the last try ended: for whoever wanted it before that, too."""
        self.error = as_login_error(error)
        self.failed_at = trio.current_time()


class Introductions:
    """Makes proxies known that were not."""

    def __init__(self, bridge: Bridge, answers: Answers, audit: Audit) -> None:
        self._bridge = bridge
        self._answers = answers
        self._audit = audit
        self._proxies: defaultdict[str, _Proxy] = defaultdict(_Proxy)

    async def meet(self, attempt: Attempt) -> None:
        """Return once the proxy may be dialled, and its key be judged there.

        Raises ``HostKeyError`` for a key that nobody may accept, ``UnknownProxyError``
        that says how to make it known, ``DeclinedError`` if a person says no.
        """
        host_keys = HostKeys(attempt.tenant)
        proxy = self._proxies[host_keys.name]
        wanted_at = trio.current_time()
        if proxy.is_vouched_for or not await _needs_look(host_keys):
            return
        async with _turn(attempt, proxy):
            if proxy.failed_at >= wanted_at:
                raise proxy.error
            if not proxy.is_vouched_for and await _needs_look(host_keys):  # still
                with _noting(attempt, proxy):
                    await self._introduce(attempt, host_keys, proxy)

    def forget(self, attempt: Attempt) -> None:
        """Hear that the key was not right after all: it is looked at again."""
        self._proxies[HostKeys(attempt.tenant).name].is_vouched_for = False

    async def _introduce(
        self, attempt: Attempt, host_keys: HostKeys, proxy: _Proxy
    ) -> None:
        tenant = attempt.tenant
        see = partial(scan, tenant.proxy_host, tenant.proxy_port, tenant.old_algorithms)
        shown = await self._bridge.call(see)
        if host_keys.is_known(shown):  # by its address, or by a line without the port
            proxy.is_vouched_for = True
            return
        if not host_keys.asks:
            await trio.to_thread.run_sync(host_keys.learn, shown)
            return
        await trio.to_thread.run_sync(host_keys.check_can_learn)
        who = await self._ask(attempt, host_keys, shown)
        await trio.to_thread.run_sync(host_keys.learn, shown)
        self._audit.record(
            "host_key_accepted",
            target=str(attempt.target),
            pid=who.pid,
            uid=who.uid,
            proxy=host_keys.name,
            key=f"{shown.kind} {shown.fingerprint}",
            file=str(host_keys.file),
        )

    async def _ask(
        self, attempt: Attempt, host_keys: HostKeys, shown: ShownKey
    ) -> Caller:
        """Return for whom a person said yes."""
        question = Question(
            kind=Kind.HOST_KEY,
            text="Is this its key, as its administrator says (yes/no)?",
            target=attempt.target,
            caller=attempt.caller,
            deadline=trio.current_time() + attempt.tenant.prompt_timeout_s,
            echo=True,
            details=(
                f"The proxy {host_keys.name} is not known."
                f" Its {shown.kind} host key is\n{shown.fingerprint}"
            ),
        )

        async def ask(caller: Caller) -> Caller:
            await self._answers.ask(replace(question, caller=caller))
            return caller

        try:
            return await attempt.ask(ask)
        except NobodyToAskError as exc:
            text = f"{host_keys.unknown(shown)}; {exc}"
            raise UnknownProxyError(text, exc.uid, exc.job) from None


async def _needs_look(host_keys: HostKeys) -> bool:
    await trio.to_thread.run_sync(host_keys.read)
    return host_keys.needs_look


@asynccontextmanager
async def _turn(attempt: Attempt, proxy: _Proxy) -> AsyncIterator[None]:
    with attempt.patience.paused():  # somebody is being asked
        await proxy.turn.acquire()
    try:
        yield
    finally:
        proxy.turn.release()


@contextmanager
def _noting(attempt: Attempt, proxy: _Proxy) -> Iterator[None]:
    """Keep what goes wrong for those who wait; one of them may be there to ask."""
    try:
        yield
    except CannotAskError:
        raise
    except LoginError as exc:
        proxy.failed(exc)
        raise
    except trio.Cancelled:
        if not attempt.patience.is_ended:
            proxy.failed(attempt.lateness())
        raise
