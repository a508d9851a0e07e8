"""A long upload to a far device is stored as it was written, on every server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from bench.relay import running_relay
from pamfs.model import RemotePath
from pamfs.transport.sftp.file import FAR_S, LONG_BYTES
from tests.contracts.long_files import long_content, write_all
from tests.contracts.promise import NEW
from tests.limits import HANG_S
from tests.menagerie.clients import sftp_over
from tests.menagerie.servers import KINDS, Kind, Server, running_server
from tests.mount.waiting import wait_until

RTT_MS = 10
SIZE = 40 << 20
# Servers that were seen to empty, version or lock a file at a second open, beside the
# one that is known not to.
SERVERS = ["openssh", "rclone-off", "rclone-full", "erlang", "conch", "proftpd"]


@contextmanager
def far(kind: Kind, folder: Path) -> Iterator[Server]:
    """Run ``kind`` so far away that further channels would pay."""
    assert RTT_MS / 1000 > FAR_S
    assert SIZE > 2 * LONG_BYTES
    with (
        running_server(kind, folder) as server,
        running_relay(server.port, RTT_MS) as port,
    ):
        known = server.known_hosts.read_text().replace(f":{server.port} ", f":{port} ")
        server.known_hosts.write_text(known)
        yield replace(server, port=port)


@pytest.mark.parametrize("name", SERVERS)
async def test_a_long_upload_is_stored_as_it_was_written(
    name: str, tmp_path: Path
) -> None:
    with far(KINDS[name], tmp_path) as server, sftp_over(server) as device:
        path = RemotePath(server.root.rstrip(b"/") + b"/long")
        with trio.fail_after(2 * HANG_S):
            async with trio.open_nursery() as nursery:
                tree, _ = device.wide_tree(nursery, 4)
                file, _ = await tree.open(path, NEW, 0o600)
                await write_all(file, end=SIZE)
                await file.close()
        stored = server.files / "long"
        # rclone with a cache stores after the close.
        wait_until(
            lambda: stored.exists() and stored.stat().st_size == SIZE,
            f"{name} stores the file",
            HANG_S,
        )
        assert stored.read_bytes() == long_content(SIZE)
        assert name == "openssh" or not device.asked
