"""What the kernel holds of a target, and how it is made to let go.

After check-in nothing of a target may be readable: pages, attributes and names
are dropped. The calls may block on pages that a request holds, so they run in
a thread and never in a handler (pyfuse3, ``invalidate_inode``). A page that a
request under way is about to fill is locked: the kernel waits for the answer,
then drops it. A page that a program has mapped is unmapped, and the next touch
asks us again (docs/leases.md).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Final

import pyfuse3
import trio

from pamfs.model import Ino, Name
from pamfs.vfs.names.inodes import Inode

log = logging.getLogger(__name__)

Entries = Sequence[tuple[Ino, Name]]

# A page that the device never answers for is not waited for at the end.
_CLOSE_WITHIN_S: Final = 5.0


class KernelCaches:
    """Drops what the kernel has cached."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._under_way = 0
        self._is_closed = False
        self._dropped = trio.Event()

    def drop(self, inodes: Sequence[Inode]) -> None:
        """Have the kernel forget the content and names of ``inodes``, soon."""
        inos = [inode.ino for inode in inodes]
        # A directory's name ends with its time to live, and holds nothing: taken
        # away at once, a shell that stands in it would not know where it is.
        names = [
            (parent.ino, name)
            for inode in inodes
            if not inode.is_dir
            for parent, name in inode.names
        ]
        if inos and not self._is_closed:
            self._under_way += 1
            self._nursery.start_soon(self._drop, inos, names)

    async def wait_dropped(self) -> None:
        """Wait until the kernel has forgotten everything that it was to forget."""
        while self._under_way:
            await self._dropped.wait()

    async def close(self) -> None:
        """Drop nothing more: without a mount the calls would end the process."""
        with trio.move_on_after(_CLOSE_WITHIN_S):
            await self.wait_dropped()
        self._is_closed = True

    async def _drop(self, inos: Sequence[Ino], names: Entries) -> None:
        try:
            await trio.to_thread.run_sync(
                self._drop_all, inos, names, abandon_on_cancel=True
            )
        except Exception:
            # A background task of ours must not end the mount.
            log.exception("the kernel could not be made to forget a target")
        finally:
            self._under_way -= 1
            self._dropped.set()
            self._dropped = trio.Event()

    def _drop_all(self, inos: Sequence[Ino], names: Entries) -> None:
        for ino in inos:
            if self._is_closed:
                return
            # The kernel may have forgotten it by itself.
            with contextlib.suppress(OSError):
                pyfuse3.invalidate_inode(pyfuse3.InodeT(ino))
        for parent, name in names:
            if self._is_closed:
                return
            with contextlib.suppress(OSError):
                pyfuse3.invalidate_entry(
                    pyfuse3.InodeT(parent), pyfuse3.FileNameT(bytes(name))
                )
