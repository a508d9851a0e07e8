from __future__ import annotations

import trio
import trio.testing
from trio.testing import MockClock

from pamfs.fuse.inflight import InFlightTable


async def test_a_caller_who_wants_to_leave_is_let_go(autojump_clock: MockClock) -> None:
    leaving: set[int] = set()
    table = InFlightTable(wants_to_end=leaving.__contains__)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(table.watch)
        with table.track("read", 7, 60) as request, request.scope:
            await trio.sleep(1)
            leaving.add(7)
            await trio.sleep(30)
        assert request.is_interrupted
        assert trio.current_time() - request.started_at < 2
        nursery.cancel_scope.cancel()


async def test_a_quick_request_is_never_looked_at(autojump_clock: MockClock) -> None:
    looked: list[int] = []

    def look(pid: int) -> bool:
        looked.append(pid)
        return False

    table = InFlightTable(wants_to_end=look)
    with table.track("read", 7, 60):
        await trio.sleep(0.1)
        table.interrupt_leaving()
    assert looked == []


async def test_nobody_is_interrupted_twice_nor_the_kernel(
    autojump_clock: MockClock,
) -> None:
    looked: list[int] = []

    def look(pid: int) -> bool:
        looked.append(pid)
        return True

    table = InFlightTable(wants_to_end=look)
    with table.track("read", 7, 60), table.track("forget", 0, 60):
        await trio.sleep(1)
        table.interrupt_leaving()
        table.interrupt_leaving()
    assert looked == [7]


async def test_without_a_mount_nobody_waits_for_what_only_asks(
    autojump_clock: MockClock,
) -> None:
    table = InFlightTable(wants_to_end=lambda _: False)
    with (
        table.track("read", 7, 60) as read,
        table.track("lookup", 7, 60) as lookup,
        table.track("release", 0, 60) as release,
        table.track("write", 7, 60) as write,
    ):
        await trio.sleep(1)
        table.interrupt_leaving()
        assert not read.is_interrupted
        stopped: list[str] = []
        table.is_unmounted = lambda: True
        table.on_unmounted = lambda: stopped.append("closes")
        table.interrupt_leaving()
        assert [read.is_interrupted, lookup.is_interrupted] == [True, True]
        assert [release.is_interrupted, write.is_interrupted] == [False, False]
        assert stopped == ["closes"]


async def test_each_request_has_a_deadline(autojump_clock: MockClock) -> None:
    table = InFlightTable()
    with table.track("read", 1, 5) as request, request.scope:
        await trio.sleep_forever()
    assert trio.current_time() - request.started_at == 5
    assert not request.is_interrupted


async def test_statistics_tell_who_waits(autojump_clock: MockClock) -> None:
    table = InFlightTable()
    with table.track("read", 1, 5):
        await trio.sleep(2)
        now = table.statistics()
        assert (now.waiting, now.oldest_s, now.answered) == (1, 2.0, 0)
    then = table.statistics()
    assert (then.waiting, then.oldest_s, then.answered) == (0, 0.0, 1)


async def test_waiting_for_the_end_waits_for_the_last(
    autojump_clock: MockClock,
) -> None:
    table = InFlightTable()

    async def request(seconds: float) -> None:
        with table.track("read", 1, 60):
            await trio.sleep(seconds)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(request, 1)
        nursery.start_soon(request, 3)
        await trio.testing.wait_all_tasks_blocked()
        await table.wait_empty()
        assert table.statistics().answered == 2
