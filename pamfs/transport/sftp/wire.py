"""The wire that moves files by SFTP, over a connection of SSH.

A file channel is opened here: asyncssh's client on the ``sftp`` subsystem, with what
the server announces kept, the text that some devices print before it named, and the
fast path switched on where it is known to fit.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from functools import cache, partial
from typing import TYPE_CHECKING, Final

import asyncssh
import trio
from asyncssh.packet import PacketDecodeError

from pamfs.config import TenantConfig
from pamfs.errors import CutLoginError, LoginError
from pamfs.model import Target
from pamfs.transport.base import LoginTry
from pamfs.transport.bridge import Bridge, Make, TrioCalls
from pamfs.transport.sftp.server import SFTP_VERSION, BoundedReader, start_client
from pamfs.transport.sftp.striping import ChannelOpener
from pamfs.transport.sftp.tree import SftpTree
from pamfs.transport.ssh.asyncssh_compat import (
    can_start_sftp,
    has_fast_path,
    is_known_client,
    is_known_connection,
    note_slower,
    on_bad_reply,
    parts_of_reader,
    read_by,
)
from pamfs.transport.ssh.dial import dial, hush
from pamfs.transport.ssh.keys import AskPassphrase, LoginKeys
from pamfs.transport.ssh.login import Dialed, LoginClient, plan_of
from pamfs.transport.ssh.refusals import channel_refusal

if TYPE_CHECKING:
    from pamfs.transport.sftp.fast_path import FastPath

STDERR_WITHIN_S: Final = 1.0
STDERR_BYTES: Final = 4096
_LINE_ENDS: Final = re.compile(rb"\S[^\n\0]*[\n\0]")
# Characters of a text line, sent in place of SFTP, that an error shows.
LONGEST_LINE: Final = 200
# Exceptions of starting SFTP if the server breaks the protocol.
START_FAILURES: Final = (OSError, EOFError, asyncssh.Error, PacketDecodeError)


Session = tuple[
    asyncssh.SSHWriter[bytes], asyncssh.SSHReader[bytes], asyncssh.SSHReader[bytes]
]


class SftpLink:
    """The files behind one login, and its end; a ``wires.WireLink``."""

    def __init__(
        self, bridge: Bridge, dialed: Dialed[asyncssh.SFTPClient], tree: SftpTree
    ) -> None:
        self._bridge = bridge
        self._dialed = dialed
        self.host_key = dialed.host_key
        self.tree = tree

    async def wait_lost(self) -> str:
        """Wait until the connection or its file channel is gone; return why."""
        return await self._bridge.call(self._dialed.wait_lost)

    async def close(self) -> None:
        """Hang up; return when the connection is gone."""
        await self._bridge.call(self._dialed.hang_up)


class SftpWire:
    """Logs in over ``bridge``; what outlives a login runs in ``nursery``."""

    has_host_key: Final = True

    def __init__(self, bridge: Bridge, nursery: trio.Nursery) -> None:
        self.bridge = bridge
        self.nursery = nursery
        # The proxies that allow only one channel; kept until the mount ends.
        self.single_channel: set[str] = set()
        hush()

    def begin(self, tenant: TenantConfig, target: Target) -> SftpDialer:
        """Return the part of a login that knows SSH; it has done nothing yet."""
        return SftpDialer(self, tenant, target)


class SftpDialer:
    """Dials for one login, and holds its SSH keys; a ``wires.Dialer``."""

    def __init__(self, wire: SftpWire, tenant: TenantConfig, target: Target) -> None:
        self._wire = wire
        self._tenant = tenant
        self._target = target
        self._keys = LoginKeys(tenant.login)

    async def load_keys(self, passphrase: AskPassphrase) -> None:
        """Load the SSH keys; ``passphrase`` asks for the one of a key file."""
        await self._keys.load(passphrase)

    async def open(self, one: LoginTry) -> SftpLink:
        """Dial, log in, and open the file channel; raise ``LoginError``."""
        wire, files = self._wire, self._tenant.files
        plan = plan_of(self._tenant, self._keys, one)
        await trio.to_thread.run_sync(plan.host_keys.read)
        trio_calls = TrioCalls(wire.bridge, wire.nursery)
        client = LoginClient(plan, one.responder, trio_calls)
        try:
            dialed = await wire.bridge.call(partial(dial, plan, client, sftp_channels))
        finally:
            trio_calls.close()
        on_bad_reply(dialed.files, client.note_bad_reply)
        proxy = f"{plan.host}:{plan.port}"
        further = ChannelOpener(
            dialed.open_channel, files.channels, proxy, wire.single_channel
        )
        tree = SftpTree(wire.bridge, dialed.files, wire.nursery, further, files.quirks)
        tree.call_device(str(self._target))
        return SftpLink(wire.bridge, dialed, tree)

    def forget(self) -> None:
        """Drop the keys: the login is over."""
        self._keys.forget()


class FastPathIfKnown:
    """The fast path of one connection; asyncssh's own code where it cannot be used."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self._fast_path: FastPath | None = None
        kind = _fast_path_class()
        if kind is not None and is_known_connection(connection):
            self._fast_path = kind(connection)

    def add(self, client: asyncssh.SFTPClient) -> None:
        """Have the packets of ``client`` take the fast path from now on."""
        if self._fast_path is not None and is_known_client(client):
            self._fast_path.add(client)


