"""The asking side: a command to the daemon that serves a mount point."""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pamfs.config import runtime_folders
from pamfs.control.sockets import address_of, peer_of, socket_name
from pamfs.errors import PamfsError
from pamfs.model import json_object
from pamfs.mountpoint import find_mount, real_mountpoint

_CONNECT_S: Final = 5.0


class NoAnswerError(PamfsError):
    """No daemon answers, or it stopped answering."""


class Daemon:
    """A connection to a running mount, for one command and what follows it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""
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
        self.send({"command": command})
        return self.receive()

    def wait_for_ever(self) -> None:
        """Let what follows take as long as a person takes."""
        self._connection.settimeout(None)

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
                more = self._connection.recv(1 << 16)
            except OSError as exc:
                raise NoAnswerError(f"the daemon (pid {self.pid}): {exc}") from None
            if not more:
                problem = f"the daemon (pid {self.pid}) ended without an answer"
                raise NoAnswerError(problem)
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        answer = json_object(line)
        if answer is None:
            raise NoAnswerError(f"the daemon (pid {self.pid}) answers nonsense")
        return answer

    def has_received(self) -> bool:
        """Whether the next object is here already."""
        return b"\n" in self._rest

    def is_heard(self, within_s: float) -> bool:
        """Wait until the daemon says something, or hangs up; return whether it did."""
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

    Whoever answers must run as the user whom the kernel names as the mount's
    owner: root looks into folders that others can write. Stale sockets on the
    way are removed.
    """
    name = socket_name(mountpoint)
    entry = find_mount(real_mountpoint(mountpoint))
    owner = os.geteuid() if entry is None else entry.uid
    for folder in runtime_folders():
        connection = connect(folder / name)
        if connection is None:
            continue
        if peer_of(connection).uid == owner:
            return Daemon(connection)
        connection.close()  # somebody pretends to be the daemon
    return None


def connect(path: Path) -> socket.socket | None:
    """Return a connection, or ``None``; a socket that nobody serves is removed."""
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
