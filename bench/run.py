"""The run: every row at every latency with every peer, in turns, several times."""

from __future__ import annotations

import compileall
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import machine, rows_files, rows_mounts, rows_programs, rows_trees
from bench.measure import Run, drop_caches
from bench.peers import PEERS
from bench.processes import FailedError, TookTooLongError
from bench.relay import running_relay
from bench.relay_row import relay_row
from bench.results import Cell, Results
from bench.rows import LIMIT_S, Job, Row
from bench.server import CIPHER, Site, running_site

ROWS: tuple[Row, ...] = (
    *rows_files.ROWS,
    *rows_trees.ROWS,
    *rows_programs.ROWS,
    *rows_mounts.ROWS,
    *rows_trees.GROWTH,
    *rows_mounts.GROWTH,
)


@dataclass(frozen=True)
class Options:
    """What to measure, and for how long."""

    rows: Sequence[Row]
    peers: Sequence[str]
    rtts: Sequence[float]
    runs: int
    quick: bool
    limit_s: float
    # A cell that has used this much time, mounting included, is run no more.
    cell_s: float


def run_all(options: Options, kept: Path) -> Results:
    """Measure everything; what there is so far is in ``kept`` at any time."""
    # As an installation does; a checkout may be run from its sources each time.
    compileall.compile_dir(str(Path(__file__).parents[1] / "pamfs"), quiet=1)
    results = Results(facts=_facts(options))
    began = time.monotonic()
    with running_site() as site:
        for rtt_ms in options.rtts:
            results.relay.append(relay_row(rtt_ms, 512 if options.quick else 2048))
            with running_relay(site.port, rtt_ms) as port:
                for number, row in enumerate(options.rows):
                    line = _Line(options, site, port, row, rtt_ms, number)
                    results.cells += line.measure()
                    results.facts["load_after"] = machine.load()
                    results.facts["took_s"] = round(time.monotonic() - began)
                    results.save(kept)
    return results


def _facts(options: Options) -> dict[str, object]:
    return {
        "machine": machine.machine(),
        "versions": machine.versions(PEERS[name] for name in options.peers),
        "cipher": CIPHER,
        "caches_dropped": drop_caches(),
        "quick": options.quick,
        "runs": options.runs,
        "limit_s": options.limit_s,
        "load_before": machine.load(),
    }


@dataclass(frozen=True)
class _Line:
    """One row at one latency: its cells, one for each peer."""

    options: Options
    site: Site
    port: int
    row: Row
    rtt_ms: float
    first: int  # which peer begins

    def measure(self) -> list[Cell]:
        size = self.row.size(self.rtt_ms, quick=self.options.quick)
        names = [
            name
            for name in self.options.peers
            if self.row.is_for(name, self.rtt_ms, quick=self.options.quick)
        ]
        cells = [Cell(self.row.name, name, self.rtt_ms, size) for name in names]
        if cells:
            _say(f"{self.row.name} at {self.rtt_ms:g} ms:")
            with files(self.site, self.row, size) as job:
                for number in range(self.first, self.first + self.options.runs):
                    for cell in rotated(cells, number):
                        if not cell.failure and cell.took_s <= self.options.cell_s:
                            began = time.monotonic()
                            self._measure_once(cell, job)
                            cell.took_s += round(time.monotonic() - began, 2)
            _say("\n")
        return cells

    def _measure_once(self, cell: Cell, job: Job) -> None:
        limit_s = LIMIT_S if self.row.setting.only_near else self.options.limit_s
        run = Run(self.row, PEERS[cell.peer], self.site, self.port, limit_s)
        try:
            cell.samples.append(run.measure(job))
            _say(f" {cell.peer} {cell.samples[-1].value:.4g}")
        except TookTooLongError as error:
            cell.failure = f"> {error.timeout_s:g} s"
            _say(f" {cell.peer} {cell.failure}")
        except FailedError as error:
            cell.failure = str(error).replace(str(self.site.folder), "...")
            _say(f"\n  {cell.peer}: {error}\n ")


def rotated(cells: Sequence[Cell], number: int) -> list[Cell]:
    """Return the cells in the order of run ``number``: each is first in its turn."""
    first = number % len(cells)
    return [*cells[first:], *cells[:first]]


@contextmanager
def files(site: Site, row: Row, size: int) -> Iterator[Job]:
    """Make a row's files on the server and beside it; remove them after the row."""
    job = Job(site.remote / row.name, site.local / row.name, size)
    try:
        job.server.mkdir()
        job.local.mkdir()
        row.work.prepare(job)
        yield job
    finally:
        shutil.rmtree(job.server, ignore_errors=True)
        shutil.rmtree(job.local, ignore_errors=True)


def _say(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)
