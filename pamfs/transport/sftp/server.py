"""What one server can do: the extensions it announces, and the requests that work.

The whole list of extensions in the VERSION packet is kept, in the server's order;
asyncssh's client shows only the extensions that it knows. The order tells OpenSSH from
servers that announce some of its extensions. Behind a proxy the SSH banner is the
proxy's; the VERSION packet is the device's.

Some SFTP servers lack requests, and refuse them with different codes: OpenSSH's ``-P``
answers PERMISSION_DENIED, others OP_UNSUPPORTED or a bare FAILURE. If a request has an
equivalent, that is tried; if it works, it replaces the request (``Learned``).

Law: a request that worked once in a session exists, so a later refusal means what it
says. A refused request is given up only after its equivalent has worked.
"""

from __future__ import annotations

import errno
from typing import Final
from weakref import WeakKeyDictionary

import asyncssh
from asyncssh.packet import PacketDecodeError, SSHPacket

from pamfs.config import Quirk
from pamfs.transport.sftp.handles import handles_of
from pamfs.transport.ssh.asyncssh_compat import (
    handler_of,
    parts_of_reader,
    read_by,
    start_sftp,
)

# OpenSSH and every PAM proxy that is known speak version 3 (facts/peers.md#asyncssh).
SFTP_VERSION: Final = 3

Extensions = tuple[tuple[bytes, bytes], ...]

# OpenSSH's sftp-server announces this list in this order (sftp-server.c,
# process_init). It cannot be taken for another server's: asyncssh begins with
# "newline" and "vendor-id", pkg/sftp (rclone, sftpgo, KoKo) announces three to five of
# them, ProFTPD, MINA, libssh and paramiko other names or another order, and none has
# expand-path@openssh.com. Older lists, without expand-path, are short enough to be
# copied by accident, and are not accepted. With ``sftp-server -P`` a refused request is
# not announced, so the list does not match and only one channel is used.
_SINCE_8_7: Final[Extensions] = (
    (b"posix-rename@openssh.com", b"1"),
    (b"statvfs@openssh.com", b"2"),
    (b"fstatvfs@openssh.com", b"2"),
    (b"hardlink@openssh.com", b"1"),
    (b"fsync@openssh.com", b"1"),
    (b"lsetstat@openssh.com", b"1"),
    (b"limits@openssh.com", b"1"),
    (b"expand-path@openssh.com", b"1"),
)
_SINCE_9_0: Final[Extensions] = (*_SINCE_8_7, (b"copy-data", b"1"))
_SINCE_9_1: Final[Extensions] = (
    *_SINCE_9_0,
    (b"home-directory", b"1"),
    (b"users-groups-by-id@openssh.com", b"1"),
)
_OPENSSH: Final = frozenset({_SINCE_8_7, _SINCE_9_0, _SINCE_9_1})

# The limit of asyncssh 2.24: its longest write, 4 MiB, and what surrounds it.
LARGEST_PACKET_BYTES: Final = 4 * 1024 * 1024 + 1024

_announced: WeakKeyDictionary[asyncssh.SFTPClient, Extensions] = WeakKeyDictionary()


class _FirstPacket:
    """Reads for asyncssh, and keeps the first packet: length, then content."""

    def __init__(self, reader: asyncssh.SSHReader[bytes]) -> None:
        self._reader = reader
        self._read = reader.readexactly
        self.content = b""
        self._reads = 0
        # In this one object, and until the packet is there.
        reader.__dict__["readexactly"] = self.readexactly

    async def readexactly(self, count: int) -> bytes:
        """As asyncssh's own."""
        self.content = await self._read(count)
        self._reads += 1
        if self._reads == 2:  # noqa: PLR2004 - length and content
            del self._reader.__dict__["readexactly"]
        return self.content


