"""Faulty SFTP servers: each does one thing wrong that a server of the field does.

Each is asyncssh's server with a few lines changed, and its name says what they do
(docs/servers.md, facts/servers.md). ``sftp_over_asyncssh`` runs one. Servers whose
packets themselves are wrong are in ``packets``, those with odd names in ``names``.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Awaitable
from typing import Any, ClassVar

import asyncssh
from asyncssh.constants import (
    FX_FAILURE,
    FX_OP_UNSUPPORTED,
    FXF_APPEND,
    FXF_CREAT,
    FXF_EXCL,
    FXF_READ,
    FXF_TRUNC,
    FXF_WRITE,
)

# -- opens ----------------------------------------------------------------------


class Opens(asyncssh.SFTPServer):
    """Counts opens for writing; ``flags`` says what each is turned into."""

    opens: ClassVar[Counter[int]] = Counter()

    def flags(self, path: bytes, pflags: int) -> int:
        del path
        return pflags

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> Any:
        if pflags & FXF_WRITE:
            self.opens[pflags] += 1
        return super().open(path, self.flags(path, pflags), attrs)


class EmptiesForWriting(Opens):
    """Empties a file at any open for writing (rclone, gateways)."""

    def flags(self, path: bytes, pflags: int) -> int:
        return pflags | FXF_TRUNC if pflags & FXF_WRITE else pflags


class EmptiesForWritingAlone(Opens):
    """Empties a file at an open for WRITE without READ or APPEND (Erlang)."""

    def flags(self, path: bytes, pflags: int) -> int:
        is_alone = pflags & (FXF_WRITE | FXF_READ | FXF_APPEND) == FXF_WRITE
        return pflags | FXF_TRUNC if is_alone else pflags


class OpensOnlyNewFiles(Opens):
    """Opens nothing to be changed in place but to append; CREAT makes it new
    (ProFTPD's HiddenStores).
    """

    def flags(self, path: bytes, pflags: int) -> int:
        if not pflags & FXF_WRITE or pflags & FXF_APPEND:
            return pflags
        if not pflags & FXF_CREAT:
            raise asyncssh.SFTPNoSuchFile("No such file")
        return pflags & ~FXF_EXCL | FXF_TRUNC


class IgnoresExclusive(EmptiesForWritingAlone):
    """Opens with EXCL what is there already (Erlang)."""

    def flags(self, path: bytes, pflags: int) -> int:
        return super().flags(path, pflags) & ~FXF_EXCL


class IgnoresTruncate(Opens):
    """Opens with TRUNC and leaves what the file holds."""

    def flags(self, path: bytes, pflags: int) -> int:
        return pflags & ~FXF_TRUNC


class IgnoresTruncateAndTellsNoSize(IgnoresTruncate):
    """As that, and says that every file is empty, whatever it holds."""

    def stat(self, path: bytes) -> Any:
        return no_size(super().stat(path))

    def lstat(self, path: bytes) -> Any:
        return no_size(super().lstat(path))

    def fstat(self, file_obj: object) -> Any:
        return no_size(super().fstat(file_obj))


def no_size(found: Any) -> asyncssh.SFTPAttrs:
    attrs = asyncssh.SFTPAttrs.from_local(found)
    attrs.size = 0
    return attrs


class EmptiesNothing(IgnoresTruncateAndTellsNoSize):
    """As that, and says OK to a size that it does not set."""

    def setstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        """Do nothing."""

    def fsetstat(self, file_obj: object, attrs: asyncssh.SFTPAttrs) -> None:
        """Do nothing."""


class RefusesSizes(IgnoresTruncate):
    """Opens with TRUNC and leaves what the file holds, and refuses a size."""

    def setstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        raise asyncssh.SFTPOpUnsupported("no SETSTAT")

    def fsetstat(self, file_obj: object, attrs: asyncssh.SFTPAttrs) -> None:
        raise asyncssh.SFTPOpUnsupported("no FSETSTAT")


class EmptiesOnlyOthers(Opens):
    """Empties whatever is not called as a trial of pamfs is: the trial is deceived."""

    def flags(self, path: bytes, pflags: int) -> int:
        is_trial = b"/.pamfs-" in path
        return pflags | FXF_TRUNC if pflags & FXF_WRITE and not is_trial else pflags


class EmptiesAndTellsNothing(EmptiesOnlyOthers):
    """Empties a file at the open, and then refuses FSTAT of it."""

    emptied: ClassVar[set[object]] = set()
    closed: ClassVar[list[object]] = []

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> Any:
        file = super().open(path, pflags, attrs)
        if path.endswith(b"/f"):
            self.emptied.add(file)
        return file

    def fstat(self, file_obj: object) -> Any:
        if file_obj in self.emptied:
            raise asyncssh.SFTPFailure("no")
        return super().fstat(file_obj)

    def close(self, file_obj: object) -> Any:
        if file_obj in self.emptied:
            self.closed.append(file_obj)
        return super().close(file_obj)


class GoesByNames(asyncssh.SFTPServer):
    """Answers FSTAT and FSETSTAT by the name that was opened (Erlang)."""

    names: ClassVar[dict[object, bytes]] = {}

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> Any:
        file = super().open(path, pflags, attrs)
        self.names[file] = path
        return file

    def fstat(self, file_obj: object) -> Any:
        return super().stat(self.names[file_obj])

    def fsetstat(self, file_obj: object, attrs: asyncssh.SFTPAttrs) -> None:
        super().setstat(self.names[file_obj], attrs)


class RefusesFstat(asyncssh.SFTPServer):
    """Has no FSTAT and no FSETSTAT."""

    def fstat(self, file_obj: object) -> Any:
        raise asyncssh.SFTPOpUnsupported("no FSTAT")

    def fsetstat(self, file_obj: object, attrs: asyncssh.SFTPAttrs) -> None:
        raise asyncssh.SFTPOpUnsupported("no FSETSTAT")


# -- a second open for writing --------------------------------------------------


class AnswersOneOpen(asyncssh.SFTPServer):
    """Of the further opens of a file it answers the first, and none after that."""

    further: ClassVar[int] = 0
    held: ClassVar[set[object]] = set()
    all_closed: ClassVar[threading.Event] = threading.Event()

    async def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> Any:
        if pflags == asyncssh.FXF_WRITE:
            type(self).further += 1
            if self.further > 1:
                await asyncio.Event().wait()
        file = super().open(path, pflags, attrs)
        self.held.add(file)
        return file

    def close(self, file_obj: object) -> Any:
        super().close(file_obj)
        self.held.discard(file_obj)
        if not self.held:
            self.all_closed.set()


# -- an OK that is not true, and names that show late ---------------------------


class SetstatDoesNothing(asyncssh.SFTPServer):
    """Says OK to SETSTAT and FSETSTAT and does nothing (AWS Transfer Family
    with ENABLE_NO_OP, sftpgo's setstat_mode; Erlang and Conch as to the size).
    """

    def setstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        """Do nothing."""

    def lsetstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        """Do nothing."""

    def fsetstat(self, file_obj: object, attrs: asyncssh.SFTPAttrs) -> None:
        """Do nothing."""


class WritesBehindTruncate(asyncssh.SFTPServer):
    """A program of the device writes a line right behind the first two truncates."""

    lines = 2

    def fsetstat(self, file_obj: Any, attrs: asyncssh.SFTPAttrs) -> None:
        super().fsetstat(file_obj, attrs)
        if attrs.size is not None and type(self).lines:
            type(self).lines -= 1
            os.pwrite(file_obj.fileno(), b"a line\n", attrs.size)

    def setstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        with open(self.map_path(path), "r+b") as file:
            self.fsetstat(file, attrs)


class EmptiesToResize(asyncssh.SFTPServer):
    """Opens a file anew to change its size, so that it holds zeros (paramiko)."""

    def setstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        if attrs.size is not None:
            with open(self.map_path(path), "w+b"):
                pass
        super().setstat(path, attrs)

    def fsetstat(self, file_obj: Any, attrs: asyncssh.SFTPAttrs) -> None:
        if attrs.size is not None:
            os.ftruncate(file_obj.fileno(), 0)
        super().fsetstat(file_obj, attrs)


class LinksKeepTheirMode(asyncssh.SFTPServer):
    """Says OK to the mode of a link and does nothing (asyncssh 2.21 on Linux)."""

    def lsetstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        """Set all but the mode."""
        attrs.permissions = None
        super().lsetstat(path, attrs)


class RenameReplaces(asyncssh.SFTPServer):
    """Replaces what is there at a plain RENAME (Twisted Conch)."""

    def rename(self, oldpath: bytes, newpath: bytes) -> None:
        super().posix_rename(oldpath, newpath)


class ShowsWhatIsClosed(asyncssh.SFTPServer):
    """Shows a new file by its name only once it is closed (ProFTPD's HiddenStores)."""

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> Any:
        if not pflags & FXF_CREAT:
            return super().open(path, pflags, attrs)
        file = super().open(path + b".in", pflags, attrs)
        _hidden[file] = path
        return file

    def close(self, file_obj: object) -> Any:
        super().close(file_obj)
        if (path := _hidden.pop(file_obj, None)) is not None:
            os.replace(path + b".in", path)


_hidden: dict[object, bytes] = {}


class RefusesToRename(ShowsWhatIsClosed):
    """Refuses to rename a file that it does not show, once it may."""

    asked: ClassVar[threading.Event]
    may_refuse: ClassVar[asyncio.Event]

    async def posix_rename(self, oldpath: bytes, newpath: bytes) -> None:
        if not os.path.exists(oldpath):  # noqa: ASYNC240 - one look
            self.asked.set()
            await self.may_refuse.wait()
        super().posix_rename(oldpath, newpath)


# -- requests that are missing --------------------------------------------------


class LeavesOut(asyncssh.SFTPServer):
    """Refuses some requests with one status, and counts how often it did."""

    left_out: frozenset[str] = frozenset()
    code = FX_OP_UNSUPPORTED
    refusals: ClassVar[Counter[str]] = Counter()

    def _refuse(self, request: str) -> None:
        if request in self.left_out:
            self.refusals[request] += 1
            raise asyncssh.SFTPError(self.code, f"no {request}")

    def fstat(self, file_obj: object) -> Any:
        self._refuse("fstat")
        return super().fstat(file_obj)

    def fsetstat(self, file_obj: object, attrs: asyncssh.SFTPAttrs) -> Any:
        self._refuse("fsetstat")
        return super().fsetstat(file_obj, attrs)

    def setstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> Any:
        self._refuse("setstat")
        return super().setstat(path, attrs)

    def lsetstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> Any:
        self._refuse("lsetstat")
        return super().lsetstat(path, attrs)

    def posix_rename(self, oldpath: bytes, newpath: bytes) -> Any:
        self._refuse("posix_rename")
        return super().posix_rename(oldpath, newpath)

    def fsync(self, file_obj: object) -> Any:
        self._refuse("fsync")
        return super().fsync(file_obj)


class MakesBareFolders(asyncssh.SFTPServer):
    """Makes no folder that is asked for with attributes."""

    code = FX_FAILURE
    refusals = 0

    def mkdir(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> None:
        if attrs.permissions is not None:
            type(self).refusals += 1
            raise asyncssh.SFTPError(self.code, "no attributes")
        super().mkdir(path, attrs)


# -- links ----------------------------------------------------------------------


class NameFirst(asyncssh.SFTPServer):
    """Reads the new name first, as the draft has it (Erlang, Conch, MySecureShell)."""

    made: ClassVar[list[bytes]] = []

    def symlink(self, oldpath: bytes, newpath: bytes) -> None:
        self.made.append(newpath)
        os.symlink(oldpath, newpath)


class NameLast(NameFirst):
    """Reads the new name last, as OpenSSH does."""

    def symlink(self, oldpath: bytes, newpath: bytes) -> None:
        super().symlink(newpath, oldpath)


class MakesNoLink(NameFirst):
    """Says OK and makes no link."""

    def symlink(self, oldpath: bytes, newpath: bytes) -> None:
        self.made.append(newpath)


class ShowsTheTarget(NameLast):
    """Tells by LSTAT what a link leads to, if it leads anywhere (ProFTPD)."""

    def lstat(self, path: bytes) -> os.stat_result:
        try:
            return os.stat(path)
        except FileNotFoundError:
            return os.lstat(path)


class ResolvesInHome(NameFirst):
    """Makes a relative link absolute, as seen from the login's home (Conch)."""

    def symlink(self, oldpath: bytes, newpath: bytes) -> None:
        super().symlink(os.path.join(b"/home/of/login", oldpath), newpath)


class ReadsLittle(asyncssh.SFTPServer):
    """Answers a read with less than was asked for, as the protocol lets it."""

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        read = super().read(file_obj, offset, min(size, 3001))
        assert isinstance(read, bytes)
        return read


# -- reads ----------------------------------------------------------------------


class _NoData(bytes):
    """No bytes, sent as DATA: asyncssh's server makes EOF of plain ones."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return True


class SendsNothing(asyncssh.SFTPServer):
    """Answers a read beyond 4 KiB with empty data, as if that were an answer."""

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        if offset >= 4096:
            return _NoData()
        found = super().read(file_obj, offset, min(size, 4096 - offset))
        assert isinstance(found, bytes)
        return found


class EndsWithNothing(asyncssh.SFTPServer):
    """Answers a read at the end of the file with empty data, not with EOF."""

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        found = super().read(file_obj, offset, size)
        assert isinstance(found, bytes)
        return found or _NoData()


class SendsTooMuch(asyncssh.SFTPServer):
    """Answers every read with more than it was asked for."""

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        found = super().read(file_obj, offset, size)
        assert isinstance(found, bytes)
        return found + bytes(100)


# -- writes ---------------------------------------------------------------------


class RecordsWrites(asyncssh.SFTPServer):
    """Notes where each write goes, in the order in which they arrive."""

    offsets: list[int]

    def write(self, file_obj: object, offset: int, data: bytes) -> int | Awaitable[int]:
        self.offsets.append(offset)
        return super().write(file_obj, offset, data)


class TakesWritesInOrder(RecordsWrites):
    """Refuses a write that does not begin where the last one ended."""

    def write(self, file_obj: object, offset: int, data: bytes) -> int | Awaitable[int]:
        if offset != os.fstat(file_obj.fileno()).st_size:  # type: ignore[attr-defined]  # an open file
            raise asyncssh.SFTPFailure("out of order")
        return super().write(file_obj, offset, data)


class IgnoresOffsets(RecordsWrites):
    """Puts each write behind what there is, as gateways to object stores do."""

    def write(self, file_obj: object, offset: int, data: bytes) -> int | Awaitable[int]:
        self.offsets.append(offset)
        end = os.fstat(file_obj.fileno()).st_size  # type: ignore[attr-defined]  # an open file
        return asyncssh.SFTPServer.write(self, file_obj, end, data)
