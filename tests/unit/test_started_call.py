"""A coroutine that is begun without a task: what it does, and what becomes of it."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import asyncssh
import pytest

from pamfs.transport.sftp.packets import StartedCall
from pamfs.transport.sftp.requests import together

Answer = asyncio.Future[str]
Ask = Callable[[], Coroutine[Any, Any, str]]


class Server:
    """Answers what was asked when it is told to."""

    def __init__(self) -> None:
        self.asked: list[Answer] = []

    async def ask(self) -> str:
        self.asked.append(asyncio.get_running_loop().create_future())
        return await self.asked[-1] + "!"

    async def ask_twice(self) -> str:
        return await self.ask() + await self.ask()


async def at_once() -> str:
    return "known"


async def refused() -> str:
    raise asyncssh.SFTPNoConnection("gone")


def test_both_are_on_their_way_before_either_is_answered() -> None:
    async def run() -> None:
        server = Server()
        both = asyncio.ensure_future(together(server.ask, server.ask)())
        await asyncio.sleep(0)
        one, other = server.asked
        other.set_result("second")
        await asyncio.sleep(0)
        assert not both.done()
        one.set_result("first")
        assert await both == ("first!", "second!")

    asyncio.run(run())


def test_it_may_wait_more_than_once_or_not_at_all() -> None:
    async def run() -> None:
        server = Server()
        begun = asyncio.ensure_future(awaited(StartedCall(server.ask_twice())))
        for number in range(2):
            await asyncio.sleep(0)
            server.asked[number].set_result(str(number))
            await asyncio.sleep(0)
        assert await begun == "0!1!"
        assert await StartedCall(at_once()) == "known"

    asyncio.run(run())


async def awaited(begun: StartedCall[str]) -> str:
    return await begun


@pytest.mark.parametrize("first", [refused, None])
def test_a_refusal_of_the_first_is_raised_and_the_second_is_let_go(
    first: Ask | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def run() -> None:
        server = Server()
        both = asyncio.ensure_future(together(first or server.ask, server.ask)())
        await asyncio.sleep(0)
        if first is None:
            server.asked[0].set_exception(asyncssh.SFTPNoConnection("gone"))
        with pytest.raises(asyncssh.SFTPNoConnection):
            await both
        assert server.asked[-1].cancelled()

    asyncio.run(run())
    gc.collect()
    assert not caplog.records


def test_a_refusal_of_the_second_is_none() -> None:
    async def run() -> None:
        server = Server()
        both = asyncio.ensure_future(together(server.ask, server.ask)())
        await asyncio.sleep(0)
        server.asked[1].set_exception(asyncssh.SFTPNoSuchFile("no"))
        server.asked[0].set_result("first")
        assert await both == ("first!", None)
        assert await together(at_once, refused)() == ("known", None)

    asyncio.run(run())


@pytest.mark.parametrize("is_answered", [False, True])
def test_whoever_leaves_leaves_both(
    is_answered: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def run() -> None:
        server = Server()
        both = asyncio.ensure_future(together(server.ask, server.ask)())
        await asyncio.sleep(0)
        one, other = server.asked
        if is_answered:
            other.set_exception(asyncssh.SFTPNoSuchFile("nobody hears this"))
        both.cancel()
        with pytest.raises(asyncio.CancelledError):
            await both
        assert one.cancelled()
        assert other.cancelled() is not is_answered

    asyncio.run(run())
    gc.collect()
    assert not caplog.records
