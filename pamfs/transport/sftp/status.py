"""Maps SFTP status codes to ``RemoteError``, losses to ``SessionLostError``.

Codes: draft-ietf-secsh-filexfer-02 section 7 (version 3, 0-8) and -13 section
9.1 (9-31). OpenSSH's server says FAILURE for most errnos; what it may have
meant is found out in ``diagnosis``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Iterator
from typing import Final

import asyncssh
from asyncssh import constants
from asyncssh.packet import PacketDecodeError

from pamfs.errors import RemoteError, SessionLostError

ERRNO_OF_STATUS: Final[dict[int, int]] = {
    constants.FX_NO_SUCH_FILE: errno.ENOENT,
    constants.FX_PERMISSION_DENIED: errno.EACCES,
    constants.FX_FAILURE: errno.EIO,
    # OpenSSH answers ENAMETOOLONG and EINVAL with it (sftp-server.c).
    constants.FX_BAD_MESSAGE: errno.EINVAL,
    constants.FX_OP_UNSUPPORTED: errno.EOPNOTSUPP,
    constants.FX_INVALID_HANDLE: errno.ESTALE,
    constants.FX_NO_SUCH_PATH: errno.ENOENT,
    constants.FX_FILE_ALREADY_EXISTS: errno.EEXIST,
    constants.FX_WRITE_PROTECT: errno.EROFS,
    constants.FX_NO_SPACE_ON_FILESYSTEM: errno.ENOSPC,
    constants.FX_QUOTA_EXCEEDED: errno.EDQUOT,
    constants.FX_LOCK_CONFLICT: errno.EAGAIN,
    constants.FX_DIR_NOT_EMPTY: errno.ENOTEMPTY,
    constants.FX_NOT_A_DIRECTORY: errno.ENOTDIR,
    constants.FX_INVALID_FILENAME: errno.EINVAL,
    constants.FX_LINK_LOOP: errno.ELOOP,
    constants.FX_CANNOT_DELETE: errno.EPERM,
    constants.FX_INVALID_PARAMETER: errno.EINVAL,
    constants.FX_FILE_IS_A_DIRECTORY: errno.EISDIR,
    constants.FX_OWNER_INVALID: errno.EINVAL,
    constants.FX_GROUP_INVALID: errno.EINVAL,
}

_LOST: Final = (
    asyncssh.SFTPConnectionLost,
    asyncssh.SFTPNoConnection,
    asyncssh.ConnectionLost,
    asyncssh.DisconnectError,
    asyncssh.ChannelOpenError,
    asyncio.IncompleteReadError,
    OSError,
)


# asyncssh, and our own code, raise SFTPBadMessage also for a malformed reply, with one
# of these texts. Such a reply does not end the session.
_BAD_REPLY: Final = (
    "unexpected response type",
    "unexpected fx_ok",
    "invalid status message",
    "too many names",
    "an ok without",
    "no name",
)

# What asyncssh raises when it cannot do what it was asked for.
FAILURES: Final = (*_LOST, PacketDecodeError, asyncssh.Error)


def _is_bad_reply(exc: Exception) -> bool:
    return isinstance(exc, asyncssh.SFTPBadMessage) and (
        exc.reason.lower().startswith(_BAD_REPLY)
    )


def error_of(operation: str, exc: Exception) -> RemoteError | SessionLostError:
    """Return the error of ours that stands for ``exc``, one of ``FAILURES``."""
    if isinstance(exc, _LOST):
        return SessionLostError(f"{operation}: the session was lost")
    if isinstance(exc, PacketDecodeError):
        return SessionLostError(f"{operation}: the answer makes no sense")
    if _is_bad_reply(exc):
        return RemoteError(errno.EIO, operation, f"bad reply: {exc}")
    if isinstance(exc, asyncssh.SFTPError):
        return RemoteError(ERRNO_OF_STATUS.get(exc.code, errno.EIO), operation)
    return SessionLostError(f"{operation}: {type(exc).__name__}")


@contextlib.contextmanager
def translated(operation: str) -> Iterator[None]:
    """Turn what asyncssh raises into ``RemoteError`` or ``SessionLostError``."""
    try:
        yield
    except FAILURES as exc:
        raise error_of(operation, exc) from exc
