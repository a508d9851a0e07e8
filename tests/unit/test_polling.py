"""Two loops in one thread, and trio waits in the other's."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import outcome
import pytest
import trio
import trio._core._run as trio_run
import uvloop

from pamfs.app import polling, trio_compat
from pamfs.app.polling import without_thread
from pamfs.transport.bridge import GuestBridge
from tests.limits import HANG_S, PROGRAM_S

ROOT = Path(__file__).parents[2]
# Two aside: ``close`` is also that of sockets, ``runner`` also an argument of attrs.
RENAMED = sorted(
    {name for d in trio_compat.NAMES for name in d.names} - {"close", "runner"}
)
Work = Callable[[GuestBridge], Awaitable[None]]
# libuv keeps one pipe for signals as long as the process lives.
uvloop.new_event_loop().close()
LOOPS = [uvloop.new_event_loop, asyncio.new_event_loop]


def as_guest(new_loop: Callable[[], asyncio.AbstractEventLoop], work: Work) -> None:
    loop = new_loop()
    finished: asyncio.Future[outcome.Outcome[None]] = loop.create_future()

    async def run() -> None:
        with trio.fail_after(HANG_S):
            await work(GuestBridge(loop))

    def start() -> None:
        trio.lowlevel.start_guest_run(
            run,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=loop.call_soon,
            done_callback=finished.set_result,
            host_uses_signal_set_wakeup_fd=True,
        )

    loop.call_soon(start)
    try:
        with without_thread(loop):
            loop.run_until_complete(finished).unwrap()
    finally:
        loop.close()


@pytest.mark.parametrize("new_loop", LOOPS)
def test_everything_that_wakes_trio_wakes_it(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def work(bridge: GuestBridge) -> None:
        before = threading.active_count()
        for _ in range(3):
            await trio.sleep(0.001)
            assert await bridge.call(lambda: asyncio.sleep(0.001, "slept")) == "slept"
        ours, theirs = trio.socket.socketpair()
        async with trio.open_nursery() as nursery:

            async def echo() -> None:
                for _ in range(100):
                    await theirs.send(await theirs.recv(1))

            nursery.start_soon(echo)
            for _ in range(100):
                await ours.send(b"x")
                assert await ours.recv(1) == b"x"
        ours.close()
        theirs.close()
        posted = trio.Event()
        bridge.post(posted.set)
        await posted.wait()
        assert threading.active_count() == before
        assert await trio.to_thread.run_sync(os.getpid) == os.getpid()
        with trio.move_on_after(0.01) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught

    as_guest(new_loop, work)


def test_a_deadline_that_is_brought_forward_is_kept() -> None:
    async def work(bridge: GuestBridge) -> None:
        loop = asyncio.get_running_loop()
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + 3600
            loop.call_later(0.01, lambda: setattr(scope, "deadline", -1.0))
            await trio.sleep_forever()
        assert scope.cancelled_caught

    as_guest(uvloop.new_event_loop, work)


class CountsTimers(asyncio.SelectorEventLoop):
    """Counts the timers that are set."""

    timers = 0

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: object,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        self.timers += 1
        return super().call_at(when, callback, *args, context=context)


def test_waits_that_end_before_their_time_share_a_timer() -> None:
    loop = CountsTimers()
    counted = 0

    async def work(bridge: GuestBridge) -> None:
        nonlocal counted
        with trio.fail_after(HANG_S):
            before = loop.timers
            for _ in range(100):
                with trio.fail_after(HANG_S):
                    await bridge.call(lambda: asyncio.sleep(0))
            counted = loop.timers - before

    as_guest(lambda: loop, work)
    assert counted <= 3


def test_a_timer_of_an_earlier_wait_ends_no_later_one() -> None:
    async def work(bridge: GuestBridge) -> None:
        with trio.fail_after(0.05):
            await bridge.call(lambda: asyncio.sleep(0))
        began = trio.current_time()
        with trio.move_on_after(0.2):
            await trio.sleep_forever()
        assert trio.current_time() - began >= 0.2

    as_guest(uvloop.new_event_loop, work)


def test_another_way_to_wait_than_the_known_one_keeps_its_thread() -> None:
    loop = asyncio.new_event_loop()
    landed = threading.Event()
    with without_thread(loop):
        vars(trio_run)["start_thread_soon"](lambda: 1, lambda _: landed.set())
    assert landed.wait(HANG_S)
    loop.close()


@pytest.mark.parametrize("name", ["start_thread_soon", "GuestState", "version"])
def test_a_trio_that_is_a_stranger_waits_as_it_would_by_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pamfs.app.polling")
    if name == "version":
        monkeypatch.setattr(trio, "__version__", "0.99.0")
    else:
        monkeypatch.delattr(trio_run, name)
    before = dict(vars(trio_run))
    loop = asyncio.new_event_loop()
    with without_thread(loop):
        assert vars(trio_run) == before
    loop.close()
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_a_guest_without_a_name_that_is_needed_keeps_its_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began: list[object] = []
    monkeypatch.setattr(polling._GuestWait, "begin", lambda *given: began.append(given))
    # What another poll than epoll has, or a later trio.
    monkeypatch.setattr(trio_compat, "_FREE_NAMES", ("self", "_gone"))
    monkeypatch.setattr(polling, "strange", str)

    async def work(bridge: GuestBridge) -> None:
        del bridge
        await trio.sleep(0.001)

    as_guest(asyncio.new_event_loop, work)
    assert began == []


def test_a_trio_that_calls_a_name_differently_waits_in_its_thread() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.guest_run", *RENAMED, "_nowhere"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PROGRAM_S,
        cwd=ROOT,
    )
    found = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert found.pop("_nowhere") == "'no thread'"
    assert found == dict.fromkeys(RENAMED, "'a thread'")


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("trio._core._run:GuestState", "guest_tick"),
        ("trio._core._io_epoll:EpollIOManager", "get_events"),
        ("trio._core._wakeup_socketpair:WakeupSocketpair", "close"),
    ],
)
def test_each_method_of_trio_is_looked_for(
    owner: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, kind = owner.partition(":")
    monkeypatch.delattr(getattr(importlib.import_module(module), kind), name)
    assert f"{kind}.{name}" in trio_compat.strange()
