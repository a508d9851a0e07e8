"""Asks a person about a proxy that is not known yet, before anything goes there.

Law: the question comes before every other of the login, and for one proxy there is
one at a time: whoever waits for it finds the proxy known, or is asked himself. A
key that has changed is never asked about.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import trio

from pamfs.audit import Audit
from pamfs.errors import CannotAskError
from pamfs.model import Caller, Secret
from pamfs.sessions.answers import Answers
from pamfs.sessions.dial import Attempt
from pamfs.sessions.prompts import Question
from pamfs.sessions.questions import Kind
from pamfs.transport.bridge import Bridge
from pamfs.transport.hostkeys import HostKeys, ShownKey
from pamfs.transport.onlooking import look


class Introductions:
    """Makes proxies known that were not."""

    def __init__(self, bridge: Bridge, answers: Answers, audit: Audit) -> None:
        self._bridge = bridge
        self._answers = answers
        self._audit = audit
        self._turns: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)

    async def meet(self, attempt: Attempt) -> None:
        """Return once the proxy may be dialled, and its key be judged there.

        Raises ``HostKeyError`` for a key that nobody may accept, ``CannotAskError``
        that says how to make it known, ``DeclinedError`` if a person says no.
        """
        host_keys = HostKeys(attempt.tenant)
        if not host_keys.needs_asking:
            return
        async with self._turn(attempt, host_keys.name):
            if host_keys.needs_asking:  # still
                await self._introduce(attempt, host_keys)

    @asynccontextmanager
    async def _turn(self, attempt: Attempt, name: str) -> AsyncIterator[None]:
        turn = self._turns[name]
        with attempt.patience.paused():  # somebody is being asked
            await turn.acquire()
        try:
            yield
        finally:
            turn.release()

    async def _introduce(self, attempt: Attempt, host_keys: HostKeys) -> None:
        tenant, caller = attempt.tenant, attempt.caller
        see = partial(look, tenant.proxy_host, tenant.proxy_port)
        shown = await self._bridge.call(see)
        attempt.is_answered = True
        if host_keys.is_known(shown):
            return  # by its address
        host_keys.check_can_learn()
        await self._ask(attempt, host_keys, shown)
        host_keys.learn(shown)
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
        self, attempt: Attempt, host_keys: HostKeys, shown: ShownKey
    ) -> None:
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

        async def ask(caller: Caller) -> Secret:
            return await self._answers.ask(replace(question, caller=caller))

        try:
            await attempt.ask(ask)
        except CannotAskError as exc:
            exc.args = (f"{host_keys.unknown(shown)}; {exc}",)
            raise