class BoundedReader(asyncssh.SSHReader[bytes]):
    """Reads the packets of a channel, none larger than ``LARGEST_PACKET_BYTES``.

    asyncssh has such a limit since 2.24 only; without one a packet that says it has a
    gigabyte is waited for, and kept.
    """

    def __init__(self, reader: asyncssh.SSHReader[bytes]) -> None:
        """Read by ``reader``."""
        super().__init__(*parts_of_reader(reader))
        self._read = reader.readexactly

    async def readexactly(self, n: int) -> bytes:
        """As asyncssh's own; raise ``SFTPBadMessage`` for too many bytes."""
        if n > LARGEST_PACKET_BYTES:
            raise asyncssh.SFTPBadMessage("Max packet size exceeded")
        return await self._read(n)


async def start_client(
    connection: asyncssh.SSHClientConnection,
    reader: asyncssh.SSHReader[bytes],
    writer: asyncssh.SSHWriter[bytes],
) -> asyncssh.SFTPClient:
    """Start SFTP as asyncssh's ``start_sftp_client`` does, on an open channel.

    If the server is not OpenSSH, the test for duplicate handles starts at once.
    """
    first = _FirstPacket(reader)
    client = await start_sftp(connection, reader, writer, SFTP_VERSION)
    read_by(client, BoundedReader(reader))
    _announced[client] = _extensions_in(first.content)
    if not is_openssh(client):
        handler = handler_of(client)
        handles_of(handler).begin_trial(handler)
    return client


def _extensions_in(version: bytes) -> Extensions:
    packet = SSHPacket(version)
    found: list[tuple[bytes, bytes]] = []
    try:
        packet.get_byte()
        packet.get_uint32()
        while packet:
            found.append((packet.get_string(), packet.get_string()))
    except PacketDecodeError:
        return ()
    return tuple(found)


def extensions_of(client: asyncssh.SFTPClient) -> Extensions:
    """Return what the server announced, in its order; nothing if it was not seen."""
    return _announced.get(client, ())


def announces(client: asyncssh.SFTPClient, extension: str, *, unknown: bool) -> bool:
    """Whether the server announced OpenSSH's ``extension``; ``unknown`` if not seen."""
    announced = extensions_of(client)
    wanted = f"{extension}@openssh.com".encode()
    return any(name == wanted for name, _ in announced) if announced else unknown


def keeps_shared_writes(client: asyncssh.SFTPClient, quirks: frozenset[Quirk]) -> bool:
    """Whether a second open for writing is known to keep what a file holds."""
    return Quirk.SHARED_WRITES in quirks or is_openssh(client)


def is_openssh(client: asyncssh.SFTPClient) -> bool:
    """Whether the server announces just what OpenSSH's does."""
    return extensions_of(client) in _OPENSSH


# What a server may say of a request that it does not have.
_AMBIGUOUS: Final = frozenset({errno.EIO, errno.EACCES, errno.EINVAL})


class Learned:
    """Which requests work in this session, and which do not."""

    def __init__(self) -> None:
        self._works: set[str] = set()
        self._missing: set[str] = set()
        self._told: set[str] = set()

    def may_ask(self, request: str) -> bool:
        """Whether ``request`` may be sent: it is not known to be missing."""
        return request not in self._missing

    def note_works(self, request: str) -> None:
        """Note that the server has done ``request``."""
        self._works.add(request)

    def has_worked(self, request: str) -> bool:
        """Whether the server has done ``request`` in this session."""
        return request in self._works

    def may_be_missing(self, request: str, code: int) -> bool:
        """Whether a refusal with ``code`` may mean that there is no such request."""
        if code == errno.EOPNOTSUPP:
            return True
        return code in _AMBIGUOUS and request not in self._works

    def note_missing(self, request: str) -> None:
        """Note that ``request`` was refused and its equivalent worked.

        Do not send it again.
        """
        if request not in self._works:
            self._missing.add(request)

    def first_time(self, what: str) -> bool:
        """Return True the first time it is called with ``what``."""
        is_first = what not in self._told
        self._told.add(what)
        return is_first
