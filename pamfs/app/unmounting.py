"""Taking the mount out of the name space, from outside the serving process.

The process that serves a mount must not touch it: a page fault on it would
wait for the process itself (facts/peers.md#waiting-processes). So other programs do it.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import trio

# What a program may take that waits for the kernel, which waits for us.
_WITHIN_S: Final = 30.0


async def detach(mountpoint: Path, *, is_lazy: bool) -> str | None:
    """Unmount; return None, or one line that says why it could not be done."""
    fusermount = shutil.which("fusermount3")
    program = [fusermount, "-u"] if fusermount else ["umount"]
    lazy = ["-z" if fusermount else "-l"] if is_lazy else []
    done = await _run([*program, *lazy, "--", str(mountpoint)])
    if done is None:
        return f"{mountpoint}: unmounting did not end within {_WITHIN_S:g} s"
    if done.returncode == 0:
        return None
    said = done.stderr.decode(errors="replace").strip().splitlines()
    reason = said[-1] if said else f"{program[0]} ended with {done.returncode}"
    if "busy" in reason:
        return f"{mountpoint}: in use (an open file, or somebody's working directory)"
    return f"{mountpoint}: {reason}"


async def sync_pages(mountpoint: Path) -> None:
    """Have the kernel write what programs changed through memory maps."""
    await _run(["sync", "-f", "--", str(mountpoint)])


async def _run(command: list[str]) -> subprocess.CompletedProcess[bytes] | None:
    with trio.move_on_after(_WITHIN_S):
        return await trio.run_process(
            command, check=False, capture_stderr=True, stdin=subprocess.DEVNULL
        )
    return None
