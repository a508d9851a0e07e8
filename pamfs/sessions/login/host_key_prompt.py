"""The host key prompt: an unknown proxy is confirmed before anything is sent to it.

Law: the question comes before every other of the login, reason and checkout included.
For one proxy there is one question at a time: a login that waited finds the proxy
known, or fails with the same refusal, or asks another person. A key that has changed is
never asked about.
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
    LoginError,
    NobodyToAskError,
    UnknownProxyError,
)
from pamfs.model import Caller
from pamfs.sessions.account.policy import as_login_error
from pamfs.sessions.answers import Answers
from pamfs.sessions.attempt import Attempt
from pamfs.sessions.prompts import Question
from pamfs.sessions.prompts.question import Kind
from pamfs.transport.bridge import Bridge
from pamfs.transport.ssh.dial import scan
from pamfs.transport.ssh.host_keys import HostKeyVerifier, ShownKey


@dataclass(slots=True)
class _Proxy:
    """The state of one proxy.

    ``is_vouched_for``: known_hosts has its key under its address, or without the port.
    """

    turn: trio.Lock = field(default_factory=trio.Lock)
    is_vouched_for: bool = False
    error: LoginError = field(default_factory=lambda: LoginError("none"))
    failed_at: float = -math.inf

    def failed(self, error: LoginError) -> None:
        """Keep the error of the last try; logins that were waiting fail with it."""
        self.error = as_login_error(error)
        self.failed_at = trio.current_time()


class HostKeyPrompts:
    """Asks about the keys of proxies that are not known; ``steps.HostKeyCheck``."""

    def __init__(self, bridge: Bridge, answers: Answers, audit: Audit) -> None:
        self._bridge = bridge
        self._answers = answers
        self._audit = audit
        self._proxies: defaultdict[str, _Proxy] = defaultdict(_Proxy)

    async def ensure_known(self, attempt: Attempt) -> None:
        """Return once the proxy may be dialed; the dial checks its key again.

        Raises ``HostKeyError`` for a key that may not be accepted,
        ``UnknownProxyError`` that says how to make it known, ``DeclinedError`` if a
        person says no.
        """
        host_keys = HostKeyVerifier(attempt.tenant.proxy)
        proxy = self._proxies[host_keys.name]
        wanted_at = trio.current_time()
        if proxy.is_vouched_for or not await _needs_look(host_keys):
            return
        async with _single_flight(attempt, proxy):
            if proxy.failed_at >= wanted_at:
                raise proxy.error
            if not proxy.is_vouched_for and await _needs_look(host_keys):  # still
                with _error_kept(attempt, proxy):
                    await self._learn(attempt, host_keys, proxy)

    def distrust(self, attempt: Attempt) -> None:
        """Forget that the key was accepted: the next login checks it again."""
        self._proxies[HostKeyVerifier(attempt.tenant.proxy).name].is_vouched_for = False

    async def _learn(
        self, attempt: Attempt, host_keys: HostKeyVerifier, proxy: _Proxy
    ) -> None:
        config = attempt.tenant.proxy
        see = partial(scan, config.host, config.port, config.old_algorithms)
        shown = await self._bridge.call(see)
        if host_keys.is_known(shown):  # by its address, or by a line without the port
            proxy.is_vouched_for = True
            return
        if not host_keys.asks:
            await trio.to_thread.run_sync(host_keys.learn, shown)
            return
        await trio.to_thread.run_sync(host_keys.check_can_learn)
        caller = await self._ask(attempt, host_keys, shown)
        await trio.to_thread.run_sync(host_keys.learn, shown)
        self._audit.record(
            "host_key_accepted",
            target=str(attempt.target),
            pid=caller.pid,
            uid=caller.uid,
            proxy=host_keys.name,
            key=f"{shown.kind} {shown.fingerprint}",
            file=str(host_keys.file),
        )

    async def _ask(
        self, attempt: Attempt, host_keys: HostKeyVerifier, shown: ShownKey
    ) -> Caller:
        """Return the caller on whose behalf a person said yes."""
        question = Question(
            kind=Kind.HOST_KEY,
            text="Is this its key, as its administrator says (yes/no)?",
            target=attempt.target,
            caller=attempt.caller,
            deadline=trio.current_time() + attempt.tenant.login.prompt_timeout_s,
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


async def _needs_look(host_keys: HostKeyVerifier) -> bool:
    await trio.to_thread.run_sync(host_keys.read)
    return host_keys.needs_look


@asynccontextmanager
async def _single_flight(attempt: Attempt, proxy: _Proxy) -> AsyncIterator[None]:
    with attempt.deadline.paused():  # another login asks a person
        await proxy.turn.acquire()
    try:
        yield
    finally:
        proxy.turn.release()


@contextmanager
def _error_kept(attempt: Attempt, proxy: _Proxy) -> Iterator[None]:
    """Keep the error for the logins that wait, unless one of them can ask a person."""
    try:
        yield
    except CannotAskError:
        raise
    except LoginError as exc:
        proxy.failed(exc)
        raise
    except trio.Cancelled:
        if not attempt.deadline.is_cancelled:
            proxy.failed(attempt.lateness())
        raise
