"""The devices: one process with an SSH server for each device, SFTP only.

They are a process of their own so that encryption on the two sides of the proxy uses
two processors, and so that umask 022 is real. The process reads its orders as one JSON
line from standard input and ends when standard input does: no device outlives its lab.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import asyncssh

from pamfs.lab.sftpd import EXTENSIONS, MAX_PACKET, Root, SftpServer
from pamfs.processes import keep_buffers

if TYPE_CHECKING:
    from collections.abc import Callable

# With the library's 2 MiB and 32 KiB a local read takes three times as long
# (facts/peers.md#ssh-throughput). AES-GCM first: processors
# have instructions for it and none for the library's default.
WINDOW_BYTES: Final = 16 * 1024 * 1024
PACKET_BYTES: Final = 128 * 1024
CIPHERS: Final = [
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
]

BULK: Final[dict[str, Any]] = {
    "encryption_algs": CIPHERS,
    "compression_algs": None,
    "window": WINDOW_BYTES,
    "max_pktsize": PACKET_BYTES,
    "encoding": None,
}
SERVER_OPTIONS: Final[dict[str, Any]] = {
    **BULK,
    "line_editor": False,
    "agent_forwarding": False,
    "x11_forwarding": False,
    "allow_pty": True,
    "login_timeout": 300,  # a person reads a code from a phone
}


def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """Return uvloop's policy where there is one, else the standard one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.DefaultEventLoopPolicy()
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


class SftpSession(asyncssh.SSHServerSession[bytes]):
    """The SFTP subsystem of one channel: packets in and out, with back pressure."""

    def __init__(self, make: Callable[[], SftpServer], latency_s: float) -> None:
        self._make = make
        self._latency_s = latency_s
        self._server: SftpServer | None = None
        self._chan: asyncssh.SSHServerChannel[bytes] | None = None
        self._buffer = bytearray()
        self._late: deque[bytes] = deque()
        self._paused = False

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """Remember the channel."""
        self._chan = chan

    def subsystem_requested(self, subsystem: str) -> bool:
        """Grant SFTP and nothing else."""
        if subsystem == "sftp":
            self._server = self._make()
        return self._server is not None

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Answer every whole packet."""
        del datatype
        self._buffer += data
        self._work()

    def _work(self) -> None:
        if self._chan is None or self._server is None:
            return
        while not self._paused and (packet := self._next_packet()):
            with memoryview(packet) as view:
                self._send(self._server.answer(view))

    def _next_packet(self) -> bytes | None:
        if len(self._buffer) < 4:  # noqa: PLR2004 - the length field
            return None
        size = int.from_bytes(self._buffer[:4], "big")
        if not 1 <= size <= MAX_PACKET:
            self._end()
            return None
        if len(self._buffer) < 4 + size:
            return None
        packet = bytes(self._buffer[4 : 4 + size])
        del self._buffer[: 4 + size]
        return packet

    def _send(self, answer: bytes) -> None:
        if not self._latency_s:
            self._write(answer)
            return
        self._late.append(answer)
        loop = asyncio.get_running_loop()
        loop.call_later(self._latency_s, lambda: self._write(self._late.popleft()))

    def _write(self, answer: bytes) -> None:
        if self._chan is not None and not self._chan.is_closing():
            self._chan.write(answer)

    def _end(self) -> None:
        self._buffer.clear()
        if self._chan is not None:
            self._chan.exit(1)

    def pause_writing(self) -> None:
        """Stop answering, and stop reading, until the other side has caught up."""
        self._paused = True
        if self._chan is not None:
            self._chan.pause_reading()

    def resume_writing(self) -> None:
        """Go on, outside of the write that made room."""
        self._paused = False
        asyncio.get_running_loop().call_soon(self._resumed)

    def _resumed(self) -> None:
        self._work()
        if not self._paused and self._chan is not None:
            self._chan.resume_reading()

    def eof_received(self) -> bool:
        """End like sftp-server: the client has nothing more to say."""
        if self._chan is not None:
            self._chan.exit(0)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Close what the client left open."""
        del exc
        self._chan = None
        if self._server is not None:
            self._server.close()


class DeviceServer(asyncssh.SSHServer):
    """SSH of one device: it knows the vault's secret of each of its logins."""

    def __init__(self, orders: dict[str, Any], root: Root) -> None:
        self._logins: dict[str, str] = orders["logins"]
        self._latency_s: float = orders["latency_s"]
        self._root = root
        named = orders["extensions"]
        self._extensions = frozenset(
            EXTENSIONS if named is None else (name.encode() for name in named)
        )
        self._user = ""

    def begin_auth(self, username: str) -> bool:
        """Note the user name; each user needs a password."""
        self._user = username
        return True

    def password_auth_supported(self) -> bool:
        """Offer passwords."""
        return True

    def kbdint_auth_supported(self) -> bool:
        """Offer nothing else."""
        return False

    def validate_password(self, username: str, password: str) -> bool:
        """Compare with the vault's secret."""
        known = self._logins.get(username, "")
        return bool(known) and hmac.compare_digest(known.encode(), password.encode())

    def session_requested(self) -> SftpSession:
        """Give the channel an SFTP server."""
        return SftpSession(self._make_server, self._latency_s)

    def _make_server(self) -> SftpServer:
        return SftpServer(self._root, _home(self._root, self._user), self._extensions)


def _home(root: Root, user: str) -> bytes:
    name = user.rpartition("\\")[2].encode()
    for home in (b"/root" if name == b"root" else b"/home/" + name, b"/"):
        try:
            os.close(root.open(home, os.O_PATH | os.O_DIRECTORY))
        except OSError:
            continue
        return home
    return b"/"


async def _serve(orders: dict[str, Any]) -> None:
    key = asyncssh.import_private_key(orders["host_key"])
    ports = {}
    for device in orders["devices"]:
        root = Root(device["folder"])
        acceptor = await asyncssh.create_server(
            lambda device=device, root=root: DeviceServer(device, root),
            "127.0.0.1",
            0,
            server_host_keys=[key],
            **SERVER_OPTIONS,
        )
        ports[device["name"]] = acceptor.get_port()
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()


def main() -> None:
    """Run until standard input ends."""
    os.umask(0o022)
    keep_buffers()
    # Unbuffered: the rest of the pipe is watched for its end.
    with os.fdopen(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as pipe:
        orders = json.loads(pipe.readline())
    asyncio.set_event_loop_policy(event_loop_policy())
    asyncio.run(_serve(orders))


if __name__ == "__main__":
    main()
