"""Dials a proxy by asyncssh: one SSH connection with one SFTP channel, or an error.

Law: each failure leaves as a ``LoginError`` whose text went through
``Plan.scrub``: asyncssh puts the user name, and so the code, into its messages.
A cancelled dial leaves no connection behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from typing import Final

import asyncssh

from pamfs.errors import HostKeyError, LoginError, UnreachableError
from pamfs.transport.announced import SFTP_VERSION, start_client
from pamfs.transport.ssh.algorithms import missing_old, offered
from pamfs.transport.ssh.asyncssh_compat import (
    ShortWay,
    can_start_sftp,
    parts_of_reader,
    read_by,
)
from pamfs.transport.ssh.login import Dialed, LoginClient, Plan
from pamfs.transport.ssh.refusals import channel_refusal, login_refusal, tidy

# PEERS.md E.3: 157 -> 505 MB/s locally, 19 -> 140 MB/s at 50 ms.
WINDOW_BYTES: Final = 16 << 20
PACKET_BYTES: Final = 131072
KEEPALIVE_COUNT: Final = 3
LAST_WORDS_WITHIN_S: Final = 1.0
LAST_WORDS_BYTES: Final = 4096
_LINE_ENDS: Final = re.compile(rb"\S[^\n\0]*[\n\0]")
# Of a line that stands where SFTP should.
LONGEST_LINE: Final = 200


def hush() -> None:
    """Keep asyncssh from writing user names, and so codes, to the log at INFO."""
    asyncssh.set_log_level(logging.WARNING)


async def dial(plan: Plan, client: LoginClient) -> Dialed:
    """Return an open connection with its file channel; raise ``LoginError``."""
    try:
        connection = await _connect(plan, client)
    except (OSError, asyncssh.Error, ValueError) as exc:
        raise _explained(exc, plan, client) from None
    finally:
        client.end_login()
    try:
        lane = ShortWay(connection)
        files = await _open_files(connection, lane, plan, client)
    except BaseException:
        connection.abort()
        raise
    return Dialed(
        connection,
        files,
        client,
        lambda: _open_files(connection, lane, plan, client),
    )


async def _connect(plan: Plan, client: LoginClient) -> asyncssh.SSHClientConnection:
    return await asyncssh.connect(
        plan.host,
        plan.port,
        client_factory=lambda: client,
        username=plan.user_name.reveal(),
        known_hosts=plan.host_keys.match,
        preferred_auth=list(plan.methods),
        # The pool has a deadline of its own, which stands still for a person.
        login_timeout=0,
        keepalive_interval=plan.keepalive_s,
        keepalive_count_max=KEEPALIVE_COUNT,
        **offered(plan.old_algorithms, any_key=plan.host_keys.is_pinned),
        compression_algs=["none"],
        window=WINDOW_BYTES,
        max_pktsize=PACKET_BYTES,
        # Whatever lies in ~/.ssh, the agent and Kerberos is none of this login's.
        config=None,
        client_keys=None,
        agent_path=None,
        gss_host=None,
        host_based_auth=False,
        x509_trusted_certs=None,
        x509_trusted_cert_paths=[],
    )


async def _open_files(
    connection: asyncssh.SSHClientConnection,
    lane: ShortWay,
    plan: Plan,
    client: LoginClient,
) -> asyncssh.SFTPClient:
    if can_start_sftp():
        files = await _start_files(connection, plan, client)
    else:
        try:
            files = await connection.start_sftp_client(
                path_encoding=None, sftp_version=SFTP_VERSION
            )
        except (OSError, EOFError, asyncssh.Error) as exc:
            raise _no_files(plan, client, exc) from None
    lane.add(files)
    return files


async def _start_files(
    connection: asyncssh.SSHClientConnection, plan: Plan, client: LoginClient
) -> asyncssh.SFTPClient:
    # As asyncssh's start_sftp_client does, but with the channel's stderr kept:
    # that is where a proxy says why it opens no files.
    try:
        writer, reader, stderr = await connection.open_session(
            subsystem="sftp", encoding=None, request_pty=False
        )
    except (OSError, asyncssh.Error) as exc:
        raise _no_files(plan, client, exc) from None
    start = _Start(reader)
    try:
        files = await start_client(connection, start, writer)
    except (OSError, EOFError, asyncssh.Error) as exc:
        if line := await start.first_line():
            raise _text_instead(plan, line) from None
        last_words = await _last_words(stderr)
        raise _no_files(plan, client, exc, last_words) from None
    read_by(files, reader)  # what follows needs no copy
    return files


class _Start(asyncssh.SSHReader[bytes]):
    """Reads the start of a file session, and keeps it in case that it is text."""

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
            async with asyncio.timeout(LAST_WORDS_WITHIN_S):
                await self._read_line()
        text = self._kept.split(b"\0")[0]  # which begins the first packet
        lines = text[:LAST_WORDS_BYTES].decode("utf-8", "replace").splitlines()
        return next((line.strip() for line in lines if line.strip()), "")

    async def _read_line(self) -> None:
        while not _LINE_ENDS.search(self._kept) and len(self._kept) < LAST_WORDS_BYTES:
            data = await self.read(LAST_WORDS_BYTES)
            if not data:
                return
            self._kept += data


def _text_instead(plan: Plan, line: str) -> LoginError:
    """Return the error for a device that sends ``line`` instead of SFTP."""
    shown = repr(plan.scrub(line)[:LONGEST_LINE])
    return channel_refusal(
        "the device printed text before SFTP started: let its shell's start-up files"
        " (.bashrc) or its wrapper print nothing without a terminal; the first line",
        [shown],
    )


async def _last_words(stderr: asyncssh.SSHReader[bytes]) -> str:
    try:
        async with asyncio.timeout(LAST_WORDS_WITHIN_S):
            text = await stderr.read(LAST_WORDS_BYTES)
    except (TimeoutError, OSError, asyncssh.Error):
        return ""
    return text.decode("utf-8", "replace")


def _no_files(
    plan: Plan, client: LoginClient, exc: Exception, last_words: str = ""
) -> LoginError:
    said = [*client.notices, last_words] if last_words else [*client.notices, str(exc)]
    return channel_refusal(
        "the proxy let us in, but opens no file session",
        [plan.scrub(text) for text in said],
    )


def _explained(exc: Exception, plan: Plan, client: LoginClient) -> LoginError:
    """Return what it means that ``exc`` ended the login."""
    where = f"{plan.host}:{plan.port}"
    if (known := plan.host_keys.error or client.failure) is not None:
        return known
    if not client.has_begun and (missing := missing_old(client.connection)):
        return UnreachableError(f"{where}: {missing}")
    text = tidy([plan.scrub(str(exc))])  # scrubbed while it is whole
    match exc:
        case asyncssh.HostKeyNotVerifiable():
            return HostKeyError(f"{where}: {text}")
        case asyncssh.PermissionDenied():
            said = [plan.scrub(notice) for notice in client.notices]
            return login_refusal(f"{where} refused the login", said)
        case asyncssh.KeyExchangeFailed() | asyncssh.ProtocolNotSupported():
            return UnreachableError(f"{where}: {text}")
        case asyncssh.DisconnectError() if client.has_begun:
            said = [plan.scrub(notice) for notice in client.notices]
            return login_refusal(f"{where} ended the login", [*said, text])
        case OSError(errno=int(code)) if code > 0:
            # asyncio's own text names the address and hides what happened.
            return UnreachableError(f"{where}: {os.strerror(code)}")
        case _:
            return UnreachableError(f"{where}: {text}")
