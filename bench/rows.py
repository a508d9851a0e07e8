"""What a row is: a shell script as a user would type it, and what surrounds it.

The scripts find in their environment:

    REMOTE   the row's folder, as the peer shows it
    SERVER   the same folder, as the server itself sees it
    LOCAL    a folder of the row on the client's side
    SSH      the command that runs something on the server (peer ssh only)
    N        the row's size at this latency
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LIMIT_S: Final = 60  # of the rows about growth, which are few
MIB: Final = 1 << 20


class Unit(enum.Enum):
    """What the value of a row counts."""

    SECONDS = "s"
    RATE = "MB/s"
    READS = "reads/s"

    @property
    def more_is_better(self) -> bool:
        """Whether the greater value is the better one."""
        return self is not Unit.SECONDS


@dataclass(frozen=True)
class Job:
    """A row at one latency: where its files lie, and how many."""

    server: Path
    local: Path
    size: int


def takes_time(_: str, seconds: float, __: int) -> float:
    """Return the seconds: the value of most rows."""
    return seconds


def moves_bytes(_: str, seconds: float, size: int) -> float:
    """Return megabytes each second, of a row whose size is in MiB."""
    return size * MIB / 1e6 / seconds


def always(_: Job) -> bool:
    """Say that nothing remains to be stored: the row only reads."""
    return True


@dataclass(frozen=True)
class Sizes:
    """How much a row does: at no latency, from 5 ms on, and from 50 ms on.

    The slowest peer should take some seconds, and all peers do the same. 0: the row
    is left out there, for it would take long and tell nothing that others do not.
    """

    near: int
    far: int
    farthest: int

    def at(self, rtt_ms: float) -> int:
        """Return the size at a latency."""
        if rtt_ms < 5:  # noqa: PLR2004 - the class says it
            return self.near
        return self.far if rtt_ms < 50 else self.farthest  # noqa: PLR2004


@dataclass(frozen=True)
class Work:
    """The commands of a row, for ``bench.measure``.

    Only ``script`` is timed. ``over_ssh`` does the same without a mount; "": ssh has
    no such row. ``reset`` runs before each run, ``warm`` in the fresh mount before the
    script.
    """

    script: str
    prepare: Callable[[Job], None]
    over_ssh: str = ""
    reset: str = ""
    warm: str = ""
    is_stored: Callable[[Job], bool] = always


@dataclass(frozen=True)
class Value:
    """What is shown of a run, for ``bench.report`` and ``bench.plots``."""

    unit: Unit = Unit.SECONDS
    of: Callable[[str, float, int], float] = takes_time


@dataclass(frozen=True)
class Setting:
    """Where a row is run, for ``bench.run``; ``from_mount`` times the mount as well."""

    peers: frozenset[str] = frozenset({"pamfs", "sshfs", "rclone"})
    only_near: bool = False
    from_mount: bool = False
    devices: int = 1


@dataclass(frozen=True)
class Row:
    """One thing that people do with files, timed."""

    name: str
    title: str
    counts: str
    sizes: Sizes
    quick: Sizes
    work: Work
    value: Value = Value()
    setting: Setting = Setting()

    def is_for(self, peer: str, rtt_ms: float, *, quick: bool) -> bool:
        """Whether the row is run with a peer at a latency."""
        if self.size(rtt_ms, quick=quick) == 0 or (
            self.setting.only_near and rtt_ms > 0
        ):
            return False
        return bool(self.work.over_ssh) if peer == "ssh" else peer in self.setting.peers

    def size(self, rtt_ms: float, *, quick: bool) -> int:
        """Return how much the row does."""
        return (self.quick if quick else self.sizes).at(rtt_ms)
