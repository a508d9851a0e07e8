"""A login by pamfs' own dialer to asyncssh's own server, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import asyncssh
import trio

from pamfs.config import HostKeyPolicy
from pamfs.model import Secret
from pamfs.transport.base import Prompts
from pamfs.transport.bridge import ThreadBridge, TrioCalls
from pamfs.transport.sftp.tree import SftpTree
from pamfs.transport.sftp.wire import sftp_channels
from pamfs.transport.ssh.asyncssh_compat import handler_of
from pamfs.transport.ssh.dial import dial
from pamfs.transport.ssh.host_keys import HostKeyVerifier
from pamfs.transport.ssh.login import Dialed, LoginClient, Plan
from tests.fakes.tenants import tenant


class Nobody:
    """Answers nothing: the server lets everybody in."""

    async def password(self) -> Secret | None:
        return None

    async def reply(self, instructions: str, prompts: Prompts) -> None:
        return None


class Open(asyncssh.SSHServer):
    """Lets everybody in."""

    def begin_auth(self, username: str) -> bool:
        return not username


@asynccontextmanager
async def logged_in() -> AsyncIterator[tuple[SftpTree, bool]]:
    """Yield the files of the server, and whether their data takes the fast path."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    with ThreadBridge.running() as bridge:
        server = await bridge.call(lambda: _listening(key))
        async with trio.open_nursery() as nursery:
            trio_calls = TrioCalls(bridge, nursery)
            dialed = await _dialed(bridge, trio_calls, server.get_port(), key)
            is_short = "send_packet" in vars(handler_of(dialed.files))
            yield SftpTree(bridge, dialed.files, nursery), is_short
            await bridge.call(dialed.hang_up)
            trio_calls.close()
        await bridge.call(lambda: _stopped(server))


async def _listening(key: asyncssh.SSHKey) -> asyncssh.SSHAcceptor:
    return await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=Open,
        server_host_keys=[key],
        sftp_factory=True,
    )


async def _stopped(server: asyncssh.SSHAcceptor) -> None:
    server.close()
    await server.wait_closed()


async def _dialed(
    bridge: ThreadBridge, trio_calls: TrioCalls, port: int, key: asyncssh.SSHKey
) -> Dialed[asyncssh.SFTPClient]:
    pinned = tenant(host_keys=HostKeyPolicy.PINNED, host_key=key.get_fingerprint())
    plan = Plan(
        host="127.0.0.1",
        port=port,
        user_name=Secret("any"),
        methods=["keyboard-interactive"],
        host_keys=HostKeyVerifier(pinned.proxy),
        keepalive_s=0,
        scrub=str,
        on_answered=lambda: None,
    )
    client = LoginClient(plan, Nobody(), trio_calls)
    return await bridge.call(partial(dial, plan, client, sftp_channels))
