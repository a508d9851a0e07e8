"""Every name of asyncssh that pamfs uses and asyncssh does not document.

asyncssh promises what its package exports. pamfs also needs its request layer (one
request without a task, several on their way) and, for the fast path of file data, the
insides of a connection. A minor release of asyncssh may rename any of these, so all
are declared here, in three groups, and looked for when the mount starts, before any
login and without a connection:

* ``FAST_PATH``: without one of them, or with a version outside ``TRIED``, file data
  goes through asyncssh's own code, which is slower;
* ``REPLACEABLE``: without one of them pamfs does the same in a plainer way;
* ``ESSENTIAL``: without one of them pamfs cannot work; ``check`` raises
  ``LibraryError``, and ``pamfs mount`` prints it and ends.

Law: outside this module private attributes are used only in ``HOT_FILES``, where a call
for each access would cost time with each packet, and in ``algorithms.missing_old``,
which reads them by ``getattr`` with a default. A test reads the sources: every private
attribute, and every import from a module of asyncssh, is declared here.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Final

import asyncssh

from pamfs.private_names import LibraryError, Names, is_within, missing

if TYPE_CHECKING:
    from asyncssh.channel import SSHChannel
    from asyncssh.connection import SSHConnection
    from asyncssh.sftp import SFTPClientHandler
    from asyncssh.stream import SSHStreamSession

log = logging.getLogger(__name__)

# The first version that the contracts over OpenSSH were run with, and the one after
# the last. A private name may stay and mean something else.
TRIED: Final = ((2, 21), (2, 25))
WORKING: Final = "asyncssh>=2.21,<2.25"

# SFTP errors that are not a status of the server: a broken protocol or a lost
# connection.
_NO_REFUSALS: Final = (
    asyncssh.SFTPBadMessage,
    asyncssh.SFTPConnectionLost,
    asyncssh.SFTPNoConnection,
)

HOT_FILES: Final = ("fast_path.py", "packets.py")

FAST_PATH: Final = (
    Names(
        "asyncssh.connection:SSHClientConnection",
        (
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
    ),
    Names(
        "asyncssh.channel:SSHChannel",
        (
            "_accept_data",
            "_flush_send_buf",
            "_recv_state",
            "_recv_window",
            "_send_chan",
            "_send_pktsize",
            "_send_window",
            "_session",
            "send_packet",
        ),
    ),
    Names("asyncssh.connection", ("SSHConnection",)),
    Names("asyncssh.crypto:GCMCipher", ("_iv", "_key", "_update_iv")),
    Names("asyncssh.encryption", ("Encryption",)),
    Names("asyncssh.encryption:GCMEncryption", ("_cipher",)),
    Names("asyncssh.stream:SSHClientStreamSession", ("data_received",), args=3),
    Names("asyncssh.sftp:SFTPClientHandler", ("_requests", "send_packet")),
    Names("asyncssh.constants", ("MSG_CHANNEL_DATA", "MSG_CHANNEL_WINDOW_ADJUST")),
    Names("asyncssh.packet", ("Byte",)),
)

# Without these asyncssh opens the file channel itself: nothing is seen of what the
# server announces, prints before SFTP or writes to stderr.
START: Final = (
    Names(
        "asyncssh.sftp:SFTPClientHandler",
        ("recv_packets", "request_limits", "start"),
        args=1,
    ),
    Names("asyncssh:SSHReader", ("_chan", "_session")),
    Names("asyncssh.sftp:SFTPClientHandler", ("_reader", "logger")),
)
# The parameters of its constructor: 2.21.0 has no ``utf8_decode_errors``, later
# versions do.
MADE: Final = Names(
    "asyncssh.sftp",
    ("SFTPClientHandler",),
    keywords=frozenset(
        {"loop", "reader", "sftp_version", "utf8_decode_errors", "writer"}
    ),
)
REPLACEABLE: Final = (
    *START,
    # Without these the list of extensions that the server announces says the same.
    Names(
        "asyncssh.sftp:SFTPClientHandler",
        (
            "_supports_fsync",
            "_supports_hardlink",
            "_supports_lsetstat",
            "_supports_posix_rename",
            "_supports_statvfs",
        ),
    ),
    # Without this the log does not name what is wrong with a server's reply.
    Names("asyncssh.sftp:SFTPHandler", ("_cleanup",), args=2),
    # Without these a failed key exchange does not name the algorithm to allow.
    Names(
        "asyncssh.connection:SSHClientConnection",
        (
            "_enc_algs",
            "_kex_algs",
            "_mac_algs",
            "_server_host_key_algs",
            "_server_kexinit",
        ),
    ),
)

ESSENTIAL: Final = (
    Names("asyncssh:SFTPClient", ("_handler",)),
    Names(
        "asyncssh.sftp:SFTPClientHandler",
        ("_packet_handlers", "_writer", "version"),
    ),
    Names("asyncssh.sftp:SFTPClientHandler", ("_send_request",), args=4),
    Names("asyncssh.sftp:SFTPClientHandler", ("fstatvfs", "fsync"), args=2),
    Names("asyncssh.sftp:SFTPClientHandler", ("realpath",), args=2),
    Names(
        "asyncssh.sftp:SFTPClientHandler",
        ("fsetstat", "fstat", "link", "lstat", "mkdir", "setstat", "stat", "symlink"),
        args=3,
    ),
    Names(
        "asyncssh.packet",
        ("PacketDecodeError", "SSHPacket", "String", "UInt32", "UInt64"),
    ),
    Names("asyncssh.packet:SSHPacket", ("get_bytes",), args=2),
    Names(
        "asyncssh.packet:SSHPacket", ("get_byte", "get_string", "get_uint32"), args=1
    ),
    Names("asyncssh.sftp", ("SFTPBadMessage", "SFTPNoConnection")),
    Names("asyncssh:SSHKeyPair", ("sig_algorithms",)),
    Names("asyncssh:SSHKeyPair", ("set_sig_algorithm",), args=2),
    Names(
        "asyncssh.encryption",
        ("get_default_encryption_algs", "get_encryption_algs"),
        args=0,
    ),
    Names("asyncssh.kex", ("get_default_kex_algs", "get_kex_algs"), args=0),
    Names("asyncssh.mac", ("get_default_mac_algs", "get_mac_algs"), args=0),
    Names(
        "asyncssh.public_key",
        (
            "get_certificate_algs",
            "get_default_certificate_algs",
            "get_default_public_key_algs",
            "get_public_key_algs",
        ),
        args=0,
    ),
    # The numbers of the protocol: asyncssh exports them, and documents a few.
    Names(
        "asyncssh.constants",
        (
            "FILEXFER_ATTR_DEFINED_V4",
            "FILEXFER_TYPE_BLOCK_DEVICE",
            "FILEXFER_TYPE_CHAR_DEVICE",
            "FILEXFER_TYPE_DIRECTORY",
            "FILEXFER_TYPE_FIFO",
            "FILEXFER_TYPE_REGULAR",
            "FILEXFER_TYPE_SOCKET",
            "FILEXFER_TYPE_SYMLINK",
            "FXF_APPEND",
            "FXF_CREAT",
            "FXF_EXCL",
            "FXF_READ",
            "FXF_TRUNC",
            "FXF_WRITE",
            "FXP_ATTRS",
            "FXP_CLOSE",
            "FXP_DATA",
            "FXP_FSTAT",
            "FXP_HANDLE",
            "FXP_LSTAT",
            "FXP_NAME",
            "FXP_OPEN",
            "FXP_OPENDIR",
            "FXP_READ",
            "FXP_READDIR",
            "FXP_READLINK",
            "FXP_REALPATH",
            "FXP_STAT",
            "FXP_STATUS",
            "FXP_SYMLINK",
            "FXP_WRITE",
            "FX_BAD_MESSAGE",
            "FX_CANNOT_DELETE",
            "FX_DIR_NOT_EMPTY",
            "FX_FAILURE",
            "FX_FILE_ALREADY_EXISTS",
            "FX_FILE_IS_A_DIRECTORY",
            "FX_GROUP_INVALID",
            "FX_INVALID_FILENAME",
            "FX_INVALID_HANDLE",
            "FX_INVALID_PARAMETER",
            "FX_LINK_LOOP",
            "FX_LOCK_CONFLICT",
            "FX_NOT_A_DIRECTORY",
            "FX_NO_SPACE_ON_FILESYSTEM",
            "FX_NO_SUCH_FILE",
            "FX_NO_SUCH_PATH",
            "FX_OP_UNSUPPORTED",
            "FX_OWNER_INVALID",
            "FX_PERMISSION_DENIED",
            "FX_QUOTA_EXCEEDED",
            "FX_WRITE_PROTECT",
        ),
    ),
)


def check() -> None:
    """Look for every name; raise ``LibraryError`` if there is no way without one.

    What only makes pamfs slower is logged, once.
    """
    lacking = missing(ESSENTIAL)
    if lacking:
        raise LibraryError(
            f"asyncssh {asyncssh.__version__} has no {', '.join(lacking)}, which pamfs"
            f" needs; install a version that works: pip install '{WORKING}'"
        )
    for name in missing((*REPLACEABLE, MADE)):
        log.info("asyncssh has no %s: pamfs goes a plainer way without it", name)
    has_fast_path()


def handler_of(client: asyncssh.SFTPClient) -> SFTPClientHandler:
    """Return asyncssh's request layer: ``SFTPClient`` adds a task for each block."""
    return client._handler


