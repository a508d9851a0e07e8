"""The values that all layers share: records without behaviour."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NewType, NoReturn, TypeAlias, final

Ino = NewType("Ino", int)
FileHandle = NewType("FileHandle", int)
Name = NewType("Name", bytes)
RemotePath = NewType("RemotePath", bytes)
# File content. The owner of the buffer behind a memoryview must not change it later.
Data: TypeAlias = bytes | memoryview


def json_object(
    text: bytes | str,
    made_of: Callable[[Sequence[tuple[str, object]]], object] = dict,
) -> dict[str, object] | None:
    """Return the JSON object in ``text``; None if it is none, or too deep to read.

    ``made_of`` makes each object, also an inner one, of its keys and values.
    """
    try:
        found = json.loads(text, object_pairs_hook=made_of)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


@final
class Secret:
    """A password, key, seed or code; it prints as nothing and is never pickled."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the plain text; grep for this name to audit every use."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(...)"

    def __str__(self) -> str:
        return "Secret(...)"

    def __format__(self, spec: str) -> str:
        return "Secret(...)"

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is never pickled")


@dataclass(frozen=True, slots=True)
class Target:
    """One credential on one device of one tenant: what a session is opened to.

    ``domain`` is the literal ``key`` or a directory domain before the
    backslash, or empty (facts/pam.md#segura-user-names).
    """

    tenant: str
    credential: str
    device: str
    domain: str = ""
    proto: str = "ssh"
    port: int = 22

    def __str__(self) -> str:
        domain = f"{self.domain}\\" if self.domain else ""
        default = (self.proto, self.port) == ("ssh", 22)
        service = "" if default else f"{{{self.proto}.{self.port}}}"
        return f"{self.tenant}/{domain}{self.credential}@{self.device}{service}"


@dataclass(frozen=True, slots=True)
class Caller:
    """The process that made the system call behind a request."""

    pid: int
    uid: int
    gid: int
    umask: int = 0


@dataclass(frozen=True, slots=True)
class Attrs:
    """A file's attributes as the device reports them; sizes are in bytes.

    ``mode`` holds the type bits (``stat.S_IFMT``). Times are nanoseconds since
    the epoch; SFTP version 3 has whole seconds (draft-ietf-secsh-filexfer-02).
    """

    mode: int
    size: int = 0
    uid: int = 0
    gid: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int | None = None
    nlink: int = 1

    def owned(self, uid: int, gid: int, nlink: int) -> Attrs:
        """Return them with this owner and link count.

        ``dataclasses.replace`` takes five times as long, and this is done for each
        entry that the kernel gets.
        """
        times = self.atime_ns, self.mtime_ns, self.ctime_ns
        return Attrs(self.mode, self.size, uid, gid, *times, nlink)


@dataclass(frozen=True, slots=True)
class AttrChange:
    """The attributes that a ``setattr`` changes; ``None`` leaves one as it is."""

    mode: int | None = None
    size: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a remote directory, with its attributes."""

    name: Name
    attrs: Attrs


@dataclass(frozen=True, slots=True)
class Space:
    """Room on a remote file system, in units of ``fragment_bytes``."""

    fragment_bytes: int
    blocks: int
    blocks_free: int
    blocks_available: int
    files: int
    files_free: int
    files_available: int
    name_max: int
    is_read_only: bool = False


class Extent(NamedTuple):
    """The bytes from ``start`` up to, and without, ``stop``."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Return how many bytes it has."""
        return self.stop - self.start

    def overlaps(self, other: Extent) -> bool:
        """Whether a byte is in both."""
        return max(self.start, other.start) < min(self.stop, other.stop)
