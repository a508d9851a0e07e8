"""Looks at the host key that a proxy shows, and goes: no user name, no secret.

It is what ``ssh-keyscan`` does, with the key exchange finished: whoever shows the
key has its private half.
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

# The pool has a deadline of its own.
_NO_LIMIT: Final = 0


class _Onlooker(asyncssh.SSHClient):
    """Sees the key, and accepts none: nothing follows."""

    def __init__(self) -> None:
        self.shown: ShownKey | None = None
        self.connection: asyncssh.SSHClientConnection | None = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        """Keep the connection: it knows what the server offers."""
        self.connection = conn

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        """Keep the key."""
        del host, port
        self.shown = ShownKey(addr, key)
        return False


async def look(host: str, port: int, old: Collection[OldAlgorithm] = ()) -> ShownKey:
    """Return the host key of the proxy; raise ``UnreachableError`` if it shows none."""
    onlooker = _Onlooker()
    try:
        connection = await asyncssh.connect(
            host,
            port,
            client_factory=lambda: onlooker,
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
        connection.abort()  # which cannot be: no key is accepted
    except OSError as exc:
        why = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else str(exc)
    except (asyncssh.Error, ValueError) as exc:
        why = tidy([str(exc)])
    else:
        why = "it shows no host key"
    if onlooker.shown is None:
        missing = missing_old(onlooker.connection)
        raise UnreachableError(f"{host}:{port}: {missing or why}")
    return onlooker.shown