def is_open(handler: SFTPClientHandler) -> bool:
    """Whether the channel of ``handler`` can still be asked."""
    return handler._writer is not None


def supports(handler: SFTPClientHandler, extension: str, *, unknown: bool) -> bool:
    """Whether asyncssh has seen OpenSSH's ``extension``; else ``unknown``."""
    name = extension.replace("-", "_")
    return bool(getattr(handler, f"_supports_{name}", unknown))


@cache
def can_start_sftp() -> bool:
    """Whether SFTP can be started on a session that pamfs has opened itself."""
    return not missing((*START, MADE))


async def start_sftp(
    connection: asyncssh.SSHClientConnection,
    reader: asyncssh.SSHReader[bytes],
    writer: asyncssh.SSHWriter[bytes],
    version: int,
) -> asyncssh.SFTPClient:
    """Start SFTP on an open session, as asyncssh's ``start_sftp_client`` does.

    It differs in one point: a server that announces ``limits@openssh.com`` and refuses
    the request is used with the sizes of a server that does not announce it.
    """
    make = importlib.import_module("asyncssh.sftp").SFTPClientHandler
    known = {
        "loop": asyncio.get_running_loop(),
        "reader": reader,
        "sftp_version": version,
        "utf8_decode_errors": "strict",
        "writer": writer,
    }
    taken = inspect.signature(make).parameters
    handler = make(**{name: known[name] for name in taken})
    await handler.start()
    connection.create_task(handler.recv_packets(), handler.logger)
    try:
        await handler.request_limits()
    except asyncssh.SFTPError as exc:
        if isinstance(exc, _NO_REFUSALS):
            raise
        log.info("the server announces limits@openssh.com and refuses it: %s", exc)
    return asyncssh.SFTPClient(handler, None, "strict")


