"""The relay's own row: how much it carries, and how late."""

from __future__ import annotations

import socket
import statistics
import sys
import time
from typing import Final

from bench.processes import started
from bench.relay import running_relay

_PINGS: Final = 20
_SINK: Final = """\
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
buffer = bytearray(1 << 20)
while True:
    client, _ = listener.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while count := client.recv_into(buffer):
        if count == 1:
            client.sendall(b"!")
    client.close()
"""


def relay_row(rtt_ms: float, mib: int) -> dict[str, float]:
    """Send ``mib`` MiB through a relay, then some single bytes there and back."""
    with started([sys.executable, "-c", _SINK]) as sink:
        assert sink.stdout is not None  # noqa: S101 - it was asked for
        direct = int(sink.stdout.readline())
        with running_relay(direct, rtt_ms) as port:
            return {
                "rtt_ms": rtt_ms,
                "mib": mib,
                "direct_gb_s": _rate(direct, mib),
                "gb_s": _rate(port, mib),
                "ping_ms": _ping_ms(port),
            }


def _rate(port: int, mib: int) -> float:
    """Return GB/s from the first byte sent to the end seen by the other side."""
    block = bytes(1 << 20)
    with socket.create_connection(("127.0.0.1", port)) as sender:
        began = time.monotonic()
        for _ in range(mib):
            sender.sendall(block)
        sender.shutdown(socket.SHUT_WR)
        sender.recv(1)  # the end, when all was read
        return mib * (1 << 20) / 1e9 / (time.monotonic() - began)


def _ping_ms(port: int) -> float:
    times = []
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(_PINGS):
            began = time.monotonic()
            line.sendall(b"?")
            line.recv(1)
            times.append(time.monotonic() - began)
    return 1000 * statistics.median(times)
