"""How much the kernel asks of this mount at the same time.

Law: the mount is found in the kernel's table and never touched; where its limits
cannot be changed they stay as they are.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

_TABLE: Final = Path("/proc/self/mountinfo")
_CONNECTIONS: Final = Path("/sys/fs/fuse/connections")
_BACKING: Final = Path("/sys/class/bdi")
# The kernel's 12 and 9 hold for all targets of the mount together
# (facts/peers.md#requests-in-flight).
LIMITS: Final = {"max_background": 256, "congestion_threshold": 192}
# The kernel's 128 makes four requests of one: the answers are there, but each costs
# a turn. More than this makes random access to a memory map read too much.
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

    The files of the connection belong to whoever mounted, and are there where
    fusectl is mounted; that of the read-ahead is root's.
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
