"""The file channel behind a proxy that is not what the device is."""

from __future__ import annotations

import sys
from pathlib import Path

import asyncssh
import pytest
import trio

from pamfs.config import Quirk
from pamfs.errors import SessionLostError
from pamfs.model import RemotePath, Target
from pamfs.transport.base import OpenMode
from pamfs.transport.bridge import ThreadBridge
from pamfs.transport.sftp.tree import SftpTree
from tests.contracts.long_files import (
    CONTENT,
    grow,
    handles_of,
    long_content,
    make_far,
    write_all,
)
from tests.fakes.openssh import OpenSsh, running_sshd
from tests.fakes.tenants import ME
from tests.integration.lab_site import spec
from tests.integration.session_site import SessionSite, site
from tests.limits import HANG_S

__all__ = ["site"]  # the fixture

ROOT = Target("acme", "root", "web01")


@pytest.mark.parametrize("banner", ["JumpServer", "OpenSSH_9.2"])
async def test_links_point_the_right_way_whatever_the_proxy_calls_itself(
    site: SessionSite, banner: str
) -> None:
    async with (
        site.lab(spec(banner=banner)) as lab,
        lab.pool.lend(ROOT, ME) as tree,
    ):
        path = RemotePath(b"/tmp/link")
        await tree.symlink(b"the/content", path)
        assert await tree.readlink(path) == b"the/content"


BABBLER = """
import os, sys
def read(count):
    while count:
        count -= len(os.read(0, count))
read(9)  # INIT, version 3
os.write(1, bytes([0, 0, 0, 5, 2, 0, 0, 0, 3]))
read(5)
reply = bytes.fromhex(sys.argv[1])
os.write(1, len(reply).to_bytes(4, "big") + reply)
while os.read(0, 65536):
    pass
"""


@pytest.mark.parametrize("reply", [b"\xff" * 9, b"\x65\0\0\0", b"\x69\0\0\0\0\0"])
async def test_a_reply_that_makes_no_sense_ends_the_session_and_is_no_answer(
    tmp_path: Path, reply: bytes
) -> None:
    script = tmp_path / "babbler.py"
    script.write_text(BABBLER)
    command = f"{sys.executable} {script} {reply.hex()}"
    with running_sshd(tmp_path, command) as sshd, ThreadBridge.running() as bridge:
        async with trio.open_nursery() as nursery:
            connection, client = await bridge.call(lambda: dialed(sshd))
            files = SftpTree(bridge, client, nursery)
            with pytest.raises(SessionLostError), trio.fail_after(HANG_S):
                await files.lstat(RemotePath(b"/etc"))
            await bridge.call(lambda: hang_up(connection))


async def dialed(
    sshd: OpenSsh,
) -> tuple[asyncssh.SSHClientConnection, asyncssh.SFTPClient]:
    connection = await asyncssh.connect(
        "127.0.0.1",
        sshd.port,
        username=sshd.user,
        client_keys=[str(sshd.client_key)],
        known_hosts=str(sshd.known_hosts),
        config=None,
        agent_path=None,
    )
    return connection, await connection.start_sftp_client(path_encoding=None)


async def hang_up(connection: asyncssh.SSHClientConnection) -> None:
    connection.abort()
    await connection.wait_closed()


@pytest.mark.parametrize(("allowed", "used"), [(10, 4), (2, 2), (1, 1)])
async def test_more_channels_are_no_more_logins(
    site: SessionSite, monkeypatch: pytest.MonkeyPatch, allowed: int, used: int
) -> None:
    make_far(monkeypatch)
    shared = frozenset({Quirk.SHARED_WRITES})
    async with (
        site.lab(spec(max_channels=allowed), quirks=shared) as lab,
        lab.pool.lend(ROOT, ME) as tree,
    ):
        path = RemotePath(b"/tmp/f")
        mode = OpenMode.READ | OpenMode.WRITE | OpenMode.CREATE
        file, _ = await tree.open(path, mode, 0o600)
        with trio.fail_after(HANG_S):
            half = await grow(file)
            assert handles_of(file) == used
            await write_all(file, half, half + len(CONTENT))
            end = half + len(CONTENT)
            assert await file.read_at(0, end) == long_content(end)
            await file.close()
        assert len(await lab.events("login")) == 1
