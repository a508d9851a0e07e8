"""Who owns work, and what becomes of it when its waiter leaves."""

from __future__ import annotations

import errno

import outcome
import pytest
import trio
import trio.testing

from pamfs.tasks import AbandonedError, Flight, obtain


class Store:
    """Things that can be got and given back, each once."""

    def __init__(self) -> None:
        self.go = trio.Event()
        self.given_back: list[str] = []

    async def get(self) -> str:
        await self.go.wait()
        return "thing"

    async def get_nothing(self) -> str:
        await self.go.wait()
        raise ValueError("nothing there")

    async def give_back(self, thing: str) -> None:
        await trio.lowlevel.checkpoint()
        self.given_back.append(thing)


async def test_each_waiter_of_a_flight_gets_its_result() -> None:
    flight: Flight[int] = Flight()
    got: list[int] = []

    async def wait() -> None:
        got.append(await flight.wait_landed())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        landed_before = flight.is_landed
        flight.land(outcome.Value(7))
    assert (landed_before, flight.is_landed) == (False, True)
    assert got == [7, 7]
    assert await flight.wait_landed() == 7


async def test_each_waiter_gets_the_failure_as_often_as_it_asks() -> None:
    flight: Flight[int] = Flight()
    flight.land(outcome.Error(ValueError("no")))
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            await flight.wait_landed()


async def test_work_that_fails_lands_with_its_failure_and_raises_nothing() -> None:
    flight: Flight[str] = Flight()

    async def fail() -> str:
        await trio.lowlevel.checkpoint()
        raise ValueError("no")

    await flight.fly(fail)
    with pytest.raises(ValueError, match="no"):
        flight.result()


async def test_waiters_of_cancelled_work_get_an_error_of_their_own() -> None:
    flight: Flight[str] = Flight()
    with trio.CancelScope() as scope:
        scope.cancel()
        await flight.fly(Store().get)
    assert scope.cancelled_caught
    with pytest.raises(AbandonedError) as caught:
        await flight.wait_landed()
    assert caught.value.code == errno.EIO


def test_the_result_of_work_under_way_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match="has not ended"):
        Flight[int]().result()


async def test_a_patient_caller_gets_the_thing_and_keeps_it() -> None:
    store = Store()
    store.go.set()
    async with trio.open_nursery() as nursery:
        assert await obtain(nursery, store.get, store.give_back) == "thing"
    assert store.given_back == []


async def test_a_caller_gets_the_failure_and_the_nursery_lives_on() -> None:
    store = Store()
    store.go.set()
    async with trio.open_nursery() as nursery:
        with pytest.raises(ValueError, match="nothing there"):
            await obtain(nursery, store.get_nothing, store.give_back)
    assert store.given_back == []


async def test_an_impatient_caller_takes_only_itself_away() -> None:
    store = Store()
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_when_blocked, scope)
            await obtain(nursery, store.get, store.give_back)
        assert scope.cancelled_caught
        assert store.given_back == []
        store.go.set()
    assert store.given_back == ["thing"]


async def test_a_failure_after_the_caller_left_is_dropped() -> None:
    store = Store()
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_when_blocked, scope)
            await obtain(nursery, store.get_nothing, store.give_back)
        store.go.set()
    assert store.given_back == []


async def test_what_arrives_in_the_moment_its_caller_leaves_is_given_back() -> None:
    store = Store()
    store.go.set()
    scope = trio.CancelScope()

    async def get_as_the_caller_leaves() -> str:
        thing = await store.get()
        scope.cancel()
        return thing

    async with trio.open_nursery() as nursery:
        with scope:
            await obtain(nursery, get_as_the_caller_leaves, store.give_back)
        assert scope.cancelled_caught
    assert store.given_back == ["thing"]


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
