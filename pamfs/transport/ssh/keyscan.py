"""Reads the host key of a proxy without a login, as ``ssh-keyscan`` does.

No user name and no secret is sent. Unlike ``ssh-keyscan`` the key exchange is finished,
so the server has proved that it holds the private half of the key that it showed.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Final

import asyncssh

from pamfs.config import OldAlgorithm
from pamfs.errors import UnreachableError
from pamfs.transport.ssh.algorithms import missing_old, offered
from pamfs.transport.ssh.host_keys import ShownKey
from pamfs.transport.ssh.refusals import tidy

# The caller (the pool) has a deadline.
_NO_LIMIT: Final = 0


class _ScanClient(asyncssh.SSHClient):
    """Keeps the key and rejects it, which ends the connection."""

    def __init__(self) -> None:
        self.shown: ShownKey | None = None
        self.connection: asyncssh.SSHClientConnection | None = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """Keep the connection: it knows the server's algorithms."""
        self.connection = conn

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        """Keep the key, and reject it."""
        del host, port
        self.shown = ShownKey(addr, key)
        return False


async def scan(host: str, port: int, old: Collection[OldAlgorithm] = ()) -> ShownKey:
    """Return the host key of the proxy; raise ``UnreachableError`` if it shows none."""
    client = _ScanClient()
    try:
        connection = await asyncssh.connect(
            host,
            port,
            client_factory=lambda: client,
            username="",
            known_hosts=asyncssh.SSHKnownHosts(),
            preferred_auth="none",
            login_timeout=_NO_LIMIT,
            **offered(old, any_key=True),
            config=None,
            client_keys=None,
            agent_path=None,
            gss_host=None,
            x509_trusted_certs=None,
            x509_trusted_cert_paths=[],
        )
        connection.abort()  # not reached: the client rejects every key
    except OSError as exc:
        why = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else str(exc)
    except (asyncssh.Error, ValueError) as exc:
        why = tidy([str(exc)])
    else:
        why = "it shows no host key"
    if client.shown is None:
        missing = missing_old(client.connection)
        raise UnreachableError(f"{host}:{port}: {missing or why}")
    return client.shown
