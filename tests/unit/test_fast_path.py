"""What the fast path leaves to asyncssh, and the attributes of an open.

Each test here fails without one line of ``transport`` that no other test needs: see
``tests/mutants.toml``. What a whole connection does is in ``tests/contracts``.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Callable
from typing import Any, cast

import asyncssh
import pytest
from asyncssh.connection import SSHConnection
from asyncssh.constants import (
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_WINDOW_ADJUST,
)

from pamfs.model import Attrs, Secret
from pamfs.transport.base import OpenMode, Responder
from pamfs.transport.bridge import TrioCalls
from pamfs.transport.sftp import opening, wire
from pamfs.transport.sftp.fast_path import Incoming, Outgoing
from pamfs.transport.sftp.file import SftpFile
from pamfs.transport.ssh import dial
from pamfs.transport.ssh.host_keys import HostKeyVerifier
from pamfs.transport.ssh.login import LoginClient, Plan
from tests.fakes.tenants import tenant

# -- the short way: what is not plainly data is asyncssh's ------------------------


class Channel:
    """As much of an open channel as is looked at."""

    def __init__(self, window: int, state: str = "open") -> None:
        self._recv_window = window
        self._recv_state = state


class Connection:
    """As much of a connection as is looked at; all that is done on it is done."""

    def __init__(self, **changes: object) -> None:
        self._channels: dict[int, Channel] = {}
        self._auth_complete = self._kex_complete = True
        self._compressor: object = None
        self._rekey_bytes_sent, self._rekey_bytes = 0, 1 << 30
        self._rekey_time = 0.0
        self.__dict__.update(changes)

    @property
    def itself(self) -> SSHConnection:
        return cast("SSHConnection", self)


def message(kind: int, size: int, data: bytes = b"", padding: int = 4) -> bytes:
    """Return a packet of channel 7 as it is when it was decrypted."""
    head = bytes([padding, kind]) + (7).to_bytes(4, "big") + size.to_bytes(4, "big")
    return head + data + bytes(padding)


def channel_of(plain: bytes, window: int = 10, state: str = "open") -> object:
    channel = Channel(window, state)
    incoming = Incoming(Connection(_channels={7: channel}).itself)
    incoming.channels.add(cast("Any", channel))
    found: object = incoming._channel_of(plain)
    return found


def test_data_that_the_window_allows_is_delivered() -> None:
    assert channel_of(message(MSG_CHANNEL_DATA, 10, bytes(10))) is not None
    assert channel_of(message(MSG_CHANNEL_WINDOW_ADJUST, 1 << 20)) is not None


@pytest.mark.parametrize(
    "plain",
    [
        message(MSG_CHANNEL_DATA, 11, bytes(11)),  # more than the window
        message(MSG_CHANNEL_DATA, 0),
        message(MSG_CHANNEL_DATA, 5, bytes(4)),
        message(MSG_CHANNEL_DATA, 5, bytes(6)),
        message(MSG_CHANNEL_WINDOW_ADJUST, 5, bytes(1)),
        message(MSG_CHANNEL_EOF, 5, bytes(5)),
        message(MSG_CHANNEL_DATA, 10, bytes(10))[:9],
    ],
)
def test_whatever_else_comes_is_left_to_asyncssh(plain: bytes) -> None:
    assert channel_of(plain) is None


def test_data_behind_the_end_of_a_channel_is_left_to_asyncssh() -> None:
    plain = message(MSG_CHANNEL_DATA, 10, bytes(10))
    assert channel_of(plain, state="eof") is None
    other = Incoming(Connection(_channels={7: Channel(10)}).itself)
    assert other._channel_of(plain) is None  # not one of ours


@pytest.mark.parametrize(
    "changes",
    [
        {"_auth_complete": False},
        {"_kex_complete": False},
        {"_compressor": object()},
        {"_rekey_bytes_sent": 1 << 30},
        {"_rekey_time": 1e-9},
    ],
)
def test_nothing_goes_the_short_way_when_asyncssh_has_to_act(
    changes: dict[str, object],
) -> None:
    later = time.monotonic() + 1000
    assert Outgoing(Connection(_rekey_time=later).itself)._may_use()
    assert Outgoing(Connection().itself)._may_use()
    assert not Outgoing(Connection(**changes).itself)._may_use()


# -- what the name tells of a file that was just opened ---------------------------

LINK = stat.S_IFLNK | 0o777
REGULAR = stat.S_IFREG | 0o644


class File:
    """An open file, empty; it counts who asks it."""

    looks = 0

    def saw(self, attrs: Attrs) -> Attrs:
        return attrs

    async def stat(self) -> Attrs:
        self.looks += 1
        return Attrs(REGULAR)


@pytest.mark.parametrize(
    ("mode", "told", "size", "looks"),
    [
        (OpenMode.READ, (REGULAR, 5), 5, 0),
        (OpenMode.READ, (LINK, 5), 0, 1),
        (OpenMode.WRITE | OpenMode.TRUNCATE, (REGULAR, 5), 0, 1),
        (OpenMode.WRITE | OpenMode.TRUNCATE, (REGULAR, 0), 0, 0),
        (OpenMode.WRITE | OpenMode.CREATE | OpenMode.EXCLUSIVE, (REGULAR, 5), 0, 1),
        (OpenMode.READ, None, 0, 1),
    ],
)
async def test_attributes_that_cannot_be_those_of_the_open_file_are_asked_for(
    mode: OpenMode, told: tuple[int, int] | None, size: int, looks: int
) -> None:
    file = File()
    seen = None
    if told is not None:
        seen = asyncssh.SFTPAttrs(permissions=told[0], size=told[1])
    attrs = await opening._attrs_of_opened(cast("SftpFile", file), mode, seen)
    assert (attrs.size, file.looks) == (size, looks)


# -- no message has a code in it ---------------------------------------------------

CODE = "123456"
NAME = f"alice%acme[root@web01{{ssh.22}}]{CODE}"


def client() -> LoginClient:
    plan = Plan(
        host="pam",
        port=22,
        user_name=Secret(NAME),
        methods=(),
        host_keys=HostKeyVerifier(tenant().proxy),
        keepalive_s=10,
        scrub=lambda text: text.replace(CODE, "***"),
        on_answered=lambda: None,
    )
    return LoginClient(plan, cast("Responder", None), cast("TrioCalls", None))


def begun() -> LoginClient:
    found = client()
    found.has_begun = True
    return found


def noticed() -> LoginClient:
    found = begun()
    found.notices.append(f"no such user {NAME}")
    return found


@pytest.mark.parametrize("make", [client, begun, noticed])
@pytest.mark.parametrize(
    "exc",
    [
        asyncssh.HostKeyNotVerifiable(f"of {NAME}"),
        asyncssh.PermissionDenied(f"for user {NAME}"),
        asyncssh.KeyExchangeFailed(f"with {NAME}"),
        asyncssh.ProtocolError(f"by {NAME}"),
        asyncssh.ConnectionLost(f"of {NAME}"),
        ValueError(f"bad name {NAME}"),
        OSError(NAME),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_what_ends_a_login_is_told_without_the_code(
    make: Callable[[], LoginClient], exc: Exception
) -> None:
    found = make()
    plan = found._plan
    assert CODE not in str(dial._explained(exc, plan, found))
    assert CODE not in str(wire._no_files(found, exc))
    assert CODE not in str(wire._no_files(found, exc, f"bye, {NAME}"))
    found.connection_lost(exc)
    assert "alice" in found.loss
    assert CODE not in found.loss
    found.password_change_requested(f"of {NAME}", "")
    assert CODE not in str(found.failure)