@cache
def _fast_path_class() -> type[FastPath] | None:
    if not has_fast_path():
        return None
    try:
        # Not at the top: it imports private names, which were looked for just now.
        from pamfs.transport.sftp.fast_path import FastPath
    except ImportError as exc:
        note_slower(str(exc))
        return None
    return FastPath


def sftp_channels(
    connection: asyncssh.SSHClientConnection, client: LoginClient
) -> Make[asyncssh.SFTPClient]:
    """Return what opens one SFTP channel of ``connection`` each time."""
    return partial(_open_files, connection, FastPathIfKnown(connection), client)


async def _open_files(
    connection: asyncssh.SSHClientConnection,
    fast_path: FastPathIfKnown,
    client: LoginClient,
) -> asyncssh.SFTPClient:
    if can_start_sftp():
        files = await _start_files(connection, client)
    else:
        try:
            files = await connection.start_sftp_client(
                path_encoding=None, sftp_version=SFTP_VERSION
            )
        except START_FAILURES as exc:
            raise _no_files(client, exc) from None
    fast_path.add(files)
    return files


async def _start_files(
    connection: asyncssh.SSHClientConnection, client: LoginClient
) -> asyncssh.SFTPClient:
    # As asyncssh's start_sftp_client does, but with the channel's stderr kept:
    # that is where a proxy says why it opens no files.
    try:
        writer, reader, stderr = await open_session(connection)
    except (OSError, asyncssh.Error) as exc:
        raise _no_files(client, exc) from None
    start = _Start(reader)
    try:
        files = await start_client(connection, start, writer)
    except START_FAILURES as exc:
        if line := await start.first_line():
            raise _text_instead(client, line) from None
        stderr_text = await _stderr_text(stderr)
        raise _no_files(client, exc, stderr_text) from None
    read_by(files, BoundedReader(reader))  # what follows needs no copy
    return files


async def open_session(connection: asyncssh.SSHClientConnection) -> Session:
    """Open a channel with the ``sftp`` subsystem on it.

    Raises ``ConnectionLost`` if the connection ends meanwhile: asyncssh asserts there
    that it has not.
    """
    try:
        return await connection.open_session(
            subsystem="sftp", encoding=None, request_pty=False
        )
    except AssertionError as exc:
        raise asyncssh.ConnectionLost("the connection was lost") from exc


class _Start(asyncssh.SSHReader[bytes]):
    """Reads the start of an SFTP channel, and keeps it: it may be text instead."""

    def __init__(self, reader: asyncssh.SSHReader[bytes]) -> None:
        super().__init__(*parts_of_reader(reader))
        self._kept = b""

    async def readexactly(self, n: int) -> bytes:
        """Return ``n`` bytes; raise ``EOFError`` if there are fewer."""
        try:
            data = await super().readexactly(n)
        except asyncio.IncompleteReadError as exc:
            self._kept += exc.partial
            raise
        self._kept += data
        return data

    async def first_line(self) -> str:
        """Return the first line of what came, or nothing if it is no text.

        An SFTP packet begins with its length, and none has one of 16 MiB: its first
        byte is zero.
        """
        if not self._kept or self._kept[0] == 0:
            return ""
        with contextlib.suppress(TimeoutError, OSError, asyncssh.Error):
            async with asyncio.timeout(STDERR_WITHIN_S):
                await self._read_line()
        text = self._kept.split(b"\0")[0]  # which begins the first packet
        lines = text[:STDERR_BYTES].decode("utf-8", "replace").splitlines()
        return next((line.strip() for line in lines if line.strip()), "")

    async def _read_line(self) -> None:
        while not _LINE_ENDS.search(self._kept) and len(self._kept) < STDERR_BYTES:
            data = await self.read(STDERR_BYTES)
            if not data:
                return
            self._kept += data


def _text_instead(client: LoginClient, line: str) -> LoginError:
    """Return the error for a device that sends ``line`` instead of SFTP."""
    shown = repr(client.scrub(line)[:LONGEST_LINE])
    return channel_refusal(
        "the device printed text before SFTP started: let its shell's start-up files"
        " (.bashrc) or its wrapper print nothing without a terminal; the first line",
        [shown],
    )


async def _stderr_text(stderr: asyncssh.SSHReader[bytes]) -> str:
    try:
        async with asyncio.timeout(STDERR_WITHIN_S):
            text = await stderr.read(STDERR_BYTES)
    except (TimeoutError, OSError, asyncssh.Error):
        return ""
    return text.decode("utf-8", "replace")


def _no_files(client: LoginClient, exc: Exception, stderr_text: str = "") -> LoginError:
    said = (
        [*client.notices, stderr_text] if stderr_text else [*client.notices, str(exc)]
    )
    refusal = channel_refusal(
        "the proxy let us in, but opens no file session",
        [client.scrub(text) for text in said],
    )
    if client.is_cut and not stderr_text:
        text = f"the connection was lost before the file session: {client.loss}"
        return CutLoginError(text, refusal, is_unanswered=False)
    return refusal
