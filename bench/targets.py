"""What pamfs is meant to reach, row by row and latency by latency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BETTER_PEER: Final = "better peer"
# Only a peer whose files are on the server when they are closed.
STORING_PEER: Final = "better storing peer"


@dataclass(frozen=True)
class Target:
    """How many times better than another pamfs should be at each latency."""

    row: str
    against: str
    at_least: dict[float, float]


def _target(row: str, against: str, *ratios: float) -> Target:
    return Target(row, against, dict(zip((0.0, 20.0, 100.0), ratios, strict=False)))


TARGETS: Final = (
    _target("seq-read", BETTER_PEER, 1.3, 3, 3),
    _target("seq-read", "ssh", 0.9),
    _target("seq-write", STORING_PEER, 1.2, 2, 2),
    _target("cp-out", BETTER_PEER, 1.2, 8, 15),
    _target("cp-in", BETTER_PEER, 1.0, 3, 4),
    _target("find", BETTER_PEER, 1.0, 8, 15),
    _target("ls", BETTER_PEER, 1.0, 8, 15),
    _target("du", BETTER_PEER, 1.0, 8, 15),
    _target("rsync-again", BETTER_PEER, 1.0, 5, 8),
    _target("restic-again", BETTER_PEER, 1.0, 5, 8),
    _target("random-16", BETTER_PEER, 0.8, 1.0, 1.0),
    _target("first-byte", "sshfs", 0.67, 1.0, 1.0),
)
PEAK_MB: Final = 250.0
CRAWL_GROWTH_MB: Final = 100.0
TARGET_MB: Final = 2.0


def targets_of(row: str) -> list[Target]:
    """Return the targets of a row; most rows have one, many none."""
    return [target for target in TARGETS if target.row == row]
