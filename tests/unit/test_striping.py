"""Writes leave in their order, and what is not a write happens behind all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import asyncssh
import pytest
from asyncssh.constants import FXP_STATUS, FXP_WRITE
from asyncssh.packet import SSHPacket
from asyncssh.sftp import SFTPClientHandler

from pamfs.transport.sftp.handles import handles_of
from pamfs.transport.sftp.striping import Stripe, Stripes

PART = memoryview(b"data")


class Channel:
    """As much of asyncssh's request layer as a way needs; answers when told to."""

    def __init__(self) -> None:
        self._return_types: dict[int, int] = {}
        self._packet_handlers = {FXP_STATUS: lambda _handler, _packet: None}
        self._loop = asyncio.get_running_loop()
        self._waiting: list[asyncio.Future[tuple[int, SSHPacket]]] = []
        self.offsets: list[int] = []
        held = handles_of(handler := cast("SFTPClientHandler", self)).register(
            handler, b"handle"
        )
        self.stripe = Stripe(held)

    def _send_request(
        self,
        kind: int,
        args: tuple[bytes],
        waiter: asyncio.Future[tuple[int, SSHPacket]],
    ) -> None:
        assert kind == FXP_WRITE
        where = SSHPacket(bytes(args[0]))
        assert where.get_string() == b"handle"
        self.offsets.append(where.get_uint64())
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


def two_stripes(first: Channel, second: Channel) -> Stripes:
    """Return ways of which the second has the least to carry."""
    stripes = Stripes(first.stripe)
    with stripes.hold_writes():
        pass
    stripes.add(second.stripe)
    first.stripe.nbytes = 1 << 20
    return stripes


async def lost_with_one_still_flying() -> None:
    first, second = Channel(), Channel()
    stripes = two_stripes(first, second)
    writes = [stripes.write(at, PART) for at in (0, 4)]
    assert (first.count, second.count) == (0, 2)

    second.lose_one()
    await all_steps()
    assert (stripes.count, first.count, second.count) == (1, 1, 1)
    looking = asyncio.create_task(stripes.behind(other)())
    over = stripes.write(4, PART)
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
    assert first.count == 1
    first.answer_one()
    assert await looking == "done"
    await asyncio.gather(*(write.reply for write in (*writes, over)))
    assert not stripes.is_ordered


async def given_up_and_lost() -> None:
    """Its bytes may be stored or not, so what is behind it waits for its answer."""
    first, second = Channel(), Channel()
    stripes = two_stripes(first, second)
    old = stripes.write(4, PART)
    new = stripes.write(4, PART)
    old.reply.cancel()
    await all_steps()
    assert (first.offsets, second.offsets) == ([], [4])
    second.lose_one()
    await all_steps()
    assert first.offsets == [4]
    first.answer_one()
    await all_steps()
    assert first.offsets == [4, 4]
    first.answer_one()
    await new.reply


async def one_way_is_asked_at_once() -> None:
    first = Channel()
    stripes = Stripes(first.stripe)
    assert stripes.is_ordered
    write = stripes.write(0, PART)
    assert first.count == 1
    assert await asyncio.wait_for(stripes.behind(other)(), 5) == "done"
    first.answer_one()
    await write.reply


async def held_ones_leave_in_their_order() -> None:
    first = Channel()
    stripes = Stripes(first.stripe)
    with stripes.hold_writes():
        held = [stripes.write(at, PART) for at in (0, 4, 2, 6)]
        held[1].reply.cancel()
        looking = asyncio.create_task(stripes.behind(other)())
        await all_steps()
        assert (await stripes.next_offset(), first.offsets) == (0, [])
    stripes.stop_counting()
    late = stripes.write(10, PART)
    assert first.offsets == [0, 2, 6, 10]
    await all_steps()
    assert not looking.done()
    while first.count:
        first.answer_one()
    assert await looking == "done"
    await asyncio.gather(*(held[at].reply for at in (0, 2, 3)), late.reply)
    assert stripes.is_ordered


async def refused_ones_do_not_leave() -> None:
    first = Channel()
    stripes = Stripes(first.stripe)
    failure = asyncssh.SFTPFailure("changed")
    with stripes.hold_writes():
        held = stripes.write(0, PART)
        stripes.fail(failure)
    stripes.stop_counting()
    for write in (held, stripes.write(4, PART)):
        with pytest.raises(asyncssh.SFTPFailure):
            await write.reply
    assert first.offsets == []


async def the_same_bytes_wait_and_all_behind_them() -> None:
    first, second = Channel(), Channel()
    stripes = two_stripes(first, second)
    for at in (0, 2, 20):
        stripes.write(at, PART)
    assert second.offsets == [0]
    second.answer_one()
    await all_steps()
    assert second.offsets == [0, 2, 20]


@pytest.mark.parametrize(
    "scenario",
    [
        lost_with_one_still_flying,
        given_up_and_lost,
        one_way_is_asked_at_once,
        held_ones_leave_in_their_order,
        refused_ones_do_not_leave,
        the_same_bytes_wait_and_all_behind_them,
    ],
)
def test_the_order_of_writes(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 10))
