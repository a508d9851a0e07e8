"""The short way for file data: what arrives is what was sent, whatever the keys do."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import asyncssh
import pytest
import trio

from pamfs.errors import SessionLostError
from pamfs.transport.base import RemoteFile
from pamfs.transport.sftp.fast_path import Framing, Incoming
from tests.contracts.conftest import GCM
from tests.contracts.implementations import Sftp, sftp_over_openssh
from tests.contracts.promise import NEW, READ, content_of, opened, store, under
from tests.limits import HANG_S

STEP = 100_003
CONTENT = random.Random(1).randbytes(12 << 20)


@pytest.fixture
def often(tmp_path: Path) -> Iterator[Sftp]:
    """A device that wants new keys with each megabyte, from both sides."""
    with sftp_over_openssh(
        tmp_path, more="RekeyLimit 1M", encryption_algs=GCM, rekey_bytes=1 << 20
    ) as sftp:
        yield sftp


async def test_new_keys_in_the_midst_of_the_data_change_nothing(often: Sftp) -> None:
    path = under(often.new_folder("f"), b"f")
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            tree = often.new_tree(nursery)
            async with opened(tree, path, NEW, 0o600) as file:
                await in_pieces(file.write_at)
            stored = await trio.Path(path.decode()).read_bytes()
            assert stored == CONTENT
            async with opened(tree, path, READ) as file:
                await in_pieces(lambda at, piece: same(file, at, piece))


async def test_what_asyncssh_holds_of_a_packet_is_taken_back(
    often: Sftp, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_short, take_back = Incoming._may_use, Incoming._take_back
    counts: Counter[str] = Counter()

    def seldom(self: Incoming) -> bool:
        counts["looks"] += 1
        return counts["looks"] % 7 != 0 and is_short(self)

    def noted(self: Incoming) -> None:
        before = self._end
        take_back(self)
        counts["taken back"] += self._end > before

    def little(self: Incoming, sizehint: int) -> memoryview:
        del sizehint
        return self._buffer[self._end : self._end + 50_001]

    monkeypatch.setattr(Incoming, "get_buffer", little)
    monkeypatch.setattr(Incoming, "_may_use", seldom)
    monkeypatch.setattr(Incoming, "_take_back", noted)
    path = under(often.new_folder("f"), b"f")
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            tree = often.new_tree(nursery)
            await trio.Path(path.decode()).write_bytes(CONTENT)
            async with opened(tree, path, READ) as file:
                await in_pieces(lambda at, piece: same(file, at, piece))
    assert counts["taken back"] > 0


async def in_pieces(do: Callable[[int, memoryview], Awaitable[None]]) -> None:
    """Do it with all pieces of ``CONTENT`` at once."""
    async with trio.open_nursery() as nursery:
        for at in range(0, len(CONTENT), STEP):
            nursery.start_soon(do, at, memoryview(CONTENT)[at : at + STEP])


async def same(file: RemoteFile, at: int, piece: memoryview) -> None:
    assert await file.read_at(at, len(piece)) == piece


async def test_data_goes_the_short_way(often: Sftp) -> None:
    calls: Counter[str] = Counter()
    ways = ((Incoming, "_deliver"), (Framing, "_answer"), (Framing, "_give_up"))
    whole = [(kind, name, getattr(kind, name)) for kind, name in ways]

    def counted(name: str, method: object) -> object:
        def count(*args: object) -> object:
            done = method(*args)  # type: ignore[operator]
            calls[name] += done is not False
            calls[f"not {name}"] += done is False
            return done

        return count

    for kind, name, method in whole:
        setattr(kind, name, counted(name, method))
    try:
        async with trio.open_nursery() as nursery:
            tree = often.new_tree(nursery)
            path = under(often.new_folder("f"), b"f")
            calls.clear()
            await store(tree, path, CONTENT[: 1 << 19])
            assert await content_of(tree, path) == CONTENT[: 1 << 19]
            assert calls["_deliver"] > 1 << 19 >> 15
            assert calls["not _deliver"] == 0
    finally:
        for kind, name, method in whole:
            setattr(kind, name, method)
    assert calls["_deliver"] >= 1 << 19 >> 15  # 32 KiB in each, as OpenSSH sends
    assert calls["_answer"] >= 8
    assert calls["_give_up"] == 0


class Handler:
    """What ``Framing`` asks of asyncssh's handler."""

    def __init__(self, *numbers: int) -> None:
        self._requests = {number: Waiter() for number in numbers}
        self._writer = self


class Waiter:
    answer: tuple[int, bytes] | None = None

    def cancelled(self) -> bool:
        return False

    def set_result(self, answer: tuple[int, asyncssh.packet.SSHPacket]) -> None:
        kind, packet = answer
        self.answer = kind, bytes(packet.get_remaining_payload())


