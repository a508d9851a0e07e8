"""Two event loops in one thread: trio is the guest of uvloop.

asyncssh and the file system then share a thread: nothing that one holds can
change while the other looks at it (docs/decisions.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import outcome
import trio
import uvloop

from pamfs.app.clock import RunningClock
from pamfs.app.hardening import harden
from pamfs.app.memory import keep_buffers
from pamfs.app.mount import Mount
from pamfs.app.polling import without_thread
from pamfs.app.terminal import leave_terminal
from pamfs.config import Config
from pamfs.mountpoint import MountOptions


def serve(
    config: Config,
    mountpoint: Path,
    options: MountOptions,
    on_ready: Callable[[], None],
) -> int:
    """Mount and serve until unmounted; return 0, or 1 if something was lost.

    Raises ``PamfsError`` with one line if the mount cannot be made.
    """
    leave_terminal()
    harden()
    keep_buffers()
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    finished: asyncio.Future[int] = loop.create_future()

    async def run() -> int:
        mount = Mount(loop, config, mountpoint, options)
        try:
            return await mount.run(on_ready)
        finally:
            mount.close()

    def on_done(result: outcome.Outcome[int]) -> None:
        try:
            finished.set_result(result.unwrap())
        except BaseException as exc:  # noqa: BLE001 - it is raised by ``serve``
            finished.set_exception(exc)

    def start() -> None:
        trio.lowlevel.start_guest_run(
            run,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=loop.call_soon,
            done_callback=on_done,
            host_uses_signal_set_wakeup_fd=True,
            clock=RunningClock(),
        )

    loop.call_soon(start)
    try:
        with without_thread(loop):
            return loop.run_until_complete(finished)
    finally:
        loop.close()
