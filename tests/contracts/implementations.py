"""What passes the contract: each implementation of ``RemoteTree``, set up to be asked.

The connections live as long as the test session; each test gets a tree in its
own nursery and a folder of its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import asyncssh
import trio

from pamfs.config import Quirk
from pamfs.model import RemotePath
from pamfs.transport.base import RemoteTree
from pamfs.transport.bridge import ThreadBridge
from pamfs.transport.sftp.handles import handles_of
from pamfs.transport.sftp.server import start_client
from pamfs.transport.sftp.striping import ChannelOpener
from pamfs.transport.sftp.tree import SftpTree
from pamfs.transport.sftp.wire import FastPathIfKnown
from pamfs.transport.ssh.asyncssh_compat import handler_of
from tests.fakes.memory import MemoryFs
from tests.fakes.openssh import SFTP_SERVER, running_sshd
from tests.fakes.remote import Device, FakeTree
from tests.limits import HANG_S

V = TypeVar("V")


class Implementation(Protocol):
    """One kind of device: trees to ask, and ways to lose them."""

    def new_tree(self, nursery: trio.Nursery) -> RemoteTree: ...
    def new_folder(self, name: str) -> RemotePath: ...
    def own_session(
        self, nursery: trio.Nursery
    ) -> tuple[RemoteTree, Callable[[], object]]: ...


class Fake:
    """The device in memory."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._fs = MemoryFs()

    def new_tree(self, nursery: trio.Nursery) -> RemoteTree:
        del nursery
        return FakeTree(self._fs, self._device)

    def new_folder(self, name: str) -> RemotePath:
        path = RemotePath(b"/" + name.encode())
        self._fs.mkdir(path, 0o755)
        return path

    def own_session(
        self, nursery: trio.Nursery
    ) -> tuple[RemoteTree, Callable[[], object]]:
        del nursery
        tree = FakeTree(self._fs, self._device)
        return tree, tree.lose


@dataclass
class Loop:
    """The asyncio side: a loop in a thread."""

    bridge: ThreadBridge
    loop: asyncio.AbstractEventLoop

    def run(self, work: Coroutine[Any, Any, V]) -> V:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(HANG_S)


async def start_files(
    connection: asyncssh.SSHClientConnection,
) -> asyncssh.SFTPClient:
    writer, reader, _ = await connection.open_session(subsystem="sftp", encoding=None)
    client = await start_client(connection, reader, writer)
    # Tests that count requests begin after what is tried at the start.
    await handles_of(handler_of(client)).tried()
    return client


class Sftp:
    """``SftpTree`` over a connection that ``connect`` makes."""

    def __init__(
        self,
        loop: Loop,
        connect: Callable[[], Awaitable[asyncssh.SSHClientConnection]],
        folder: Path,
        *,
        is_short: bool = False,
        root: bytes | None = None,
    ) -> None:
        self._root = os.fsencode(folder) if root is None else root.rstrip(b"/")
        self._is_short = is_short
        self.asked = 0
        self.opened: list[asyncssh.SFTPClient] = []
        self._loop = loop
        self.bridge = loop.bridge
        self._connect = connect
        self._folder = folder
        self.connections: list[asyncssh.SSHClientConnection] = []
        self.client = self._new_client()

    def _new_client(self) -> asyncssh.SFTPClient:
        async def dial() -> asyncssh.SFTPClient:
            connection = await self._connect()
            self.connections.append(connection)
            client = await start_files(connection)
            if self._is_short:
                FastPathIfKnown(connection).add(client)
            return client

        return self._loop.run(dial())

    def new_tree(self, nursery: trio.Nursery) -> RemoteTree:
        return SftpTree(self.bridge, self.client, nursery)

    def wide_tree(
        self,
        nursery: trio.Nursery,
        most: int,
        quirks: frozenset[Quirk] = frozenset(),
    ) -> tuple[SftpTree, ChannelOpener]:
        """Return a tree that may open more channels; ``opened`` are those."""

        async def open_channel() -> asyncssh.SFTPClient:
            self.asked += 1
            connection = self.connections[0]
            client = await start_files(connection)
            self.opened.append(client)
            return client

        further = ChannelOpener(open_channel, most, "proxy")
        tree = SftpTree(self.bridge, self.client, nursery, further, quirks)
        return tree, further

    def new_folder(self, name: str) -> RemotePath:
        path = self._folder / name
        path.mkdir()
        return RemotePath(self._root + b"/" + os.fsencode(name))

    def own_session(
        self, nursery: trio.Nursery
    ) -> tuple[RemoteTree, Callable[[], object]]:
        tree = SftpTree(self.bridge, self._new_client(), nursery)
        return tree, self._drop_newest

    def exit(self, client: asyncssh.SFTPClient) -> None:
        """End one channel, from its own loop."""
        self.soon(client.exit)

    def soon(self, call: Callable[[], object]) -> None:
        """Have the loop of client and server call ``call`` next."""
        self._loop.loop.call_soon_threadsafe(call)

    def _drop_newest(self) -> None:
        connection = self.connections.pop()

        async def drop() -> None:
            connection.abort()
            await connection.wait_closed()

        self._loop.run(drop())

    def close(self) -> None:
        while self.connections:
            self._drop_newest()


