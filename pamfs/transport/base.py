"""The Protocols between the layers: what ``vfs`` and a wire need from a session.

An implementation raises ``RemoteError`` for what the device answered and
``SessionLostError`` when the answer can no longer come. The contract tests
(tests/contracts) say the rest, and every implementation passes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Flag, auto
from typing import Protocol

from pamfs.model import (
    AttrChange,
    Attrs,
    Caller,
    Data,
    Entry,
    RemotePath,
    Secret,
    Space,
    Target,
)


class OpenMode(Flag):
    """How a remote file is opened; the names are those of SFTP's pflags."""

    READ = auto()
    WRITE = auto()
    APPEND = auto()
    CREATE = auto()
    TRUNCATE = auto()
    EXCLUSIVE = auto()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The extensions that the server announced, and its limits.

    The limits were announced too, or found by a trial.
    """

    posix_rename: bool = False
    hardlink: bool = False
    fsync: bool = False
    statvfs: bool = False
    lsetstat: bool = False
    max_read_bytes: int = 32768
    max_write_bytes: int = 32768
    max_open_handles: int = 0  # 0: unknown


class RemoteFile(Protocol):
    """One open file on a device."""

    async def read_at(self, offset: int, size: int) -> Data:
        """Return up to ``size`` bytes; fewer only at the end of the file."""
        ...

    async def write_at(self, offset: int, data: Data) -> None:
        """Store all of ``data``; a file opened with APPEND stores it at its end."""
        ...

    async def fsync(self) -> None:
        """Have the server make the file durable, as far as it can."""
        ...

    async def stat(self) -> Attrs:
        """Return the attributes of the open file, even if it has no name left."""
        ...

    async def set_attrs(self, change: AttrChange) -> Attrs:
        """Change attributes of the open file; return them as they are then."""
        ...

    async def close(self) -> None:
        """Close the handle; raise ``RemoteError`` if the server reports an error."""
        ...


class RemoteTree(Protocol):
    """The files of one target. Paths are absolute on the device.

    A method that also returns attributes gets them in the same round trip if the server
    allows it.
    """

    @property
    def capabilities(self) -> Capabilities:
        """Return what the server can do."""
        ...

    @property
    def round_trip_s(self) -> float:
        """Return the estimated round trip time; 0.0 before the first request."""
        ...

    async def real_path(self, path: RemotePath) -> RemotePath:
        """Return ``path`` made absolute; ``.`` is the login's home."""
        ...

    async def lstat(self, path: RemotePath) -> Attrs:
        """Return the attributes of ``path`` itself, links not followed."""
        ...

    async def list_dir(self, path: RemotePath) -> Sequence[Entry]:
        """Return every entry but ``.`` and ``..``, or raise; never a part."""
        ...

    async def open(
        self, path: RemotePath, mode: OpenMode, permissions: int | None = None
    ) -> tuple[RemoteFile, Attrs]:
        """Open a file. ``permissions`` count only when the call creates it."""
        ...

    async def mkdir(self, path: RemotePath, permissions: int) -> Attrs:
        """Make a directory; return its attributes."""
        ...

    async def rmdir(self, path: RemotePath) -> None:
        """Remove an empty directory; ENOTEMPTY otherwise, always."""
        ...

    async def unlink(self, path: RemotePath) -> None:
        """Remove a name that is not a directory."""
        ...

    async def rename(self, old: RemotePath, new: RemotePath, *, replace: bool) -> None:
        """Rename; with ``replace`` as rename(2), else EEXIST if ``new`` exists."""
        ...

    async def symlink(self, content: bytes, path: RemotePath) -> Attrs:
        """Make a symbolic link at ``path`` that says ``content``."""
        ...

    async def readlink(self, path: RemotePath) -> bytes:
        """Return what the symbolic link says, unchanged."""
        ...

    async def link(self, old: RemotePath, new: RemotePath) -> Attrs:
        """Make a hard link; EOPNOTSUPP where the server has none."""
        ...

    async def set_attrs(self, path: RemotePath, change: AttrChange) -> Attrs:
        """Change attributes of ``path`` itself; return them as they are then."""
        ...

    async def space(self, path: RemotePath) -> Space:
        """Return the room on the file system of ``path``; may be EOPNOTSUPP."""
        ...


class TreeSource(Protocol):
    """Where the tree borrows its sessions: ``app`` hands it the pool."""

    def lend(
        self, target: Target, caller: Caller, *, is_reconnect: bool = False
    ) -> AbstractAsyncContextManager[RemoteTree]:
        """Lend the session of ``target``, opening it first if need be.

        ``is_reconnect``: the request belongs to a file opened in an earlier session.
        The guard is not asked, and an unreachable proxy is retried for ``reconnect``
        seconds.
        """
        ...

    def ready(self, target: Target) -> RemoteTree | None:
        """Return the open session's tree, or None; never dials, never waits."""
        ...

    def is_read_only(self, target: Target) -> bool:
        """Whether nothing may be changed any more: the lease is about to end."""
        ...

    def pin(self, target: Target) -> None:
        """Count one more open file; a target with open files is never idle."""
        ...

    def unpin(self, target: Target) -> None:
        """Count one open file less."""
        ...

    def note_listing(self, tenant: str, caller: Caller) -> None:
        """Note that ``caller`` listed a tenant; the guard uses this to detect walks."""
        ...


Prompts = Sequence[tuple[str, bool]]


class Responder(Protocol):
    """Answers the proxy's questions, on the trio side.

    Each method returns None to leave a question unanswered, and raises ``LoginError``
    to end the login.
    """

    async def password(self) -> Secret | None:
        """Return the answer to a request for the password."""
        ...

    async def reply(
        self, instructions: str, prompts: Prompts
    ) -> Sequence[Secret] | None:
        """Return the answers to one round of keyboard-interactive prompts."""
        ...


@dataclass(frozen=True, slots=True)
class LoginTry:
    """One try of a login: the user name, and what the wire calls meanwhile.

    ``is_name_secret``: the user name contains a one-time code. ``scrub`` removes the
    login's secrets from a text. ``on_answered`` is called when the proxy has answered.
    """

    user_name: Secret
    is_name_secret: bool
    responder: Responder
    scrub: Callable[[str], str]
    on_answered: Callable[[], object]
