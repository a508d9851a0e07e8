"""SFTP servers of a few lines that answer listings, each odd in one named way.

They speak the protocol byte by byte, for what asyncssh's own server cannot be made
to send. They know one folder, ``/``, and what is in it; attributes are bytes as the
draft has them (draft-ietf-secsh-filexfer-02 section 5).
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncssh
from asyncssh import constants
from asyncssh.packet import SSHPacket, String, UInt32, UInt64

from tests.contracts.implementations import Sftp, sftp_over_asyncssh

NO_ATTRS: Final = UInt32(0)


def status(code: int) -> tuple[int, bytes]:
    return constants.FXP_STATUS, UInt32(code) + String("") + String("")


EOF: Final = status(constants.FX_EOF)
FAILURE: Final = status(constants.FX_FAILURE)
NOT_THERE: Final = status(constants.FX_NO_SUCH_FILE)


def attrs(mode: int | None = None, size: int | None = None) -> bytes:
    """Return an attribute record with just what is given."""
    flags, rest = 0, b""
    if size is not None:
        flags, rest = constants.FILEXFER_ATTR_SIZE, UInt64(size)
    if mode is not None:
        flags, rest = flags | constants.FILEXFER_ATTR_PERMISSIONS, rest + UInt32(mode)
    return UInt32(flags) + rest


FILE: Final = attrs(stat.S_IFREG | 0o640, 5)
FOLDER: Final = attrs(stat.S_IFDIR | 0o750, 4096)
LINK: Final = attrs(stat.S_IFLNK | 0o777, 3)


@dataclass
class Shown:
    """One entry: what READDIR says of it, and what LSTAT does."""

    name: bytes
    listed: bytes
    looked_at: bytes | None = None
    longname: bytes = b""


@dataclass
class Names:
    """A server with a handle, some entries and an end; ``asked`` counts requests."""

    entries: Sequence[Shown] = ()
    asked: Counter[int] = field(default_factory=Counter)

    def answer(self, kind: int, body: SSHPacket) -> tuple[int, bytes]:
        """Return the kind and body of the answer to one request."""
        self.asked[kind] += 1
        match kind:
            case constants.FXP_OPENDIR:
                return self.opendir(body.get_string())
            case constants.FXP_READDIR:
                return self.readdir(self.asked[kind])
            case constants.FXP_LSTAT:
                return self.lstat(body.get_string())
            case constants.FXP_OPEN:
                return self.open(body.get_string())
            case constants.FXP_CLOSE:
                return status(constants.FX_OK)
            case _:
                return status(constants.FX_OP_UNSUPPORTED)

    def opendir(self, path: bytes) -> tuple[int, bytes]:
        if path == b"/":
            return constants.FXP_HANDLE, String(b"h")
        is_folder = stat.S_ISDIR(self.mode_of(path))
        return (constants.FXP_HANDLE, String(b"h")) if is_folder else FAILURE

    def open(self, path: bytes) -> tuple[int, bytes]:
        is_file = not stat.S_ISDIR(self.mode_of(path))
        return (constants.FXP_HANDLE, String(b"f")) if is_file else FAILURE

    def mode_of(self, path: bytes) -> int:
        """Return what the entry really is: what its longname begins with."""
        for entry in self.entries:
            if path == b"/" + entry.name and entry.longname.startswith(b"d"):
                return stat.S_IFDIR
        return stat.S_IFREG

    def readdir(self, number: int) -> tuple[int, bytes]:
        """Return the answer to the ``number``-th READDIR, from 1."""
        return self.names(self.entries) if number == 1 else EOF

    def names(self, entries: Sequence[Shown]) -> tuple[int, bytes]:
        body = b"".join(
            String(entry.name) + String(entry.longname) + entry.listed
            for entry in entries
        )
        return constants.FXP_NAME, UInt32(len(entries)) + body

    def lstat(self, path: bytes) -> tuple[int, bytes]:
        if path == b"/":
            return constants.FXP_ATTRS, FOLDER
        for entry in self.entries:
            if path == b"/" + entry.name and entry.looked_at is not None:
                return constants.FXP_ATTRS, entry.looked_at
        return NOT_THERE


class Session(asyncssh.SSHServerSession[bytes]):
    """The SFTP channel of one client of ``server``."""

    def __init__(self, server: Names) -> None:
        self._server = server
        self._data = b""

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "sftp"

    def data_received(self, data: bytes, datatype: int | None) -> None:
        del datatype
        self._data += data
        while len(self._data) >= 4 + int.from_bytes(self._data[:4], "big") > 4:
            size = int.from_bytes(self._data[:4], "big")
            packet, self._data = self._data[4 : 4 + size], self._data[4 + size :]
            self._serve(SSHPacket(packet))

    def _serve(self, packet: SSHPacket) -> None:
        kind, number = packet.get_byte(), packet.get_uint32()
        if kind == constants.FXP_INIT:
            self._send(constants.FXP_VERSION, UInt32(3))
        else:
            found, body = self._server.answer(kind, packet)
            self._send(found, UInt32(number) + body)

    def _send(self, kind: int, body: bytes) -> None:
        self._channel.write(UInt32(len(body) + 1) + bytes([kind]) + body)


class FailsAfterTheEnd(Names):
    """Answers with an error, and knows the handle no more, once the end was told."""

    def readdir(self, number: int) -> tuple[int, bytes]:
        if number <= len(self.entries):
            return self.names([self.entries[number - 1]])
        return EOF if number == len(self.entries) + 1 else FAILURE


class BeginsAgainAfterTheEnd(Names):
    """Lists everything a second time behind its end."""

    def readdir(self, number: int) -> tuple[int, bytes]:
        if number == 1:
            return EOF
        return self.names(self.entries)


class EndsWithNoNames(Names):
    """Says the end of a listing with a NAME of no entries, for ever (ssh2)."""

    def readdir(self, number: int) -> tuple[int, bytes]:
        return self.names(self.entries if number == 1 else ())


class FailsInTheMiddle(Names):
    """Answers with an error before the end."""

    def readdir(self, number: int) -> tuple[int, bytes]:
        return super().readdir(number) if number == 1 else FAILURE


class HasNoHandle(Names):
    """Refuses to open anything, as with all handles in use."""

    def opendir(self, path: bytes) -> tuple[int, bytes]:
        del path
        return FAILURE

    def open(self, path: bytes) -> tuple[int, bytes]:
        del path
        return FAILURE


@contextmanager
def serving(server: Names, folder: Path) -> Iterator[Sftp]:
    """Yield connections to ``server``."""
    with sftp_over_asyncssh(folder, session=lambda: Session(server)) as sftp:
        yield sftp
