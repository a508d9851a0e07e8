"""pamfs beside one other: the ratio, and whether it is what was aimed at."""

from __future__ import annotations

from dataclasses import dataclass

from bench.results import Cell, Results
from bench.rows import Row
from bench.targets import BETTER_PEER, STORING_PEER, Target

OURS = "pamfs"
MOUNTS = ("sshfs", "rclone")


@dataclass(frozen=True)
class Comparison:
    """How many times better pamfs is; more than one is better."""

    against: str
    ratio: float
    # The other was stopped: it is at least that much worse.
    at_least: bool = False
    target: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the target is met; None without one."""
        return None if self.target is None else self.ratio >= self.target


def compare(
    results: Results, row: Row, rtt_ms: float, target: Target | None
) -> Comparison | None:
    """Compare as a target asks, or with the better peer; None without figures."""
    ours = results.cell(row.name, OURS, rtt_ms)
    against = target.against if target else BETTER_PEER
    if ours is None or ours.median is None:
        return None
    others = _others(results, row, rtt_ms, against)
    found = [
        comparison
        for other in others
        if (comparison := _beside(row, ours.median, other)) is not None
    ]
    if not found:
        return None
    worst = min(found, key=lambda comparison: comparison.ratio)
    wanted = target.at_least.get(rtt_ms) if target else None
    return Comparison(worst.against, worst.ratio, worst.at_least, wanted)


def _others(results: Results, row: Row, rtt_ms: float, against: str) -> list[Cell]:
    names = MOUNTS if against in {BETTER_PEER, STORING_PEER} else (against,)
    cells = [results.cell(row.name, name, rtt_ms) for name in names]
    return [
        cell
        for cell in cells
        if cell and not (against == STORING_PEER and cell.closed_early)
    ]


def _beside(row: Row, ours: float, other: Cell) -> Comparison | None:
    if other.median is not None:
        better = row.value.unit.more_is_better
        ratio = ours / other.median if better else other.median / ours
        return Comparison(other.peer, ratio)
    if other.stopped_after_s and not row.value.unit.more_is_better:
        return Comparison(other.peer, other.stopped_after_s / ours, at_least=True)
    return None
