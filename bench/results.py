"""What a run found, as it is kept in JSON: every sample, and what follows from them."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.measure import Sample


@dataclass
class Cell:
    """One row with one peer at one latency."""

    row: str
    peer: str
    rtt_ms: float
    size: int
    samples: list[Sample] = field(default_factory=list)
    # "> 60 s", or what went wrong; then there may be fewer samples.
    failure: str = ""
    # What all its runs took, mounting and clearing away included.
    took_s: float = 0

    @property
    def stopped_after_s(self) -> float | None:
        """The time after which a run was stopped, if that is why it has none."""
        return float(self.failure.split()[1]) if self.failure.startswith(">") else None

    @property
    def median(self) -> float | None:
        """The middle one of the values, if there are any."""
        values = [sample.value for sample in self.samples]
        return statistics.median(values) if values else None

    @property
    def spread(self) -> float:
        """How far the values lie apart, as a part of the median."""
        values = [sample.value for sample in self.samples]
        middle = self.median
        return (max(values) - min(values)) / middle if middle else 0

    @property
    def closed_early(self) -> bool:
        """Whether files were closed well before the server had all of them."""
        return any(
            sample.seconds > 1.05 * sample.closed_s + 0.05 for sample in self.samples
        )

    @property
    def peak_bytes(self) -> int:
        """The most memory that the peer's processes had."""
        return max((sample.peak_bytes for sample in self.samples), default=0)

    def as_json(self) -> dict[str, Any]:
        """Return it as it is kept; what follows from the samples is for readers."""
        return {
            **asdict(self),
            "median": self.median,
            "spread": round(self.spread, 3),
            "closed_early": self.closed_early,
        }

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Cell:
        """Return what ``as_json`` kept."""
        samples = [Sample(**sample) for sample in kept["samples"]]
        names = ("row", "peer", "rtt_ms", "size", "failure", "took_s")
        return cls(samples=samples, **{name: kept[name] for name in names})


@dataclass
class Results:
    """A whole run."""

    facts: dict[str, Any] = field(default_factory=dict)
    relay: list[dict[str, float]] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)

    def cell(self, row: str, peer: str, rtt_ms: float) -> Cell | None:
        """Return a cell, if it was measured."""
        for cell in self.cells:
            if (cell.row, cell.peer, cell.rtt_ms) == (row, peer, rtt_ms):
                return cell
        return None

    def rtts(self) -> list[float]:
        """Return the latencies that were measured, least first."""
        return sorted({cell.rtt_ms for cell in self.cells})

    def save(self, path: Path) -> None:
        """Write it down."""
        kept = {
            "facts": self.facts,
            "relay": self.relay,
            "cells": [cell.as_json() for cell in self.cells],
        }
        path.write_text(json.dumps(kept, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what ``save`` wrote."""
        kept = json.loads(path.read_text())
        cells = [Cell.from_json(cell) for cell in kept["cells"]]
        return cls(kept["facts"], kept["relay"], cells)
