"""The crossing between trio and asyncio, both ways of building it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from pamfs.transport.bridge import Bridge, GuestBridge, ThreadBridge
from tests.limits import HANG_S

Body = Callable[[Bridge], Awaitable[None]]


def over_a_thread(body: Body) -> None:
    with ThreadBridge.running() as bridge:
        trio.run(body, bridge)


def as_a_guest(body: Body) -> None:
    async def host() -> None:
        loop = asyncio.get_running_loop()
        finished: asyncio.Future[None] = loop.create_future()

        async def guest() -> None:
            await body(GuestBridge(loop))

        def done(result: object) -> None:
            try:
                finished.set_result(result.unwrap())  # type: ignore[attr-defined]  # an Outcome
            except BaseException as exc:  # noqa: BLE001 - raised where it is awaited
                finished.set_exception(exc)

        trio.lowlevel.start_guest_run(
            guest,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=loop.call_soon,
            done_callback=done,
        )
        await asyncio.wait_for(finished, 20)

    asyncio.run(host())


@pytest.fixture(params=[over_a_thread, as_a_guest])
def crossing(request: pytest.FixtureRequest) -> Callable[[Body], None]:
    run: Callable[[Body], None] = request.param
    return run


def test_a_value_comes_back(crossing: Callable[[Body], None]) -> None:
    async def body(bridge: Bridge) -> None:
        async def make() -> int:
            await asyncio.sleep(0)
            return 42

        assert await bridge.call(make) == 42

    crossing(body)


def test_an_error_comes_back(crossing: Callable[[Body], None]) -> None:
    async def body(bridge: Bridge) -> None:
        async def make() -> int:
            raise LookupError("there")

        with pytest.raises(LookupError, match="there"):
            await bridge.call(make)

    crossing(body)


def test_a_future_is_waited_for_without_a_task(
    crossing: Callable[[Body], None],
) -> None:
    async def body(bridge: Bridge) -> None:
        running: list[asyncio.Task[object] | None] = []

        def send() -> asyncio.Future[int]:
            loop = asyncio.get_running_loop()
            running.append(asyncio.current_task())
            future: asyncio.Future[int] = loop.create_future()
            loop.call_soon(future.set_result, 42)
            return future

        assert await bridge.wait_future(send) == 42
        assert running == [None]

    crossing(body)


def test_an_error_of_making_the_future_comes_back(
    crossing: Callable[[Body], None],
) -> None:
    async def body(bridge: Bridge) -> None:
        def send() -> asyncio.Future[int]:
            raise LookupError("there")

        with pytest.raises(LookupError, match="there"):
            await bridge.wait_future(send)

    crossing(body)


def test_a_cancelled_caller_cancels_its_future(
    crossing: Callable[[Body], None],
) -> None:
    async def body(bridge: Bridge) -> None:
        sent: list[asyncio.Future[int]] = []

        def send() -> asyncio.Future[int]:
            sent.append(asyncio.get_running_loop().create_future())
            return sent[0]

        with trio.move_on_after(0.05) as scope:
            await bridge.wait_future(send)
        assert scope.cancelled_caught
        assert sent[0].cancelled()

    crossing(body)


def test_a_cancelled_caller_cancels_each_future_of_a_gather(
    crossing: Callable[[Body], None],
) -> None:
    # A cancelled gather() is no cancelled future: it ends with CancelledError.
    async def body(bridge: Bridge) -> None:
        answers: list[asyncio.Future[int]] = []

        def send() -> asyncio.Future[list[int]]:
            answers.extend(asyncio.get_running_loop().create_future() for _ in "ab")
            return asyncio.gather(*answers)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(bridge.wait_future, send)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert all(answer.cancelled() for answer in answers)

    crossing(body)


def test_calls_cross_side_by_side(crossing: Callable[[Body], None]) -> None:
    async def body(bridge: Bridge) -> None:
        barrier = asyncio.Barrier(20)

        async def meet() -> None:
            await barrier.wait()

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(bridge.call, meet)

    crossing(body)


def test_cancelling_the_caller_cancels_the_task_and_waits_for_it(
    crossing: Callable[[Body], None],
) -> None:
    async def body(bridge: Bridge) -> None:
        steps: list[str] = []

        async def make() -> None:
            steps.append("started")
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0)
                steps.append("ended")

        with trio.move_on_after(0.05) as scope:
            await bridge.call(make)
        assert scope.cancelled_caught
        assert steps == ["started", "ended"]

    crossing(body)


def test_a_task_that_will_not_be_cancelled_delivers(
    crossing: Callable[[Body], None],
) -> None:
    async def body(bridge: Bridge) -> None:
        async def make() -> str:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                return "kept"
            return "never"

        with trio.move_on_after(0.05):
            assert await bridge.call(make) == "kept"

    crossing(body)


def test_the_asyncio_side_can_call_back(crossing: Callable[[Body], None]) -> None:
    async def body(bridge: Bridge) -> None:
        called = trio.Event()

        async def make() -> None:
            bridge.post(called.set)

        await bridge.call(make)
        with trio.fail_after(HANG_S):
            await called.wait()

    crossing(body)


def test_a_call_back_after_the_end_is_dropped() -> None:
    bridges: list[Bridge] = []

    async def body(bridge: Bridge) -> None:
        bridges.append(bridge)
        await bridge.call(lambda: asyncio.sleep(0))

    with ThreadBridge.running() as bridge:
        bridge.post(lambda: None)
        trio.run(body, bridge)
        bridges[0].post(lambda: None)


def test_a_loop_that_ends_gives_its_callers_an_error() -> None:
    from pamfs.errors import SessionLostError

    async def body(bridge: Bridge) -> None:
        async def make() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

        with pytest.raises(SessionLostError):
            await bridge.call(make)

    over_a_thread(body)
