"""A TCP relay that adds latency and nothing else: half of the round trip each way.

Law: a byte leaves half a round trip after it came, in order, however many came
with it; the rate is whatever the machine can copy. It is a process of its own,
so that neither the peers nor the bench share an interpreter with it.

    python -m bench.relay --to PORT --rtt-ms 20     prints the port it listens on
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from bench.processes import ended_with_us, started

CHUNK_BYTES: Final = 256 * 1024
# More than any peer has under way: 1 GB/s at 100 ms is 100 MB.
IN_FLIGHT_BYTES: Final = 256 * 1024 * 1024
PIPE_BYTES: Final = 1024 * 1024

Chunk = tuple[float, bytes]


class Wire:
    """What is under way in one direction: bytes, and when each may leave.

    An empty chunk is the end of the stream. Only one thread puts, one takes.
    """

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._chunks: deque[Chunk] = deque()
        self._bytes = 0
        self._changed = threading.Condition()

    def put(self, data: bytes) -> None:
        """Send ``data`` on its way; wait while too much is under way."""
        due = time.monotonic() + self._delay_s
        with self._changed:
            while self._bytes > IN_FLIGHT_BYTES:
                self._changed.wait()
            self._chunks.append((due, data))
            self._bytes += len(data)
            self._changed.notify_all()

    def take(self) -> bytes:
        """Wait until the next chunk is there, and due; return it."""
        with self._changed:
            while not self._chunks:
                self._changed.wait()
            due, data = self._chunks.popleft()
        left = due - time.monotonic()
        if left > 0:
            time.sleep(left)
        with self._changed:
            self._bytes -= len(data)
            self._changed.notify_all()
        return data


def carry_at_once(source: socket.socket, sink: socket.socket) -> None:
    """Move bytes inside the kernel until ``source`` ends."""
    outlet, inlet = os.pipe()
    with contextlib.suppress(OSError):  # more than an ordinary user may have
        fcntl.fcntl(inlet, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    try:
        while count := os.splice(source.fileno(), inlet, PIPE_BYTES):
            while count:
                count -= os.splice(outlet, sink.fileno(), count)
    finally:
        os.close(outlet)
        os.close(inlet)


def carry_late(source: socket.socket, sink: socket.socket, delay_s: float) -> None:
    """Move bytes, each ``delay_s`` after it came, until ``source`` ends."""
    wire = Wire(delay_s)

    def fetch() -> None:
        data = b"-"
        while data:
            try:
                data = source.recv(CHUNK_BYTES)
            except OSError:
                data = b""
            wire.put(data)

    in_thread(fetch)
    while data := wire.take():
        sink.sendall(data)


def carry(source: socket.socket, sink: socket.socket, delay_s: float) -> None:
    """Move one direction of a connection to its end, then pass the end on."""
    with contextlib.suppress(OSError):  # either side may hang up at any time
        if delay_s > 0:
            carry_late(source, sink, delay_s)
        else:
            carry_at_once(source, sink)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
    # What still comes from a side that nobody reads is not wanted any more.
    with contextlib.suppress(OSError):
        source.shutdown(socket.SHUT_RD)


def relay(client: socket.socket, port: int, delay_s: float) -> None:
    """Join a client to the server, and stay until both have hung up."""
    with client, socket.create_connection(("127.0.0.1", port)) as server:
        for side in (client, server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = in_thread(partial(carry, server, client, delay_s))
        carry(client, server, delay_s)
        back.join()


def serve(listener: socket.socket, port: int, rtt_ms: float) -> None:
    """Accept clients for ever; each has threads of its own."""
    while True:
        client, _ = listener.accept()
        in_thread(partial(relay, client, port, rtt_ms / 2000))


def in_thread(target: Callable[[], None]) -> threading.Thread:
    """Run ``target`` in a thread that does not keep the process alive."""
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


@contextlib.contextmanager
def running_relay(port: int, rtt_ms: float) -> Iterator[int]:
    """Run a relay to ``port`` as a process; yield the port it listens on."""
    arguments = ["--to", str(port), "--rtt-ms", str(rtt_ms)]
    with started([sys.executable, "-m", "bench.relay", *arguments]) as child:
        assert child.stdout is not None  # noqa: S101 - it was asked for
        yield int(child.stdout.readline())


def main() -> None:
    """Listen on a port of the kernel's choice, and print it."""
    parser = argparse.ArgumentParser(prog="python -m bench.relay")
    parser.add_argument("--to", type=int, required=True, metavar="PORT")
    parser.add_argument("--rtt-ms", type=float, default=0)
    given = parser.parse_args()
    ended_with_us()
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    print(listener.getsockname()[1], flush=True)
    serve(listener, given.to, given.rtt_ms)


if __name__ == "__main__":
    main()
