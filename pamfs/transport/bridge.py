"""The one crossing between trio and asyncio, in both directions.

The tree and the sessions live in trio, asyncssh lives in asyncio. In production
trio runs as a guest of the asyncio loop, both in one thread (``GuestBridge``);
tests drive the same code over a loop in a thread of its own (``ThreadBridge``).

From trio to asyncio go all requests to a device. ``Bridge.call`` runs a coroutine as
a task; ``Bridge.wait_future`` waits for a future without a task, which would cost as
much as the request itself: reads and writes go that way.

From asyncio to trio goes what a server asks during a login: asyncssh calls its client,
and the answer (a password, a code, a person) is obtained in trio. ``TrioCalls`` is that
direction.

Law: a call that is cancelled on one side is cancelled on the other. On the trio side
the caller also waits for the end of its asyncio task, so nothing runs on behalf of a
caller that has returned. What runs on the trio side for a login ends with the login:
``TrioCalls.close`` cancels it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

import outcome
import trio

from pamfs.errors import SessionLostError

V = TypeVar("V")
Make = Callable[[], Coroutine[Any, Any, V]]
Send = Callable[[], "asyncio.Future[V]"]
_Result = outcome.Value[V] | outcome.Error


class Bridge(Protocol):
    """Runs asyncio code on behalf of trio tasks."""

    async def call(self, make: Make[V]) -> V:
        """Run ``make()`` as an asyncio task.

        Return its result or raise its exception.
        """
        ...

    async def wait_future(self, send: Send[V]) -> V:
        """Run ``send()`` on the asyncio side.

        Return the result of its future or raise its exception.

        Like ``call``, but without a task.
        """
        ...

    def post(self, callback: Callable[[], object]) -> None:
        """From the asyncio side: run ``callback`` in trio's thread, soon."""
        ...


def _outcome_of(
    task: asyncio.Future[V], raise_cancel: Callable[[], object] | None
) -> outcome.Outcome[V]:
    if not task.cancelled():
        error = task.exception()
        if error is None:
            return outcome.Value(task.result())
        # A cancelled gather() has a CancelledError as its exception, but cancelled() is
        # False.
        if not isinstance(error, asyncio.CancelledError):
            return outcome.Error(error)
    if raise_cancel is not None:
        # Trio makes its own Cancelled, which the caller's cancel scope recognizes.
        cancelled = outcome.capture(raise_cancel)
        assert isinstance(cancelled, outcome.Error)  # noqa: S101 - trio's contract
        return cancelled
    return outcome.Error(SessionLostError("the connection's loop is shutting down"))


class GuestBridge:
    """Both loops in one thread: trio is the guest of ``loop``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._token = trio.lowlevel.current_trio_token()

    async def call(self, make: Make[V]) -> V:
        """Run ``make()`` as an asyncio task; return or raise what it does."""
        return await self.wait_future(lambda: self._loop.create_task(make()))

    async def wait_future(self, send: Send[V]) -> V:
        """Run ``send()``; return or raise what its future does."""
        caller = trio.lowlevel.current_task()
        future = send()
        raise_cancel: Callable[[], object] | None = None

        def on_done(done: asyncio.Future[V]) -> None:
            result = _outcome_of(done, raise_cancel)
            trio.lowlevel.reschedule(caller, result)

        def abort(raise_it: Callable[[], object]) -> trio.lowlevel.Abort:
            nonlocal raise_cancel
            raise_cancel = raise_it
            future.cancel()
            return trio.lowlevel.Abort.FAILED

        future.add_done_callback(on_done)
        result: V = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    def post(self, callback: Callable[[], object]) -> None:
        """From the asyncio side: run ``callback`` in trio's thread, soon."""
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(callback)


class ThreadBridge:
    """The asyncio loop in a thread of its own; for tests, where trio is the host."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._token: trio.lowlevel.TrioToken | None = None

    @classmethod
    @contextlib.contextmanager
    def running(cls) -> Iterator[ThreadBridge]:
        """Run a loop in a thread for as long as the context lasts."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="asyncio side")
        thread.start()
        try:
            yield cls(loop)
        finally:
            asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

    async def call(self, make: Make[V]) -> V:
        """Run ``make()`` as an asyncio task; return or raise what it does."""
        return await self.wait_future(lambda: self._loop.create_task(make()))

    async def wait_future(self, send: Send[V]) -> V:
        """Run ``send()`` in the loop's thread; return or raise what its future does."""
        caller = trio.lowlevel.current_task()
        token = self._token = trio.lowlevel.current_trio_token()
        futures: list[asyncio.Future[V]] = []
        raise_cancel: Callable[[], object] | None = None

        def on_done(done: asyncio.Future[V]) -> None:
            result = _outcome_of(done, raise_cancel)
            token.run_sync_soon(trio.lowlevel.reschedule, caller, result)

        def start() -> None:
            try:
                futures.append(send())
            except Exception as exc:  # noqa: BLE001 - the caller gets it
                futures.append(self._loop.create_future())
                futures[0].set_exception(exc)
            futures[0].add_done_callback(on_done)

        def cancel() -> None:
            # ``start`` is ahead in the loop's queue, so the future exists.
            futures[0].cancel()

        def abort(raise_it: Callable[[], object]) -> trio.lowlevel.Abort:
            nonlocal raise_cancel
            raise_cancel = raise_it
            self._loop.call_soon_threadsafe(cancel)
            return trio.lowlevel.Abort.FAILED

        self._loop.call_soon_threadsafe(start)
        result: V = await trio.lowlevel.wait_task_rescheduled(abort)
        return result

    def post(self, callback: Callable[[], object]) -> None:
        """From the asyncio side: run ``callback`` in trio's thread, soon."""
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(callback)


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class TrioCalls:
    """Runs trio functions on behalf of asyncio tasks, in a nursery, until closed."""

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

        Raises ``SessionLostError`` once the trio side is closed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[V] = loop.create_future()
        scope = trio.CancelScope()

        def set_outcome(result: _Result[V]) -> None:
            if future.done():
                return
            match result:
                case outcome.Value(value):
                    future.set_result(value)
                case outcome.Error(error):
                    future.set_exception(error)

        def deliver(result: _Result[V]) -> None:
            loop.call_soon_threadsafe(set_outcome, result)

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
        except Exception as exc:  # noqa: BLE001 - the asyncio side gets it
            result = outcome.Error(exc)
        finally:
            self._scopes.discard(scope)
            deliver(result)
