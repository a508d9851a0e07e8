"""What a soak writes down, and what it says of it at the end.

Law: a job whose programs all said success has stored and read what it should, or it
is ``WRONG``. ``TOLD`` is an error that a program was told, ``HUNG`` no end in time.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

# A leak of a small thing at each fault is more than this in a minute.
SLOPE_WARM_UP: Final = 0.25


class State(StrEnum):
    """What became of one job."""

    DONE = "done"
    TOLD = "told"
    HUNG = "hung"
    WRONG = "WRONG"


@dataclass(frozen=True)
class Outcome:
    """One job on one target: what became of it, and the words for it."""

    job: str
    target: str
    state: State
    why: str = ""
    took_s: float = 0.0


@dataclass(frozen=True)
class Sample:
    """What the daemon held at a moment, in seconds since the start."""

    at_s: float
    rss_kib: int
    descriptors: int


@dataclass
class Ledger:
    """All outcomes, faults and samples of a soak; used by many threads."""

    outcomes: list[Outcome] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ended(self, outcome: Outcome) -> None:
        """Write down what became of a job."""
        with self._lock:
            self.outcomes.append(outcome)

    def failed(self, kind: str) -> None:
        """Write down a fault that was caused."""
        with self._lock:
            self.faults[kind] += 1

    def sampled(self, sample: Sample) -> None:
        """Write down what the daemon holds."""
        with self._lock:
            self.samples.append(sample)

    def leaked(self, what: str, count: int) -> None:
        """Write down how many of ``what`` are left at the end."""
        with self._lock:
            self.left[what] = count

    def count(self, state: State) -> int:
        """Return how many jobs ended so."""
        return sum(outcome.state is state for outcome in self.outcomes)

    @property
    def verdict(self) -> list[str]:
        """Return what must not be: lost data, programs without an end, leaks."""
        bad = [
            f"{outcome.state}: {outcome.job} on {outcome.target}: {outcome.why}"
            for outcome in self.outcomes
            if outcome.state in {State.WRONG, State.HUNG}
        ]
        leaks = [f"left: {count} {what}" for what, count in self.left.items() if count]
        return bad + leaks

    def lines(self) -> list[str]:
        """Return the report, line by line."""
        states = ", ".join(f"{self.count(state)} {state}" for state in State)
        most = max((sample.rss_kib for sample in self.samples), default=0) >> 10
        slope = rss_slope(self.samples)
        found = [
            f"jobs: {len(self.outcomes)}: {states}",
            f"faults: {_counted(self.faults)}",
            f"RSS: {slope:+.2f} MiB a minute after the warm-up, {most} MiB at most",
        ]
        for job in sorted({outcome.job for outcome in self.outcomes}):
            mine = [outcome for outcome in self.outcomes if outcome.job == job]
            told = Counter(o.why for o in mine if o.state is State.TOLD)
            done = sum(outcome.state is State.DONE for outcome in mine)
            found.append(f"  {job}: {done} of {len(mine)}; " + _counted(told))
        return [*found, *self.verdict]


def _counted(counts: Mapping[str, int]) -> str:
    pairs = sorted(counts.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{count} {what}" for what, count in pairs) or "none"


def rss_slope(samples: Sequence[Sample]) -> float:
    """Return MiB a minute, by least squares, without the first quarter of the time."""
    if not samples:
        return 0.0
    begin = samples[0].at_s + SLOPE_WARM_UP * (samples[-1].at_s - samples[0].at_s)
    kept = [sample for sample in samples if sample.at_s >= begin]
    mean_t = sum(sample.at_s for sample in kept) / len(kept)
    mean_m = sum(sample.rss_kib for sample in kept) / len(kept)
    spread = sum((sample.at_s - mean_t) ** 2 for sample in kept)
    if not spread:
        return 0.0
    rises = ((s.at_s - mean_t) * (s.rss_kib - mean_m) for s in kept)
    return sum(rises) / spread * 60 / 1024
