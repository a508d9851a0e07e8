"""Whether this asyncssh is one that the short way for file data is made for.

Law: nothing is replaced in an asyncssh that lacks one of the private names, or whose
version nobody has tried. Its own way then serves, slower, and the log says so once.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Final

import asyncssh

if TYPE_CHECKING:
    from asyncssh.connection import SSHConnection

    from pamfs.transport.lane import Lane

log = logging.getLogger(__name__)

# The first version that the contract over OpenSSH was run with, and the one after
# the last. A private name may stay and mean something else.
TRIED: Final = ((2, 21), (2, 25))

# Whatever ``lane`` and ``framing`` take from asyncssh's objects, by object.
NAMES: Final[Mapping[str, Iterable[str]]] = {
    "connection": (
        "_auth_complete",
        "_channels",
        "_compressor",
        "_decompressor",
        "_inpbuf",
        "_kex_complete",
        "_packet",
        "_recv_encryption",
        "_recv_handler",
        "_recv_packet",
        "_recv_pkthdr",
        "_recv_seq",
        "_rekey_bytes",
        "_rekey_bytes_sent",
        "_rekey_time",
        "_reset_keepalive_timer",
        "_send_blocksize",
        "_send_encryption",
        "_send_seq",
        "_transport",
    ),
    "cipher": ("_iv", "_key", "_update_iv"),
    "client": ("_handler",),
    "handler": ("_requests", "_writer", "send_packet"),
    "channel": (
        "_accept_data",
        "_flush_send_buf",
        "_recv_state",
        "_recv_window",
        "_send_chan",
        "_send_pktsize",
        "_send_window",
        "_session",
    ),
    "session": ("data_received",),
}


class ShortWay:
    """The short way over one connection, or asyncssh's own if that is a stranger."""

    def __init__(self, connection: SSHConnection) -> None:
        self._lane: Lane | None = None
        lane = _module()
        if lane is not None and _is_known(_parts_of(connection)):
            self._lane = lane.Lane(connection)

    def add(self, client: asyncssh.SFTPClient) -> None:
        """Let the packets of ``client`` go the short way from now on."""
        if self._lane is not None and _is_known(_parts_of_client(client)):
            self._lane.add(client)


@cache
def _module() -> ModuleType | None:
    version = asyncssh.__version__
    if not is_tried(version):
        _say(f"version {version} has not been tried")
        return None
    try:
        return importlib.import_module("pamfs.transport.lane")
    except ImportError as exc:
        _say(str(exc))
        return None


def is_tried(version: str) -> bool:
    """Whether ``version`` of asyncssh is one that the short way was tried with."""
    parts = version.split(".")[:2]
    if not all(part.isdecimal() for part in parts):
        return False
    return TRIED[0] <= tuple(map(int, parts)) < TRIED[1]


def _parts_of(connection: object) -> Iterator[tuple[str, object]]:
    yield "connection", connection
    for name in ("_recv_encryption", "_send_encryption"):
        # Another cipher than AES-GCM has none of this, and no short way either.
        cipher = getattr(getattr(connection, name, None), "_cipher", None)
        if type(cipher).__name__ == "GCMCipher":
            yield "cipher", cipher


def _parts_of_client(client: object) -> Iterator[tuple[str, object]]:
    yield "client", client
    handler = getattr(client, "_handler", None)
    yield "handler", handler
    writer = getattr(handler, "_writer", None)
    if writer is not None:  # otherwise it is closed already
        yield "channel", writer.channel
        yield "session", getattr(writer.channel, "_session", None)


def _is_known(parts: Iterable[tuple[str, object]]) -> bool:
    for kind, part in parts:
        missing = [name for name in NAMES[kind] if not hasattr(part, name)]
        if missing:
            _say(f"its {kind} has no {missing[0]}")
            return False
    return True


@cache
def _say(why: str) -> None:
    """Log why there is no short way, once for each reason."""
    log.info("file data goes asyncssh's own way, which is slower: %s", why)
