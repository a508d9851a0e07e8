"""The key scan of a proxy: its host key is read, and nothing of ours is sent."""

from __future__ import annotations

import asyncio
import socket

import asyncssh
import pytest

from pamfs.errors import UnreachableError
from pamfs.transport.ssh.dial import scan

KEY = asyncssh.generate_private_key("ssh-ed25519")
HOST = "127.0.0.1"
WITHIN_S = 20.0


class Doorkeeper(asyncssh.SSHServer):
    """Notes who connects and who says a name."""

    connections = 0
    names: tuple[str, ...] = ()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        del conn
        Doorkeeper.connections += 1

    def begin_auth(self, username: str) -> bool:
        Doorkeeper.names += (username,)
        return True


def test_a_scan_returns_the_key_and_sends_no_user_name() -> None:
    async def play() -> None:
        async with asyncio.timeout(WITHIN_S):
            server = await asyncssh.listen(
                HOST, 0, server_host_keys=[KEY], server_factory=Doorkeeper
            )
            async with server:
                shown = await scan(HOST, server.get_port())
                assert (shown.addr, shown.kind) == (HOST, "ssh-ed25519")
                assert shown.fingerprint == KEY.get_fingerprint()

    asyncio.run(play())
    assert (Doorkeeper.connections, Doorkeeper.names) == (1, ())


def test_a_closed_port_is_unreachable() -> None:
    with socket.socket() as taken:  # and not listening
        taken.bind((HOST, 0))
        port = taken.getsockname()[1]
        with pytest.raises(UnreachableError, match=f"{HOST}:{port}: .*refused"):
            asyncio.run(scan(HOST, port))


def test_a_server_without_ssh_is_unreachable() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async def play() -> None:
        async with (
            asyncio.timeout(WITHIN_S),
            await asyncio.start_server(hang_up, HOST, 0) as server,
        ):
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(UnreachableError, match=f"{HOST}:{port}: "):
                await scan(HOST, port)

    asyncio.run(play())