@contextmanager
def sftp_over_asyncssh(
    folder: Path,
    server_type: type[asyncssh.SFTPServer] = asyncssh.SFTPServer,
    session: Callable[[], asyncssh.SSHServerSession[bytes]] | None = None,
) -> Iterator[Sftp]:
    """Yield an ``SftpTree`` on asyncssh's own server, in this process.

    With ``session`` that speaks SFTP, and not asyncssh's own server.
    """
    key = asyncssh.generate_private_key("ssh-ed25519")

    served: list[asyncssh.SSHServerConnection] = []

    class Open(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            served.append(conn)
            self.connection = conn

        def session_requested(
            self,
        ) -> tuple[asyncssh.SSHServerChannel[bytes], asyncssh.SSHServerSession[bytes]]:
            assert session is not None
            channel = self.connection.create_server_channel(encoding=None)
            return channel, session()

        def begin_auth(self, username: str) -> bool:
            return not username

    with ThreadBridge.running() as bridge:
        loop = Loop(bridge, bridge._loop)

        async def listen() -> asyncssh.SSHAcceptor:
            return await asyncssh.listen(
                "127.0.0.1",
                0,
                server_factory=Open,
                server_host_keys=[key],
                sftp_factory=None if session else server_type,
            )

        async def connect() -> asyncssh.SSHClientConnection:
            known = asyncssh.import_known_hosts(f"* {key.export_public_key().decode()}")
            return await _dial(server.get_port(), "any", known_hosts=known)

        server = loop.run(listen())
        sftp = Sftp(loop, connect, folder)
        try:
            yield sftp
        finally:
            sftp.close()
            loop.run(_stop(server, served))


@contextmanager
def sftp_over_openssh(
    folder: Path, command: str = SFTP_SERVER, more: str = "", **options: object
) -> Iterator[Sftp]:
    """Yield an ``SftpTree`` on a real sshd; with ``options`` by the short way."""
    home, files = folder / "sshd", folder / "files"
    home.mkdir()
    files.mkdir()
    with running_sshd(home, command, more) as sshd, ThreadBridge.running() as bridge:

        async def connect() -> asyncssh.SSHClientConnection:
            return await _dial(
                sshd.port,
                sshd.user,
                known_hosts=str(sshd.known_hosts),
                client_keys=[str(sshd.client_key)],
                **options,
            )

        loop = Loop(bridge, bridge._loop)
        sftp = Sftp(loop, connect, files, is_short=bool(options))
        try:
            yield sftp
        finally:
            sftp.close()


async def _stop(
    server: asyncssh.SSHAcceptor, connections: Sequence[asyncssh.SSHServerConnection]
) -> None:
    server.close()
    await server.wait_closed()
    for connection in connections:
        connection.abort()
        await connection.wait_closed()


async def _dial(
    port: int, user: str, **options: object
) -> asyncssh.SSHClientConnection:
    options.setdefault("client_keys", None)
    return await asyncssh.connect(
        "127.0.0.1", port, username=user, config=None, agent_path=None, **options
    )


@asynccontextmanager
async def tree_on(sftp: Sftp) -> AsyncIterator[SftpTree]:
    """Yield a tree on ``sftp`` whose log calls the device acme/root@web01."""
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            tree = sftp.new_tree(nursery)
            assert isinstance(tree, SftpTree)
            tree.call_device("acme/root@web01")
            yield tree
