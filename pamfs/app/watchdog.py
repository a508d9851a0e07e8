"""The proof that the mount works: another process asks it, through the kernel.

Law: systemd hears that we live only after a request went through the mount and
came back. The process that serves never asks itself: a request to its own mount
would wait for the thread that waits (facts/peers.md#waiting-processes).
"""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from pamfs.app.notify import Notifier

log = logging.getLogger(__name__)

# sd_watchdog_enabled(3) says half; so one late answer is not yet the end.
_BEATS: Final = 3
_FUSE_MAGIC: Final = b"65735546"  # statfs(2); what lies below the mount has another


async def goes_through(mountpoint: Path, within_s: float) -> bool:
    """Whether a statfs(2) of the root, which needs no device, is answered in time.

    Where the kernel holds the program fast, this waits for it longer than that:
    then nobody says that we live, as it should be.
    """
    program = shutil.which("stat") or "/usr/bin/stat"
    with trio.move_on_after(within_s):
        done = await trio.run_process(
            [program, "--file-system", "--format=%t", "--", str(mountpoint)],
            check=False,
            capture_stdout=True,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return done.stdout.strip() == _FUSE_MAGIC
    return False


async def feed(
    mountpoint: Path, every_s: float, notifier: Notifier, describe: Callable[[], str]
) -> None:
    """Ask for ever, often enough for a watchdog of ``every_s``."""
    beat_s = every_s / _BEATS
    while True:
        if await goes_through(mountpoint, beat_s):
            notifier.alive(describe())
        else:
            log.error("%s: no answer within %g s through the mount", mountpoint, beat_s)
        await trio.sleep(beat_s)