def parts_of_reader(
    reader: asyncssh.SSHReader[bytes],
) -> tuple[SSHStreamSession[bytes], SSHChannel[bytes]]:
    """Return what another ``SSHReader`` of the same channel is made of."""
    return reader._session, reader._chan


def read_by(client: asyncssh.SFTPClient, reader: asyncssh.SSHReader[bytes]) -> None:
    """Make ``client`` read its packets from ``reader`` from now on."""
    client._handler._reader = reader


def on_bad_reply(client: asyncssh.SFTPClient, note: Callable[[str], object]) -> None:
    """Have ``note`` called with the reason if a reply makes asyncssh end ``client``."""
    layer = client._handler
    if not hasattr(layer, "_cleanup"):
        return
    cleanup = layer._cleanup

    async def noted(exc: Exception | None) -> None:
        if isinstance(exc, asyncssh.SFTPBadMessage):
            note(exc.reason)
        await cleanup(exc)

    layer.__dict__["_cleanup"] = noted


@cache
def has_fast_path() -> bool:
    """Whether the fast path was tried with this asyncssh, and finds its names there."""
    version = asyncssh.__version__
    if not is_within(version, *TRIED):
        note_slower(f"version {version} has not been tried")
        return False
    lacking = missing(FAST_PATH)
    if lacking:
        note_slower(f"version {version} has no {lacking[0]}")
    return not lacking


def is_known_connection(connection: SSHConnection) -> bool:
    """Whether this very connection has what the fast path needs of it."""
    return _is_known(_parts_of(connection))


def is_known_client(client: asyncssh.SFTPClient) -> bool:
    """Whether this very client and its channel have what the fast path needs."""
    return _is_known(_parts_of_client(client))


@cache
def note_slower(why: str) -> None:
    """Log why there is no fast path, once for each reason."""
    log.info("file data goes asyncssh's own way, which is slower: %s", why)


def _names_of(owner: str) -> Iterator[str]:
    declared = (names for names in FAST_PATH if names.owner.endswith(f":{owner}"))
    return (name for names in declared for name in names.names)


def _parts_of(connection: object) -> Iterator[tuple[str, object]]:
    yield "SSHClientConnection", connection
    for name in ("_recv_encryption", "_send_encryption"):
        # Another cipher than AES-GCM has none of this, and no fast path either.
        cipher = getattr(getattr(connection, name, None), "_cipher", None)
        if type(cipher).__name__ == "GCMCipher":
            yield "GCMCipher", cipher


def _parts_of_client(client: object) -> Iterator[tuple[str, object]]:
    handler = getattr(client, "_handler", None)
    yield "SFTPClientHandler", handler
    writer = getattr(handler, "_writer", None)
    if writer is not None:  # otherwise it is closed already
        yield "SSHChannel", writer.channel
        yield "SSHClientStreamSession", getattr(writer.channel, "_session", None)


def _is_known(parts: Iterable[tuple[str, object]]) -> bool:
    """Whether the objects themselves have what their classes promised."""
    for owner, part in parts:
        lacking = [name for name in _names_of(owner) if not hasattr(part, name)]
        if lacking:
            note_slower(f"its {owner} has no {lacking[0]}")
            return False
    return True
