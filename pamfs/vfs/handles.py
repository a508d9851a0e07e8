"""Open files and directories, by the numbers the kernel was given.

Invariant: a handle is in the table from a successful open to its release. A
remote handle belongs to one tree; after a lost session it is opened again only if
it is proven the same file (``data.reopening``). ``epoch`` is
the target's when it was opened: of an earlier one, a handle is stale for good.
"""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import trio

from pamfs.errors import PamfsError, RemoteError
from pamfs.model import Attrs, Caller, Data, FileHandle, Ino, Target
from pamfs.transport.base import OpenMode, RemoteFile, RemoteTree
from pamfs.vfs.names.directory_stream import DirectoryStream
from pamfs.vfs.names.evidence import Evidence
from pamfs.vfs.names.inodes import Inode

T = TypeVar("T")


class FileReadahead(Protocol):
    """The readahead of one open file (``prefetch.streams``)."""

    def take(self, start: int, stop: int) -> Data | None:
        """Return the bytes if they are here, and fetch on; else None."""
        ...

    async def wait(self, start: int, stop: int) -> Data | None:
        """As ``take``, after waiting for blocks in flight."""
        ...

    def missed(self, start: int, stop: int) -> None:
        """Note a read that goes to the device; fetch what may follow."""
        ...

    def drop(self) -> None:
        """Drop all blocks."""
        ...

    def drop_stale(self) -> bool:
        """Drop streams that were not read on in time; return whether any."""
        ...


@dataclass(slots=True, eq=False)
class OpenFile:
    """One open of one file. ``latched`` is reported until the last close.

    ``is_told`` says whether a flush or fsync has reported it to a program,
    ``is_noted`` whether ``LostData`` has it.
    ``is_new``: this open made the file. ``evidence`` is shared by all opens of a file.
    """

    inode: Inode
    target: Target
    caller: Caller
    mode: OpenMode
    tree: RemoteTree
    remote: RemoteFile
    opened: Attrs
    epoch: int = 0
    program: str = ""  # its name when it opened the file, for the audit
    is_pinned: bool = False
    has_written: bool = False
    bytes_read: int = 0
    bytes_written: int = 0
    latched: PamfsError | None = None
    is_told: bool = False
    is_noted: bool = False
    is_new: bool = False
    reopening: trio.Lock = field(default_factory=trio.Lock)
    evidence: Evidence = field(init=False)
    ahead: FileReadahead = field(init=False)

    def __post_init__(self) -> None:
        self.evidence = Evidence(self.opened)


@dataclass(slots=True, eq=False)
class OpenDirectory:
    """One open directory, and how it is read."""

    inode: Inode
    caller: Caller
    stream: DirectoryStream
    epoch: int = 0


@dataclass(slots=True)
class Usage:
    """What programs did with one target: open files now, bytes since the mount."""

    open_files: int = 0
    bytes_read: int = 0
    bytes_written: int = 0


@dataclass(slots=True)
class HandleTable:
    """All open files and directories."""

    usage: dict[Target, Usage] = field(default_factory=lambda: defaultdict(Usage))
    _files: dict[FileHandle, OpenFile] = field(default_factory=dict)
    _directories: dict[FileHandle, OpenDirectory] = field(default_factory=dict)
    _by_ino: dict[Ino, list[OpenFile]] = field(default_factory=dict)
    _next: int = 1  # never reused

    def add_file(self, file: OpenFile) -> FileHandle:
        """Return the number of a newly opened file."""
        fh = self._number()
        self._files[fh] = file
        opened = self._by_ino.setdefault(file.inode.ino, [])
        if opened:
            file.evidence = opened[0].evidence
            file.evidence.looked(file.opened)
        opened.append(file)
        self.usage[file.target].open_files += 1
        return fh

    def add_directory(self, directory: OpenDirectory) -> FileHandle:
        """Return the number of a newly opened directory."""
        fh = self._number()
        self._directories[fh] = directory
        return fh

    def file(self, fh: FileHandle) -> OpenFile:
        """Return the open file; raise EBADF."""
        return _found(self._files, fh)

    def directory(self, fh: FileHandle) -> OpenDirectory:
        """Return the open directory; raise EBADF."""
        return _found(self._directories, fh)

    def of_inode(self, inode: Inode) -> Sequence[OpenFile]:
        """Return the open files of ``inode``, those that can write first."""
        files = self._by_ino.get(inode.ino, [])
        return sorted(files, key=lambda file: OpenMode.WRITE not in file.mode)

    def is_written(self, inode: Inode, tree: RemoteTree | None) -> bool:
        """Whether a file that is open in the session of ``tree`` was written to."""
        files = self._by_ino.get(inode.ino, ())
        return any(file.has_written and file.tree is tree for file in files)

    def drop_readahead(self, inode: Inode) -> None:
        """Drop what was read ahead of ``inode``."""
        for file in self._by_ino.get(inode.ino, ()):
            file.ahead.drop()

    def drop_file(self, fh: FileHandle) -> OpenFile:
        """Take a released file out of the table and return it."""
        file = _found(self._files, fh)
        del self._files[fh]
        siblings = self._by_ino[file.inode.ino]
        siblings.remove(file)
        if not siblings:
            del self._by_ino[file.inode.ino]
        self.usage[file.target].open_files -= 1
        return file

    def drop_directory(self, fh: FileHandle) -> OpenDirectory | None:
        """Take a released directory out of the table and return it."""
        return self._directories.pop(fh, None)

    def opener(self, fh: FileHandle) -> Caller | None:
        """Return the caller that opened ``fh``, if it is open."""
        handle = self._files.get(fh) or self._directories.get(fh)
        return handle.caller if handle else None

    def files(self) -> Sequence[OpenFile]:
        """Return every open file."""
        return list(self._files.values())

    def files_of(self, target: Target) -> Sequence[OpenFile]:
        """Return every open file of ``target``."""
        return [file for file in self._files.values() if file.target == target]

    def empty_directories(self, target: Target) -> None:
        """Drop what the open directories of ``target`` have listed."""
        for directory in self._directories.values():
            if directory.inode.target == target:
                directory.stream.clear()

    def _number(self) -> FileHandle:
        fh = FileHandle(self._next)
        self._next += 1
        return fh


def _found(table: dict[FileHandle, T], fh: FileHandle) -> T:
    try:
        return table[fh]
    except KeyError:
        raise RemoteError(errno.EBADF, "handle") from None
