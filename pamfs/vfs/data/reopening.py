"""Reopens files in a new session after the previous session was lost.

Law: a file is opened again by its name, and its handle is used only if it is proven the
same file. A file that was not written to must have its size and time. Of one that was
written to, the size must be at least what was acknowledged and at most what was sent,
the time no older, and the last acknowledged block is read back and compared. Otherwise
the file is ESTALE, for reads and writes. Exception: if the block may not be read back
(a file without read permission), size and time decide alone.
"""

from __future__ import annotations

import contextlib
import errno
from typing import Final

import trio

from pamfs.errors import PamfsError, RemoteError
from pamfs.model import Attrs, Extent, RemotePath
from pamfs.transport.base import OpenMode, RemoteFile, RemoteTree
from pamfs.vfs.data.opening import closed_on_error, open_file
from pamfs.vfs.handles import OpenFile
from pamfs.vfs.names.attributes import differs
from pamfs.vfs.remote_access import RemoteAccess

_REOPEN: Final = OpenMode.READ | OpenMode.WRITE | OpenMode.APPEND
# How far behind the tail to read: the queued appends, and what other clients appended
# between them.
_BEHIND_BYTES: Final = 32 << 20
_CLOSE_S: Final = 10.0


class Reopening:
    """Reopens files in the session of a tree; checks that they are the same files."""

    def __init__(self, remote: RemoteAccess) -> None:
        self._remote = remote

    async def handle_of(self, file: OpenFile, tree: RemoteTree) -> RemoteFile:
        """Return the handle of ``file`` in ``tree``; ESTALE if it is another file."""
        self._remote.check(file.target, file.epoch)
        if file.tree is not tree:
            # The first request of the new session opens it; the others wait for that.
            async with file.reopening:
                if file.tree is not tree:
                    await self._reopen(file, tree)
        return file.remote

    async def _reopen(self, file: OpenFile, tree: RemoteTree) -> None:
        # A rename whose answer was lost may have moved it: until that is known the
        # name may be another file's.
        await self._remote.names_settled(file.target)
        try:
            path = await self._remote.path(tree, file.inode)
            remote, attrs = await self._remote.quota(file.target, tree).open(
                lambda: open_file(tree, path, file.mode & _REOPEN)
            )
        except RemoteError as exc:
            if exc.code != errno.ENOENT:
                raise
            raise RemoteError(errno.ESTALE, "reopen", "it was removed") from exc
        # The proof goes through the new handle: what it shows is what later requests
        # reach, whatever becomes of the name.
        async with closed_on_error(remote):
            if not file.evidence.is_written:
                is_same = not differs(attrs, file.opened)
            else:
                is_same = await _Proof(file, tree, path, remote).holds(attrs)
            if not is_same:
                raise RemoteError(errno.ESTALE, "reopen", "it is another file now")
        file.tree, file.remote = tree, remote


class _Proof:
    """Compares a file that was written to with what is known of it."""

    def __init__(
        self, file: OpenFile, tree: RemoteTree, path: RemotePath, remote: RemoteFile
    ) -> None:
        self._file = file
        self._tree = tree
        self._path = path
        self._remote = remote
        self._evidence = file.evidence

    async def holds(self, attrs: Attrs) -> bool:
        # What was sent and not acknowledged may be stored or not: there neither old nor
        # new bytes prove anything.
        unstored = self._file.inode.unstored
        unsure = () if unstored is None else unstored.extents
        if OpenMode.APPEND in self._file.mode:
            return self._evidence.fits(attrs) and await self._ends(attrs)
        if not self._evidence.fits(attrs, max((one.stop for one in unsure), default=0)):
            return False
        wanted = self._evidence.range_to_verify(unsure)
        if wanted is None:
            return True
        found = await self._read_back(wanted)
        return found is None or self._evidence.fits_tail(wanted, found)

    async def _ends(self, attrs: Attrs) -> bool:
        """Whether the tail of the last append is found; note the bytes after it."""
        # Other clients append too: the tail may lie further back than it was counted
        # to be, and what follows it decides how much of a cut append is stored.
        evidence = self._evidence
        start = evidence.tail_at if evidence.tail else evidence.size
        found = await self._read_back(
            Extent(start, min(attrs.size, start + _BEHIND_BYTES))
        )
        if not evidence.tail:
            evidence.tail_at = start
        return found is None or evidence.find_tail(found)

    async def _read_back(self, wanted: Extent) -> bytes | None:
        """Return what is at ``wanted``; None if it may not be read."""
        if wanted.stop <= wanted.start:
            return b""
        if OpenMode.READ in self._file.mode:
            return bytes(await self._remote.read_at(wanted.start, wanted.size))
        # The handle is for writing only, so another one reads; its name may lead to
        # another file by now, but then its bytes do not fit.
        try:
            reader, _ = await open_file(self._tree, self._path, OpenMode.READ)
        except RemoteError:
            return None
        try:
            return bytes(await reader.read_at(wanted.start, wanted.size))
        finally:
            with (
                trio.move_on_after(_CLOSE_S, shield=True),
                contextlib.suppress(PamfsError),
            ):
                await reader.close()
