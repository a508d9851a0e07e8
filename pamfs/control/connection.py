"""The socket of a mount: its path and owner, and the client's side of it.

Law: both sides check the other process by SO_PEERCRED, not by the path. The daemon
answers its own user and root; a command trusts only a daemon that runs as the owner of
the mount, and looks only into folders of that owner, because the last folder in the
list is below ``/tmp``. An answer has a deadline and a bound in bytes: root asks the
daemons of users.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import select
import socket
import stat
import struct
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self

from pamfs.config import runtime_folder, runtime_folders
from pamfs.errors import PamfsError
from pamfs.model import json_object
from pamfs.mountpoint import find_mount, real_mountpoint

Handler = Callable[[Mapping[str, object]], Awaitable[Mapping[str, object]]]

LONGEST_REQUEST_BYTES: Final = 1 << 16
LONGEST_ANSWER_BYTES: Final = 1 << 26  # the status of some 100,000 targets
_LONGEST_ADDRESS_BYTES: Final = 107  # unix(7): sun_path, with its final zero
_UCRED: Final = struct.Struct("3i")  # unix(7): struct ucred


class ControlError(PamfsError):
    """The control socket cannot be made, or is not to be trusted."""


class Peer(NamedTuple):
    """The process at the other end of a socket, from the kernel."""

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
    """Return the process that connected, or that listens (SO_PEERCRED, unix(7))."""
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


_CONNECT_S: Final = 5.0


class NoAnswerError(PamfsError):
    """No daemon answers, or it stopped answering."""


class Daemon:
    """A connection to a running mount, for one command and what follows it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""
        self._deadline: float | None = None  # of the answer, by time.monotonic
        self.pid = peer_of(connection).pid
        # Held before anything is asked: a pid may be another's afterwards.
        self._pidfd = _open_pid(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()
        if self._pidfd is not None:
            os.close(self._pidfd)

    def ask(self, command: str, within_s: float | None) -> Mapping[str, object]:
        """Return the daemon's answer; ``None`` waits as long as it takes.

        Raises ``NoAnswerError`` if none comes.
        """
        self._connection.settimeout(within_s)
        self._deadline = None if within_s is None else time.monotonic() + within_s
        self.send({"command": command})
        return self.receive()

    def wait_for_ever(self) -> None:
        """Let what follows take as long as a person takes."""
        self._connection.settimeout(None)
        self._deadline = None

    def fileno(self) -> int:
        """Return what to wait on for the next object, once all were received."""
        return self._connection.fileno()

    def send(self, message: Mapping[str, object]) -> None:
        """Send one object; raise ``NoAnswerError`` if the daemon is gone."""
        try:
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError as exc:
            raise NoAnswerError(f"the daemon (pid {self.pid}): {exc}") from None

    def receive(self) -> Mapping[str, object]:
        """Return the daemon's next object; raise ``NoAnswerError`` at the end."""
        while b"\n" not in self._rest:
            try:
                more = self._receive_some()
            except OSError as exc:
                raise NoAnswerError(f"the daemon (pid {self.pid}): {exc}") from None
            if not more:
                problem = f"the daemon (pid {self.pid}) ended without an answer"
                raise NoAnswerError(problem)
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        answer = json_object(line)
        if answer is None:
            raise NoAnswerError(
                f"the daemon (pid {self.pid}) sent an answer that is not a JSON object"
            )
        return answer

    def _receive_some(self) -> bytes:
        """Return the next bytes; raise ``OSError`` past the deadline or the bound."""
        if len(self._rest) > LONGEST_ANSWER_BYTES:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        if self._deadline is not None:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("timed out")
            self._connection.settimeout(left_s)
        return self._connection.recv(1 << 16)

    def has_received(self) -> bool:
        """Whether the next object is here already."""
        return b"\n" in self._rest

    def wait_readable(self, within_s: float) -> bool:
        """Wait until the daemon sends something, or closes; return whether it did."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        return bool(self._rest or poll.poll(within_s * 1000))

    def wait_gone(self, within_s: float) -> bool:
        """Wait until the daemon's process has ended; return whether it has."""
        if self._pidfd is None:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(within_s * 1000))


def find_daemon(mountpoint: Path) -> Daemon | None:
    """Return a connection to the daemon of ``mountpoint``, or ``None``.

    The answering process must run as the mount's owner in the kernel's table: root
    also searches folders that other users can write. Stale sockets are removed.
    """
    name = socket_name(mountpoint)
    entry = find_mount(real_mountpoint(mountpoint))
    owner = os.geteuid() if entry is None else entry.uid
    for folder in runtime_folders():
        if not _is_private_to(owner, folder):
            continue  # nothing is connected that another user may have made
        connection = connect(folder / name)
        if connection is None:
            continue
        if peer_of(connection).uid == owner:
            return Daemon(connection)
        connection.close()  # another user's process pretends to be the daemon
    return None


def _is_private_to(owner: int | None, folder: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    is_private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    return is_private and found.st_uid == owner


def connect(path: Path) -> socket.socket | None:
    """Return a connection, or ``None``; a socket without a server is removed."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_CONNECT_S)
    try:
        with address_of(path) as address:
            connection.connect(address)
    except ConnectionRefusedError:
        connection.close()
        with suppress(OSError):
            if path.parent.stat().st_uid == os.geteuid():
                path.unlink()
        return None
    except OSError:
        connection.close()
        return None
    return connection


def _open_pid(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None  # it has ended already, or lives in another pid namespace
