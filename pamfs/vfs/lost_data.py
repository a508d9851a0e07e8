"""Data that programs were told is written, and that is not stored: kept until read.

A program learns of it by the error of its ``fsync`` or ``close``, if it asks and if it
looks; the pages of a memory map are written when there is no call to fail. So each loss
is also in the log, in the audit and in ``pamfs status``, and the users of the mount get
a notice. ``pamfs umount`` names what no ``pamfs status`` has shown.

What the device refused (no space, no permission) and a program was told at its close is
no loss of this kind. Invariant: an open file is noted once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import trio

from pamfs.errors import PamfsError
from pamfs.model import Target
from pamfs.vfs.audit_records import AuditRecorder
from pamfs.vfs.handles import OpenFile
from pamfs.vfs.names.inodes import InodeTable

# Files that are named; of more the number alone is known.
KEPT: Final = 1000
# One notice for all files that a target loses within this time.
QUIET_S: Final = 60.0

Tell = Callable[[Target, str], object]


@dataclass(frozen=True, slots=True)
class LostFile:
    """A file with lost data; ``at`` in seconds since the epoch.

    ``nbytes`` is 0 if it is not known how much it was.
    """

    number: int
    at: float
    target: str
    path: str
    why: str
    nbytes: int
    pid: int
    uid: int

    def __str__(self) -> str:
        much = f"{self.nbytes} bytes: " if self.nbytes else ""
        return f"{self.path}: {much}{self.why}"


class LostData:
    """The files of a mount with lost data that nobody has read of yet."""

    def __init__(self, inodes: InodeTable, recorder: AuditRecorder) -> None:
        self.more = 0  # files beyond those that are named
        self._inodes = inodes
        self._recorder = recorder
        self._tell: Tell = lambda _target, _text: None
        self._told_at: dict[Target, float] = {}
        self._unread: dict[str, LostFile] = {}
        self._number = 0

    def tell_with(self, tell: Tell) -> None:
        """Have ``tell`` give a notice about a target to the users of the mount."""
        self._tell = tell

    def note(self, file: OpenFile, exc: PamfsError, nbytes: int = 0) -> None:
        """Note that data written through ``file`` is not stored; it is in the log."""
        if file.is_noted:
            return
        file.is_noted = True
        self._recorder.lost(file, exc, nbytes)
        self._keep(file, exc, nbytes)
        now = trio.current_time()
        if now - self._told_at.get(file.target, -QUIET_S) >= QUIET_S:
            self._told_at[file.target] = now
            text = "data that a program has written is not stored"
            self._tell(file.target, f"{text} ({exc}); pamfs status names the files")

    def unread(self) -> Sequence[LostFile]:
        """Return the files that nobody has read of, the latest last."""
        return list(self._unread.values())

    def was_read(self, until: int) -> None:
        """Forget the files up to the number ``until``: a person has seen them."""
        self.more = 0
        for lost in self.unread():
            if lost.number <= until:
                del self._unread[lost.path]

    def _keep(self, file: OpenFile, exc: PamfsError, nbytes: int) -> None:
        self._number += 1
        path = self._inodes.shown_path(file.inode)
        before = self._unread.pop(path, None)
        if before is not None:
            nbytes += before.nbytes
            self._unread[path] = replace(before, number=self._number, nbytes=nbytes)
            return
        if len(self._unread) >= KEPT:
            self.more += 1
            return
        self._unread[path] = LostFile(
            number=self._number,
            at=datetime.now(UTC).timestamp(),
            target=str(file.target),
            path=path,
            why=str(exc),
            nbytes=nbytes,
            pid=file.caller.pid,
            uid=file.caller.uid,
        )