class Channel:
    """A channel with a window, and asyncssh's reader behind it."""

    def __init__(self, window: int = 0, most: int = 10) -> None:
        self._session = self
        self._send_window = window
        self._send_pktsize = most
        self.read = b""
        self.rests = 0

    def data_received(self, data: bytes, datatype: int | None) -> None:
        assert datatype is None
        self.read += data

    def _flush_send_buf(self) -> None:
        self.rests += 1

    def is_closing(self) -> bool:
        return False


class Wire:
    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.flushed: list[bytes] = []

    def send(self, channel: object, parts: list[memoryview], size: int) -> None:
        del channel
        self.sent.append(b"".join(parts))
        assert len(self.sent[-1]) == size

    def flush(self) -> None:
        self.flushed = list(self.sent)


def framing(handler: Handler, channel: Channel) -> tuple[Framing, Wire]:
    wire = Wire()
    made = Framing(handler, channel, wire)  # type: ignore[arg-type]  # as far as it looks
    made.take_over()
    return made, wire


def answer(kind: int, number: int, rest: bytes) -> bytes:
    body = bytes([kind]) + number.to_bytes(4) + rest
    return len(body).to_bytes(4) + body


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 7, 13, 64, 1000])
def test_packets_are_found_wherever_they_are_cut(step: int) -> None:
    handler, channel = Handler(1, 2, 3, 4), Channel()
    waiters = dict(handler._requests)
    framing(handler, channel)
    bodies = {1: b"x" * 50, 2: b"", 3: b"yz", 4: bytes(300)}
    stream = b"".join(answer(103, n, body) for n, body in bodies.items())
    for at in range(0, len(stream), step):
        channel.data_received(stream[at : at + step], None)
    assert {n: w.answer for n, w in waiters.items()} == {
        n: (103, body) for n, body in bodies.items()
    }
    assert not handler._requests
    assert channel.read == b""


@pytest.mark.parametrize(
    "nonsense", [answer(103, 9, b"nobody asked"), b"\xff" * 20, b"\0\0\0\1xyzabcd"]
)
def test_what_makes_no_sense_is_left_to_asyncssh(nonsense: bytes) -> None:
    handler, channel = Handler(1, 2), Channel()
    first = handler._requests[1]
    framing(handler, channel)
    whole = answer(101, 1, b"ok") + nonsense
    for at in range(0, len(whole), 6):
        channel.data_received(whole[at : at + 6], None)
    channel.data_received(b"more", None)
    assert first.answer == (101, b"ok")
    assert channel.read == nonsense + b"more"
    assert list(handler._requests) == [2]


def test_what_the_window_does_not_take_waits_in_order() -> None:
    handler, channel = Handler(), Channel(window=25)
    frames, wire = framing(handler, channel)
    frames.send_packet(6, 1, b"0123", memoryview(b"456789" * 3))
    frames.send_packet(3, 2, b"abc")
    whole = b"".join(wire.sent)
    assert [len(part) for part in wire.sent] == [10, 10, 5]
    assert wire.flushed == wire.sent
    assert (channel._send_window, channel.rests) == (0, 0)
    channel._send_window = 100
    channel._flush_send_buf()
    whole = b"".join(wire.sent)
    body = b"\6" + b"0123" + b"456789" * 3
    assert whole == len(body).to_bytes(4) + body + b"\0\0\0\4\3abc"
    assert channel.rests == 1


async def test_a_packet_that_was_changed_on_the_way_ends_the_session(
    often: Sftp,
) -> None:
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            tree = often.new_tree(nursery)
            folder = often.new_folder("f")
            file, _ = await tree.open(under(folder, b"f"), NEW, 0o600)
            take = Incoming._next

            def spoiled(self: Incoming) -> memoryview | None:
                packet = take(self)
                if packet is not None:
                    packet[-1] ^= 1
                return packet

            Incoming._next = spoiled  # type: ignore[method-assign]
            try:
                with pytest.raises(SessionLostError):
                    await tree.lstat(folder)
            finally:
                Incoming._next = take  # type: ignore[method-assign]
            with pytest.raises(SessionLostError):
                await file.stat()
            await file.close()  # the handle went with the session: nothing to tell


class Connection:
    """What ``Incoming`` asks of a connection that is lost."""

    lost: list[Exception | None]

    def __init__(self) -> None:
        self.lost = []

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


def test_a_connection_that_is_over_keeps_no_buffer() -> None:
    """A soak grew by 11 MiB a minute: each lost connection kept 512 KiB for a while."""
    connection = Connection()
    incoming = Incoming(connection)  # type: ignore[arg-type] # as much as is asked for
    assert len(incoming.get_buffer(-1)) == 512 << 10
    incoming.connection_lost(None)
    assert connection.lost == [None]
    assert len(incoming._buffer) == 0
