"""OpenSSH's sftp-server with one fault, as a subsystem of sshd.

    Subsystem sftp /usr/bin/python3 bad_server.py FAULT

Faults: ``wrong-id`` answers with ids that nobody asked with; ``oversized`` announces
a packet of 512 MiB; ``cut`` ends in the middle of a packet; ``vanish`` forgets each
handle at its second use. The first answers are right, so that a login gets through.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO, Final

SERVER: Final = "/usr/lib/openssh/sftp-server"
STATUS: Final = 101
RIGHT: Final = 2
READ, WRITE = 5, 6
INVALID: Final = b"\0\0\0\4\0\0\0\0\0\0\0\0"  # FX_FAILURE, no text, no language


def packets(stream: BinaryIO) -> Callable[[], bytes]:
    """Return what reads one packet after the other; empty at the end."""

    def read() -> bytes:
        head = stream.read(4)
        return stream.read(int.from_bytes(head, "big")) if len(head) == 4 else b""

    return read


def framed(packet: bytes) -> bytes:
    """Return a packet behind its length."""
    return len(packet).to_bytes(4, "big") + packet


def wrong_id(packet: bytes) -> bytes:
    number = int.from_bytes(packet[1:5], "big") ^ 0x4000
    return framed(packet[:1] + number.to_bytes(4, "big") + packet[5:])


def oversized(packet: bytes) -> bytes:
    return (512 << 20).to_bytes(4, "big") + packet


def cut(packet: bytes) -> bytes:
    return framed(packet)[: max(5, len(packet) // 2)]


ANSWERS: Final = {"wrong-id": wrong_id, "oversized": oversized, "cut": cut}


def answer(fault: str, server: BinaryIO) -> None:
    """Pass on what the server says, with the fault."""
    read = packets(server)
    sys.stdout.buffer.write(framed(read()))  # VERSION
    sys.stdout.buffer.flush()
    spoil = ANSWERS.get(fault, framed)
    for _ in range(RIGHT):
        sys.stdout.buffer.write(framed(read()))
        sys.stdout.buffer.flush()
    while packet := read():
        sys.stdout.buffer.write(spoil(packet))
        sys.stdout.buffer.flush()
        if fault == "cut":
            os._exit(0)
    os._exit(0)


def main() -> None:
    fault = sys.argv[1]
    child = subprocess.Popen([SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    threading.Thread(target=answer, args=(fault, child.stdout), daemon=True).start()
    used: dict[bytes, int] = {}
    read = packets(sys.stdin.buffer)
    while packet := read():
        if fault == "vanish" and packet[0] in {READ, WRITE}:
            size = int.from_bytes(packet[5:9], "big")
            handle = packet[9 : 9 + size]
            used[handle] = used.get(handle, 0) + 1
            if used[handle] > 1:
                sys.stdout.buffer.write(framed(bytes([STATUS]) + packet[1:5] + INVALID))
                sys.stdout.buffer.flush()
                continue
        child.stdin.write(framed(packet))
        child.stdin.flush()
    child.stdin.close()


if __name__ == "__main__":
    main()
