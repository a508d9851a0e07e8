"""What this process does to its own mount, without accessing it.

Law: the process that serves a mount never accesses a path below the mount point. The
request would wait for the thread that has to answer it
(facts/peers.md#waiting-processes). So other programs unmount and sync, and the kernel's
limits are changed through ``/proc`` and ``/sys``.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import trio

# The other program waits for the kernel, and the kernel for this process.
_WITHIN_S: Final = 30.0


async def detach(mountpoint: Path, *, is_lazy: bool) -> str | None:
    """Unmount; return None, or the reason for the failure in one line."""
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
        return f"{mountpoint}: in use: a program has an open file or its folder there"
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


log = logging.getLogger(__name__)

_TABLE: Final = Path("/proc/self/mountinfo")
_CONNECTIONS: Final = Path("/sys/fs/fuse/connections")
_BACKING: Final = Path("/sys/class/bdi")
# The kernel's 12 and 9 hold for all targets of the mount together
# (facts/peers.md#requests-in-flight).
LIMITS: Final = {"max_background": 256, "congestion_threshold": 192}
# With the kernel's 128 KiB a read is split into four requests, each with its own turn
# through the kernel. A larger value makes random access to a memory map read too much.
READ_AHEAD_KB: Final = 512
# Characters that mountinfo writes in octal: proc(5).
_ESCAPES: Final = str.maketrans({c: f"\\{ord(c):03o}" for c in " \t\n\\"})


def raise_limits(
    mountpoint: Path,
    table: Path = _TABLE,
    connections: Path = _CONNECTIONS,
    backing: Path = _BACKING,
) -> None:
    """Let the kernel have more and larger requests under way than its default.

    The files of the connection belong to the mounting user and exist where fusectl is
    mounted; only root can write the file of the readahead.
    """
    number = connection_of(mountpoint, os.fsdecode(table.read_bytes()))
    wanted = {connections / str(number) / name: limit for name, limit in LIMITS.items()}
    wanted[backing / f"0:{number}" / "read_ahead_kb"] = READ_AHEAD_KB
    for path, limit in wanted.items():
        try:
            _write(path, limit)
        except OSError as exc:
            log.debug("%s stays as it is: %s", path.name, exc)


def _write(path: Path, limit: int) -> None:
    # Not created if it is missing: without fusectl the folder is a plain one.
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, b"%d\n" % limit)
    finally:
        os.close(fd)


def connection_of(mountpoint: Path, table: str) -> int | None:
    """Return the number of the FUSE connection on top of ``mountpoint``.

    It is the minor device number, the third field of the line: proc(5).
    """
    shown = str(mountpoint).translate(_ESCAPES)
    lines = [line.split(" ") for line in table.splitlines()]
    found = [fields[2] for fields in lines if fields[4:5] == [shown]]
    return int(found[-1].partition(":")[2]) if found else None
