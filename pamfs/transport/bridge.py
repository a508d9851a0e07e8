"""The one crossing between trio and asyncio.

The tree and the sessions live in trio, asyncssh lives in asyncio. In production
trio runs as a guest of the asyncio loop, both in one thread (``GuestBridge``);
tests drive the same code over a loop in a thread of its own (``ThreadBridge``).

Law: a call that is cancelled on the trio side cancels its asyncio task and
waits for it, so nothing runs on behalf of a caller that has returned.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

import outcome
import trio

from pamfs.errors import SessionLostError

V = TypeVar("V")
Make = Callable[[], Coroutine[Any, Any, V]]
Send = Callable[[], "asyncio.Future[V]"]


class Bridge(Protocol):
    """A way from trio to asyncio and back."""

    async def call(self, make: Make[V]) -> V:
        """Run ``make()`` as an asyncio task; return or raise what it does."""
        ...

    async def hear(self, send: Send[V]) -> V:
        """Run ``send()`` on the asyncio side; return or raise what its future does.

        As ``call``, for what needs no task of its own.
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
        # gather() that is cancelled ends with this error, and is not cancelled().
        if not isinstance(error, asyncio.CancelledError):
            return outcome.Error(error)
    if raise_cancel is not None:
        # trio's own Cancelled, made by trio: the caller's scope recognises it.
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
        return await self.hear(lambda: self._loop.create_task(make()))

    async def hear(self, send: Send[V]) -> V:
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
        return await self.hear(lambda: self._loop.create_task(make()))

    async def hear(self, send: Send[V]) -> V:
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
            except Exception as exc:  # noqa: BLE001 - it is the caller's
                futures.append(self._loop.create_future())
                futures[0].set_exception(exc)
            futures[0].add_done_callback(on_done)

        def cancel() -> None:
            # Not bound before ``start`` has run, which is ahead in the queue.
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
