"""The relay loses nothing, keeps the order, and holds each byte for its time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.relay import CHUNK_BYTES, Wire, carry, relay
from tests.limits import HANG_S

MESSAGE = bytes(range(256)) * 4096


@contextmanager
def echo() -> Iterator[int]:
    """Serve one client that gets back what it sends; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                while data := client.recv(65536):
                    client.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(HANG_S)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
        return one, other


def send_all(sink: socket.socket) -> None:
    sink.sendall(MESSAGE)
    sink.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("delay_s", [0, 0.01])
def test_all_bytes_come_back_in_order_and_then_the_end(delay_s: float) -> None:
    ours, theirs = tcp_pair()
    with echo() as port, ours:
        thread = threading.Thread(target=relay, args=(theirs, port, delay_s))
        thread.start()
        sender = threading.Thread(target=send_all, args=(ours,))
        sender.start()
        came = bytearray()
        while data := ours.recv(65536):
            came += data
        sender.join(HANG_S)
        thread.join(HANG_S)
    assert came == MESSAGE


@pytest.mark.parametrize("delay_s", [0, 0.01])
def test_a_side_that_is_gone_ends_the_direction(delay_s: float) -> None:
    source, sender = socket.socketpair()
    sink, gone = socket.socketpair()
    with source, sender, sink:
        gone.close()
        sender.sendall(b"nobody reads this")
        sender.shutdown(socket.SHUT_WR)
        carry(source, sink, delay_s)


def test_a_chunk_is_not_taken_before_its_time() -> None:
    wire = Wire(0.02)
    began = time.monotonic()
    wire.put(b"late")
    assert wire.take() == b"late"
    assert time.monotonic() - began >= 0.02


def test_as_much_is_under_way_as_a_gigabyte_a_second_needs_at_100_ms() -> None:
    wire = Wire(3600)
    chunk = bytes(CHUNK_BYTES)
    for _ in range(100_000_000 // CHUNK_BYTES + 1):
        wire.put(chunk)  # would wait for ever, since nobody takes
