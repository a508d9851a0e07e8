"""A line carries everything until it is told to fail, and then fails as it is told."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.limits import HANG_S
from tests.mount.waiting import wait_until
from tests.reliability.line import Cut, Line, running_line

MESSAGE = bytes(range(256)) * 4096


class Echo:
    """A server that sends back what it gets, and keeps it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.got = bytearray()
        self.threads: list[threading.Thread] = []
        self.start(self.serve)

    def start(self, what: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=what, args=args, daemon=True)
        self.threads.append(thread)
        thread.start()

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.start(self.talk, client)

    def stop(self) -> None:
        """End every thread: its connections are over."""
        self.listener.shutdown(socket.SHUT_RDWR)  # close() alone wakes no accept()
        for thread in self.threads:
            thread.join(HANG_S)

    def talk(self, client: socket.socket) -> None:
        with client:
            try:
                while data := client.recv(65536):
                    self.got += data
                    client.sendall(data)
            except OSError:
                return


@contextmanager
def to_echo(rate_bytes_s: int = 0) -> Iterator[tuple[Line, Echo]]:
    echo = Echo()
    with echo.listener:
        port = echo.listener.getsockname()[1]
        try:
            with running_line(port, rate_bytes_s=rate_bytes_s) as line:
                yield line, echo
        finally:
            echo.stop()


def connected(line: Line) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", line.port), timeout=HANG_S)
    client.sendall(b"?")
    assert client.recv(1) == b"?"
    return client


def tried(line: Line) -> int:
    """Return the error number of a connection to ``line``, 0 for none."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", line.port))


def all_of(client: socket.socket) -> bytes:
    came = bytearray()
    while data := client.recv(65536):
        came += data
    return bytes(came)


@pytest.mark.parametrize(("rate", "delay_s"), [(0, 0), (16 << 20, 0), (0, 0.01)])
def test_all_bytes_come_back_in_order_and_then_the_end(
    rate: int, delay_s: float
) -> None:
    with to_echo(rate) as (line, _), connected(line) as client:
        line.delay_s = delay_s

        def send() -> None:
            client.sendall(MESSAGE)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        assert all_of(client) == MESSAGE
        sender.join(HANG_S)


def test_a_reset_is_a_reset() -> None:
    with to_echo() as (line, _), connected(line) as client:
        line.cut(Cut.RESET)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        connected(line).close()


def test_a_finish_is_an_end() -> None:
    with to_echo() as (line, _), connected(line) as client:
        line.cut(Cut.FINISH)
        assert client.recv(1) == b""
        connected(line).close()


def test_a_silent_connection_stays_silent_beside_a_new_one() -> None:
    with to_echo() as (line, echo), connected(line) as client:
        line.cut(Cut.SILENCE)
        client.sendall(b"nobody hears this")
        connected(line).close()
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        assert b"hears" not in echo.got


def test_a_restarted_proxy_refuses_for_a_while() -> None:
    with to_echo() as (line, _), connected(line) as client:
        line.cut(Cut.RESTART, HANG_S)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert tried(line) == errno.ECONNREFUSED
        line.come_back()
        connected(line).close()


def test_a_restarted_proxy_comes_back_by_itself() -> None:
    with to_echo() as (line, _), connected(line):
        line.cut(Cut.RESTART, 0.1)
        wait_until(lambda: tried(line) == 0, "it listens again")
        connected(line).close()


def test_the_port_of_a_restarted_proxy_is_nobody_elses() -> None:
    with to_echo() as (line, _), socket.socket() as other:
        line.cut(Cut.RESTART, HANG_S)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", line.port))


def test_one_packet_is_corrupted() -> None:
    with to_echo() as (line, echo), connected(line) as client:
        line.cut(Cut.CORRUPT)
        client.sendall(b"abc")
        assert client.recv(3) != b"abc"
        assert len(echo.got) == 4
        client.sendall(b"abc")
        assert client.recv(3) == b"abc"


def test_an_answer_is_lost_and_what_was_asked_is_done() -> None:
    with to_echo() as (line, echo), connected(line) as client:
        line.cut_on_answer(Cut.RESET)
        assert line.is_armed
        client.sendall(b"do it")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert echo.got.endswith(b"do it")
        assert not line.is_armed


def test_a_cut_comes_when_so_much_was_carried() -> None:
    with to_echo() as (line, _), connected(line) as client:
        line.cut_after(Cut.RESET, 8)
        client.sendall(b"ab")
        assert client.recv(2) == b"ab"
        client.sendall(b"cd")
        with pytest.raises(ConnectionResetError):
            all_of(client)
        assert line.cuts == 1


def test_what_is_disarmed_does_not_come() -> None:
    with to_echo() as (line, _), connected(line) as client:
        line.cut_after(Cut.RESET, 1)
        line.disarm()
        client.sendall(b"abcd")
        assert client.recv(4) == b"abcd"
        assert not line.is_armed


def test_a_frozen_proxy_carries_nothing_until_it_goes_on() -> None:
    with to_echo() as (line, _), connected(line) as client:
        line.freeze()
        client.sendall(b"later")
        late = socket.create_connection(("127.0.0.1", line.port), timeout=HANG_S)
        with late:
            late.sendall(b"too")
            for waiting in (client, late):
                waiting.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    waiting.recv(1)
                waiting.settimeout(HANG_S)
            line.thaw()
            assert client.recv(5) == b"later"
            assert late.recv(3) == b"too"
