"""Dials a proxy: one SSH connection with one file channel, or a ``LoginError``.

The wire says what kind of file channel (``OpenChannels``). ``scan`` only reads the host
key, as ``ssh-keyscan`` does.

Laws:

* The text of each error goes through ``Plan.scrub``: asyncssh puts the user name into
  its messages, and a user name can contain a one-time code.
* A dial that fails or is cancelled leaves no connection behind.
* ``scan`` sends no user name and no secret. Unlike ``ssh-keyscan`` it finishes the key
  exchange: the server has proved that it has the private half of the key it showed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from typing import Final, TypeVar

import asyncssh

from pamfs.config import OldAlgorithm
from pamfs.descriptors import hidden_shortage
from pamfs.errors import CutLoginError, HostKeyError, LoginError, UnreachableError
from pamfs.transport.bridge import Make
from pamfs.transport.ssh.algorithms import missing_old, offered
from pamfs.transport.ssh.host_keys import ShownKey
from pamfs.transport.ssh.login import (
    LINE_FAILURES,
    Channel,
    Dialed,
    LoginClient,
    Plan,
)
from pamfs.transport.ssh.refusals import login_refusal, tidy

C = TypeVar("C", bound=Channel)

# Returns a function that opens one more file channel of the connection on each call.
OpenChannels = Callable[[asyncssh.SSHClientConnection, LoginClient], Make[C]]

# docs/facts/peers.md: 157 -> 505 MB/s locally, 19 -> 140 MB/s at a round trip of 50 ms.
WINDOW_BYTES: Final = 16 << 20
PACKET_BYTES: Final = 131072
# With the default of 10 s a silent connection is lost after 30 s.
KEEPALIVE_COUNT: Final = 2


def hush() -> None:
    """Silence asyncssh below WARNING: it logs user names, which can contain codes."""
    asyncssh.set_log_level(logging.WARNING)


async def dial(
    plan: Plan, client: LoginClient, open_channels: OpenChannels[C]
) -> Dialed[C]:
    """Return an open connection with a file channel; raise ``LoginError``."""
    try:
        connection = await _connect(plan, client)
    except (OSError, asyncssh.Error, ValueError) as exc:
        raise _explained(exc, plan, client) from None
    finally:
        client.end_login()
    try:
        open_channel = open_channels(connection, client)
        files = await open_channel()
    except BaseException:
        connection.abort()
        raise
    return Dialed(connection, files, client, open_channel)


async def _connect(plan: Plan, client: LoginClient) -> asyncssh.SSHClientConnection:
    return await asyncssh.connect(
        plan.host,
        plan.port,
        client_factory=lambda: client,
        username=plan.user_name.reveal(),
        known_hosts=plan.host_keys.match,
        preferred_auth=list(plan.methods),
        # The attempt has a deadline (``Attempt.deadline``), which is paused while a
        # person is asked.
        login_timeout=0,
        keepalive_interval=plan.keepalive_s,
        keepalive_count_max=KEEPALIVE_COUNT,
        **offered(plan.old_algorithms, any_key=plan.host_keys.is_pinned),
        compression_algs=["none"],
        window=WINDOW_BYTES,
        max_pktsize=PACKET_BYTES,
        # Nothing of ~/.ssh, of an agent or of Kerberos is used unless configured.
        config=None,
        client_keys=None,
        agent_path=None,
        gss_host=None,
        host_based_auth=False,
        x509_trusted_certs=None,
        x509_trusted_cert_paths=[],
    )


def _explained(exc: Exception, plan: Plan, client: LoginClient) -> LoginError:
    """Return the error for a login that ended with ``exc``."""
    where = f"{plan.host}:{plan.port}"
    if (known := plan.host_keys.error or client.failure) is not None:
        return known
    if not client.has_begun and (missing := missing_old(client.connection)):
        return UnreachableError(f"{where}: {missing}")
    text = tidy([plan.scrub(str(exc))])  # scrub before it is cut
    if client.has_begun:
        return _in_login(exc, f"{where}: {text}", plan, client)
    match exc:
        case asyncssh.HostKeyNotVerifiable():
            return HostKeyError(f"{where}: {text}")
        case OSError() | ValueError():
            return hidden_shortage(exc) or UnreachableError(
                f"{where}: {_why(exc, text)}"
            )
        case _:
            return UnreachableError(f"{where}: {text}")


def _why(exc: Exception, text: str) -> str:
    """Return the reason: asyncio's text of an ``OSError`` has the address instead."""
    code = exc.errno if isinstance(exc, OSError) else None
    return os.strerror(code) if code and code > 0 else text


def _in_login(exc: Exception, text: str, plan: Plan, client: LoginClient) -> LoginError:
    """Return the error for a login that ended once the proxy's key was accepted."""
    said = [plan.scrub(notice) for notice in client.notices]
    where = f"{plan.host}:{plan.port}"
    reason = tidy([plan.scrub(str(exc))])
    match exc:
        case asyncssh.PermissionDenied():
            return login_refusal(f"{where} refused the login", said)
        case asyncssh.KeyExchangeFailed() | asyncssh.ProtocolNotSupported():
            return UnreachableError(text)
        case ValueError():
            return hidden_shortage(exc) or UnreachableError(text)
        case _:
            pass
    refusal = login_refusal(f"{where} ended the login", [*said, reason])
    if not isinstance(exc, LINE_FAILURES):
        return refusal
    if client.is_unanswered:
        return CutLoginError(text, refusal, is_unanswered=True)
    return UnreachableError(text)


# The attempt that calls this has a deadline.
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
    except (OSError, ValueError) as exc:
        if shortage := hidden_shortage(exc):
            raise shortage from None
        why = _why(exc, tidy([str(exc)]))
    except asyncssh.Error as exc:
        why = tidy([str(exc)])
    else:
        why = "it shows no host key"
    if client.shown is None:
        missing = missing_old(client.connection)
        raise UnreachableError(f"{host}:{port}: {missing or why}")
    return client.shown
