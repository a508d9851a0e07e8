"""Where the socket of a mount is, and whose it must be."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from pamfs.config import runtime_folder
from pamfs.errors import PamfsError
from pamfs.mountpoint import real_mountpoint

Handler = Callable[[Mapping[str, object]], Awaitable[Mapping[str, object]]]

LONGEST_REQUEST_BYTES: Final = 1 << 16
_LONGEST_ADDRESS_BYTES: Final = 107  # unix(7): sun_path, with its final zero
_UCRED: Final = struct.Struct("3i")  # unix(7): struct ucred


class ControlError(PamfsError):
    """The control socket cannot be made, or is not to be trusted."""


class Peer(NamedTuple):
    """Who is at the other end of a socket, as the kernel says."""

    pid: int
    uid: int


def socket_path(mountpoint: Path) -> Path:
    """Return where the mount on ``mountpoint`` has its socket, for a new one."""
    return runtime_folder() / socket_name(mountpoint)


def socket_name(mountpoint: Path) -> str:
    """Return the socket's name; it depends on the real path alone."""
    real = os.fsencode(real_mountpoint(mountpoint))
    return f"{hashlib.sha256(real).hexdigest()[:24]}.sock"


class HasOptions(Protocol):
    """A socket, of the standard library or of trio."""

    def getsockopt(self, level: int, optname: int, buflen: int) -> bytes:
        """Return a socket option as ``buflen`` raw bytes."""
        ...


def peer_of(connection: HasOptions) -> Peer:
    """Return who connected, or who listens (SO_PEERCRED, unix(7))."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(raw)
    return Peer(pid, uid)


def make_folder(folder: Path) -> None:
    """Make the folder of sockets; raise ``ControlError`` unless it is ours alone."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as exc:
        raise ControlError(f"{folder}: {exc.strerror}") from None
    found = folder.lstat()
    is_private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    if not is_private or found.st_uid != os.geteuid():
        raise ControlError(f"{folder} is not a folder of yours with mode 0700")


@contextmanager
def address_of(path: Path) -> Iterator[str]:
    """Yield an address for ``path`` that fits, however long the path is."""
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
