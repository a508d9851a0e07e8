"""Free space for statfs(2): the sum over the open targets.

Law: nothing here connects or waits. pyfuse3 does not say which inode a statfs
is about, so the mount shows the sum of its open targets, each as of at most
``STALE_S`` ago; with none open it shows room enough for tools that look before
they copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pamfs.model import Space

STALE_S: Final = 60.0
_FRAGMENT: Final = 4096
# What programs count bytes and files with: signed 64 bits.
_MOST: Final = (1 << 63) - 1
_TEBIBYTE_BLOCKS: Final = (1 << 40) // _FRAGMENT
UNKNOWN: Final = Space(
    fragment_bytes=_FRAGMENT,
    blocks=_TEBIBYTE_BLOCKS,
    blocks_free=_TEBIBYTE_BLOCKS,
    blocks_available=_TEBIBYTE_BLOCKS,
    files=0,
    files_free=0,
    files_available=0,
    name_max=255,
)


@dataclass(frozen=True, slots=True)
class Measured:
    """The free space of a target, and when it was measured."""

    space: Space
    at: float


def total(spaces: Iterable[Space]) -> Space:
    """Return the sum of ``spaces`` in units of 4 KiB, or ``UNKNOWN`` for none."""
    known = list(spaces)
    if not known:
        return UNKNOWN

    def blocks(field: str) -> int:
        found: int = sum(
            getattr(space, field) * space.fragment_bytes // _FRAGMENT for space in known
        )
        return min(found, _MOST // _FRAGMENT)

    def files(field: str) -> int:
        found: int = sum(getattr(space, field) for space in known)
        return min(found, _MOST)

    return Space(
        fragment_bytes=_FRAGMENT,
        blocks=blocks("blocks"),
        blocks_free=blocks("blocks_free"),
        blocks_available=blocks("blocks_available"),
        files=files("files"),
        files_free=files("files_free"),
        files_available=files("files_available"),
        name_max=min(space.name_max for space in known),
    )
