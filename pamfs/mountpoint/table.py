"""What is mounted, from the kernel's table, without touching any mount.

Law: nothing here looks at a mount point itself: a ``stat`` of a mount whose
daemon is stuck never comes back.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pamfs.mountpoint.options import SOURCE_PREFIX

_TABLE: Final = Path("/proc/self/mountinfo")
_LINKS_AT_MOST: Final = 40  # as the kernel: path_resolution(7)


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of ``/proc/self/mountinfo``, proc(5)."""

    mountpoint: Path
    fstype: str
    source: str
    uid: int | None

    @property
    def is_ours(self) -> bool:
        """Whether a pamfs made it, alive or not."""
        is_fuse = self.fstype == "fuse" or self.fstype.startswith("fuse.")
        return is_fuse and self.source.startswith(SOURCE_PREFIX)

    @property
    def is_yours(self) -> bool:
        """Whether this user may command its daemon."""
        return os.geteuid() in {0, self.uid}


def read_table(text: str | None = None) -> Iterator[MountEntry]:
    """Yield what is mounted; later ones cover earlier ones on the same folder."""
    if text is None:
        text = os.fsdecode(_TABLE.read_bytes())
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        place, kind = before.split(" "), after.split(" ")
        if not dash or len(place) < 5 or len(kind) < 3:  # noqa: PLR2004 - proc(5)
            continue
        owner = re.search(r"(?:^|,)user_id=(\d+)", kind[2])
        yield MountEntry(
            Path(_unescape(place[4])),
            kind[0],
            _unescape(kind[1]),
            int(owner[1]) if owner else None,
        )


def find_mount(mountpoint: Path) -> MountEntry | None:
    """Return what is mounted on exactly this folder (a real path), on top."""
    found = [entry for entry in read_table() if entry.mountpoint == mountpoint]
    return found[-1] if found else None


def mounts_of_pamfs() -> list[MountEntry]:
    """Return the pamfs mounts of everybody."""
    return [entry for entry in read_table() if entry.is_ours]


def own_mounts() -> list[MountEntry]:
    """Return the pamfs mounts of this user; root sees everybody's."""
    return [entry for entry in mounts_of_pamfs() if entry.is_yours]


def real_mountpoint(path: Path) -> Path:
    """Return the path as the kernel's table names it.

    The last component is only asked whether it is a link (``readlink`` does not
    reach a FUSE daemon for a folder); what is above it is resolved.
    """
    for _ in range(_LINKS_AT_MOST):
        absolute = os.path.abspath(path)  # noqa: PTH100 - no ".." after a mount
        parent, name = os.path.split(absolute)
        whole = os.path.join(os.path.realpath(parent), name)  # noqa: PTH118
        try:
            target = os.readlink(whole)  # noqa: PTH115
        except OSError:
            return Path(whole)
        path = Path(os.path.dirname(whole), target)  # noqa: PTH120
    return path


def _unescape(text: str) -> str:
    raw = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), os.fsencode(text))
    return os.fsdecode(raw)
