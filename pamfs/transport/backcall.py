"""The crossing the other way: asyncssh asks, and trio answers.

Law: what runs on the trio side for a login ends with it; ``close`` sees to that.
A question whose asker has gone is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import outcome
import trio

from pamfs.errors import SessionLostError
from pamfs.transport.bridge import Bridge

V = TypeVar("V")
_Result = outcome.Value[V] | outcome.Error


class Backcall:
    """Calls from the asyncio side that run in a trio nursery."""

    def __init__(self, bridge: Bridge, nursery: trio.Nursery) -> None:
        self._bridge = bridge
        self._nursery = nursery
        self._scopes: set[trio.CancelScope] = set()
        self._is_closed = False

    def post(self, callback: Callable[[], object]) -> None:
        """From the asyncio side: run ``callback`` in trio, soon."""
        self._bridge.post(callback)

    async def call(self, make: Callable[[], Awaitable[V]]) -> V:
        """From the asyncio side: run ``make()`` in trio; return or raise what it does.

        Raises ``SessionLostError`` if the trio side was closed meanwhile.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[V] = loop.create_future()
        scope = trio.CancelScope()

        def land(result: _Result[V]) -> None:
            if future.done():
                return
            match result:
                case outcome.Value(value):
                    future.set_result(value)
                case outcome.Error(error):
                    future.set_exception(error)

        def deliver(result: _Result[V]) -> None:
            loop.call_soon_threadsafe(land, result)

        self._bridge.post(lambda: self._start(make, scope, deliver))
        try:
            return await future
        except asyncio.CancelledError:
            self._bridge.post(scope.cancel)
            raise

    def close(self) -> None:
        """On the trio side: cancel what runs, and start nothing more."""
        self._is_closed = True
        for scope in self._scopes:
            scope.cancel()

    def _start(
        self,
        make: Callable[[], Awaitable[V]],
        scope: trio.CancelScope,
        deliver: Callable[[_Result[V]], None],
    ) -> None:
        if self._is_closed:
            deliver(outcome.Error(SessionLostError("the login is over")))
            return
        self._scopes.add(scope)
        self._nursery.start_soon(self._run, make, scope, deliver)

    async def _run(
        self,
        make: Callable[[], Awaitable[V]],
        scope: trio.CancelScope,
        deliver: Callable[[_Result[V]], None],
    ) -> None:
        result: _Result[V] = outcome.Error(SessionLostError("the login is over"))
        try:
            with scope:
                result = outcome.Value(await make())
        except Exception as exc:  # noqa: BLE001 - it is the asker's to handle
            result = outcome.Error(exc)
        finally:
            self._scopes.discard(scope)
            deliver(result)
