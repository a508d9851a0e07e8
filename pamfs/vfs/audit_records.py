"""Audit records of what programs do with files: done, or why it failed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import trio

from pamfs.audit import Audit, NoAudit, errno_name
from pamfs.errors import PamfsError
from pamfs.model import Caller, Name
from pamfs.processes import program_of
from pamfs.transport.base import OpenMode
from pamfs.vfs.handles import OpenFile
from pamfs.vfs.names.inodes import Inode, InodeTable

# How what is recorded may end without being done.
_FAILED: Final = (PamfsError, trio.TooSlowError, trio.Cancelled)


class AuditRecorder:
    """Records changes of names, and opens and closes of files."""

    def __init__(self, audit: Audit, inodes: InodeTable) -> None:
        self._audit = audit
        self._inodes = inodes

    @contextmanager
    def doing(
        self,
        event: str,
        caller: Caller,
        inode: Inode,
        name: Name | None = None,
        **facts: object,
    ) -> Iterator[None]:
        """Record ``event`` on ``inode``, or on ``name`` in it, when it is over."""
        facts = {"path": self.path(inode, name), **facts}
        try:
            yield
        except _FAILED as exc:
            # A change that was cut short may have happened all the same.
            self._record(event, caller, inode, error=errno_name(exc), **facts)
            raise
        self._record(event, caller, inode, **facts)

    def program(self, caller: Caller) -> str:
        """Return the program's name as long as there is one, if records are kept."""
        return "" if isinstance(self._audit, NoAudit) else program_of(caller.pid)

    @contextmanager
    def listing_ahead(
        self, caller: Caller, folder: Inode, names: Sequence[Name]
    ) -> Iterator[None]:
        """Record that ``names`` of ``folder``'s target were listed unasked."""
        path = self._inodes.shown_below(folder, names)
        try:
            yield
        except _FAILED as exc:
            facts = {"path": path, "error": errno_name(exc)}
            self._record("list_ahead", caller, folder, **facts)
            raise
        self._record("list_ahead", caller, folder, path=path)

    @contextmanager
    def reading_ahead(
        self, caller: Caller, inode: Inode, nbytes: int
    ) -> Iterator[None]:
        """Record that a file of ``nbytes`` was read whole before it was opened."""
        facts: dict[str, object] = {"path": self.path(inode), "bytes_read": nbytes}
        try:
            yield
        except _FAILED as exc:
            self._record("read_ahead", caller, inode, error=errno_name(exc), **facts)
            raise
        self._record("read_ahead", caller, inode, **facts)

    def closed(self, file: OpenFile) -> None:
        """Record the last close of an open file, with what went through it."""
        self._record(
            "close",
            file.caller,
            file.inode,
            program=file.program or None,
            path=self.path(file.inode),
            mode=mode_name(file.mode),
            bytes_read=file.bytes_read,
            bytes_written=file.bytes_written,
            error=errno_name(file.latched) if file.latched else None,
        )

    def lost(self, file: OpenFile, exc: PamfsError, nbytes: int) -> None:
        """Record that data is not stored that was said to be written."""
        self._record(
            "data_lost",
            file.caller,
            file.inode,
            program=file.program or None,
            path=self.path(file.inode),
            bytes_lost=nbytes or None,
            error=errno_name(exc),
        )

    def path(self, inode: Inode, name: Name | None = None) -> str:
        """Return a path below the mount, as it is at this moment."""
        folder = self._inodes.shown_path(inode)
        return folder if name is None else f"{folder}/{os.fsdecode(name)}"

    def _record(
        self, event: str, caller: Caller, inode: Inode, **facts: object
    ) -> None:
        target = str(inode.target) if inode.target else None
        pid, uid = caller.pid, caller.uid
        self._audit.record(event, target=target, pid=pid, uid=uid, **facts)


def mode_name(mode: OpenMode) -> str:
    """Return ``r``, ``w`` or ``rw``."""
    reads, writes = OpenMode.READ in mode, OpenMode.WRITE in mode
    return "r" * reads + "w" * writes
