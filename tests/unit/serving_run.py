"""A small mount whose requests are counted, and what they took of trio.

    python -m tests.unit.serving_run MOUNTPOINT [plain]

In a process of its own, for pyfuse3 has one mount in each. With ``plain`` pyfuse3's
tasks are trio's. Says "ready", and when it is unmounted how many steps of tasks trio
did, how many tasks it started, and how many requests were answered.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import sys
from collections.abc import Sequence

import outcome
import pyfuse3
import trio
import trio.lowlevel
import uvloop

from pamfs.app.polling import without_thread
from pamfs.fuse.inflight import InFlightTable
from pamfs.fuse.replies import Waiting, reply, reply_now
from pamfs.fuse.serving import Workers, serve_with


class Counts(trio.abc.Instrument):
    """What trio did."""

    def __init__(self) -> None:
        self.steps = 0
        self.tasks = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.tasks += 1

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1


class Root(pyfuse3.Operations):
    """An empty folder with attributes: ``user.now``, ``user.waits``, ``user.fails``."""

    def __init__(self, waiting: Waiting | None) -> None:
        super().__init__()
        self.in_flight = InFlightTable()
        self.within_s = 5.0
        self.waiting = waiting

    def pid_behind(self, args: Sequence[object]) -> int:
        return 0

    @reply_now
    def getattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        attr = pyfuse3.EntryAttributes()
        attr.st_ino, attr.st_mode = inode, pyfuse3.ModeT(stat.S_IFDIR | 0o755)
        attr.attr_timeout = attr.entry_timeout = 3600
        return attr

    @reply_now
    def listxattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> Sequence[pyfuse3.XAttrNameT]:
        raise ZeroDivisionError

    async def getxattr(
        self,
        inode: pyfuse3.InodeT,
        name: pyfuse3.XAttrNameT,
        ctx: pyfuse3.RequestContext,
    ) -> bytes:
        if bytes(name) == b"user.now":
            return b"1"
        return await self.waits(bytes(name))

    @reply
    async def waits(self, name: bytes) -> bytes:
        await trio.lowlevel.checkpoint()
        if name == b"user.hangs":
            await trio.sleep(0.2)
        if name == b"user.fails":
            raise pyfuse3.FUSEError(errno.EXDEV)
        return b"1"


def main() -> None:
    """Serve until unmounted, then say what it took."""
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    finished: asyncio.Future[outcome.Outcome[None]] = loop.create_future()

    async def run() -> None:
        workers, counts = Workers(loop), Counts()
        is_plain = len(sys.argv) > 2 or not serve_with(workers)
        root = Root(None if is_plain else workers)
        pyfuse3.init(root, sys.argv[1], {"fsname=pamfs:counted", "subtype=pamfs"})
        os.write(1, b"ready\n")
        trio.lowlevel.add_instrument(counts)
        try:
            await pyfuse3.main(min_tasks=8, max_tasks=4096)
        finally:
            pyfuse3.close(unmount=True)
        answered = root.in_flight.statistics().answered
        found = {"steps": counts.steps, "tasks": counts.tasks, "answered": answered}
        os.write(1, json.dumps(found).encode())

    loop.call_soon(
        lambda: trio.lowlevel.start_guest_run(
            run,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=loop.call_soon,
            done_callback=finished.set_result,
            host_uses_signal_set_wakeup_fd=True,
        )
    )
    with without_thread(loop):
        loop.run_until_complete(finished).unwrap()
    os._exit(0)


if __name__ == "__main__":
    main()
