"""The launchers: each server starts, lets its one user in, and shows its folder."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncssh
import pytest

from tests.limits import HANG_S
from tests.menagerie.servers import KINDS, Kind, Server, running_server
from tests.mount.waiting import wait_until

CORE = [kind for kind in KINDS.values() if kind.is_core]
NIGHTLY = [kind for kind in KINDS.values() if not kind.is_core]


async def store(server: Server, name: bytes, content: bytes) -> None:
    """Store a file through the server, with a client that is not ours."""
    connection = await asyncssh.connect(
        "127.0.0.1",
        server.port,
        username=server.user,
        password=server.password,
        client_keys=[str(server.client_key)] if server.client_key else None,
        known_hosts=str(server.known_hosts),
        config=None,
        agent_path=None,
    )
    async with connection:
        client = await connection.start_sftp_client(path_encoding=None)
        async with client.open(server.root.rstrip(b"/") + b"/" + name, "wb") as file:
            await file.write(content)
        # ssh2 never closes a channel of which only the client says the end.
        connection.abort()


def check(kind: Kind, folder: Path) -> None:

    with running_server(kind, folder) as server:
        asyncio.run(asyncio.wait_for(store(server, b"file", b"content"), HANG_S))
        stored = server.files / "file"
        # rclone with a cache stores after the close.
        wait_until(
            lambda: stored.exists() and stored.read_bytes() == b"content",
            f"{kind.name} stores a file",
            HANG_S,
        )


@pytest.mark.parametrize("kind", CORE, ids=lambda kind: kind.name)
def test_a_server_starts_and_stores(kind: Kind, tmp_path: Path) -> None:
    check(kind, tmp_path)


@pytest.mark.parametrize("kind", NIGHTLY, ids=lambda kind: kind.name)
def test_a_nightly_server_starts_and_stores(kind: Kind, tmp_path: Path) -> None:
    if kind.missing():
        pytest.skip("scripts/bootstrap menagerie installs it")
    check(kind, tmp_path)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_server_tells_its_version(kind: Kind) -> None:
    if kind.missing() and not kind.is_core:
        pytest.skip("scripts/bootstrap menagerie installs it")
    assert kind.version()[-1].isalnum()
