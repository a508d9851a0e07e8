"""What is not a write happens behind all writes, also when a way was lost."""

from __future__ import annotations

import asyncio
from typing import cast

import asyncssh
from asyncssh.constants import FXP_STATUS, FXP_WRITE
from asyncssh.packet import SSHPacket
from asyncssh.sftp import SFTPClientHandler

from pamfs.transport.ways import Way, Ways

PART = memoryview(b"data")


class Channel:
    """As much of asyncssh's request layer as a way needs; answers when told to."""

    def __init__(self) -> None:
        self._return_types: dict[int, int] = {}
        self._packet_handlers = {FXP_STATUS: lambda _handler, _packet: None}
        self._loop = asyncio.get_running_loop()
        self._waiting: list[asyncio.Future[tuple[int, SSHPacket]]] = []
        self.way = Way(cast("SFTPClientHandler", self), b"handle")

    def _send_request(
        self,
        kind: int,
        args: tuple[bytes],
        waiter: asyncio.Future[tuple[int, SSHPacket]],
    ) -> None:
        del args
        assert kind == FXP_WRITE
        self._waiting.append(waiter)

    @property
    def count(self) -> int:
        """How many requests have no answer yet."""
        return len(self._waiting)

    def answer_one(self) -> None:
        self._waiting.pop(0).set_result((FXP_STATUS, SSHPacket(b"")))

    def lose_one(self) -> None:
        self._waiting.pop(0).set_exception(asyncssh.SFTPConnectionLost("lost"))


async def all_steps() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def other() -> str:
    return "done"


async def lost_with_one_still_flying() -> None:
    first, second = Channel(), Channel()
    ways = Ways(first.way)
    ways.add(second.way)
    first.way.nbytes = 1 << 20  # so that all go by the second
    writes = [asyncio.create_task(ways.write(at, PART)) for at in (0, 4)]
    await all_steps()
    assert (first.count, second.count) == (0, 2)

    second.lose_one()
    await all_steps()
    assert (ways.count, first.count, second.count) == (1, 1, 1)
    looking = asyncio.create_task(ways.behind(other)())
    over = asyncio.create_task(ways.write(4, PART))
    await all_steps()
    assert not looking.done()
    assert first.count == 1

    second.lose_one()
    await all_steps()
    assert first.count == 2
    assert not looking.done()
    first.answer_one()
    first.answer_one()
    await all_steps()
    assert looking.done()
    assert await looking == "done"
    first.answer_one()
    await asyncio.gather(*writes, over)
    assert not ways.is_ordered


def test_what_comes_behind_a_lost_way_waits_for_what_is_sent_again() -> None:
    asyncio.run(asyncio.wait_for(lost_with_one_still_flying(), 10))


async def one_way_is_asked_at_once() -> None:
    first = Channel()
    ways = Ways(first.way)
    assert ways.is_ordered
    write = asyncio.create_task(ways.write(0, PART))
    await all_steps()
    assert await asyncio.wait_for(ways.behind(other)(), 5) == "done"
    first.answer_one()
    await write


def test_one_channel_keeps_the_order_by_itself() -> None:
    asyncio.run(asyncio.wait_for(one_way_is_asked_at_once(), 10))
