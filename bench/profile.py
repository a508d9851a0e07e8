"""Where pamfs's time goes in a row: py-spy samples the daemon while the script runs.

python -m bench.profile --rows seq-read,seq-write,cp-out [--rtt 0] [--quick]
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.measure import Run, Watch
from bench.peers import PEERS, Place
from bench.processes import processes_naming
from bench.relay import running_relay
from bench.rows import LIMIT_S, Row
from bench.run import ROWS, files
from bench.server import Site, running_site

SHOWN: Final = 10
# Often enough for a second of work; more would slow down what is looked at.
PER_SECOND: Final = 200


@dataclass(frozen=True)
class Profile:
    """How often each function was at the top of the stack, and on it at all."""

    samples: int
    alone: Mapping[str, int]
    inside: Mapping[str, int]


def read_stacks(text: str) -> Profile:
    """Count in collapsed stacks: ``outer;inner;innermost COUNT`` on each line."""
    alone: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    samples = 0
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        samples += int(count)
        alone[frames[-1]] += int(count)
        inside.update(dict.fromkeys(frames, int(count)))
    return Profile(samples, alone, inside)


def top(counts: Mapping[str, int], samples: int) -> Iterator[str]:
    """Return the functions that were seen most, as parts of all samples.

    What is on every stack, such as ``main``, says nothing.
    """
    told = {name: count for name, count in counts.items() if count < 0.99 * samples}
    for name, count in Counter(told).most_common(SHOWN):
        yield f"{100 * count / max(samples, 1):5.1f}%  {name}"


def profile(row: Row, site: Site, port: int, *, quick: bool) -> Profile:
    """Run a row once with pamfs, and sample it meanwhile."""
    out = site.folder / "stacks"
    run = Run(row, PEERS["pamfs"], site, port, LIMIT_S)
    size = row.size(0, quick=quick)
    with files(site, row, size) as job:
        run.measure(job, watch=_recording(out))
    return read_stacks(out.read_text())


def _recording(out: Path) -> Watch:
    @contextmanager
    def watch(place: Place) -> Iterator[None]:
        (pid, *_) = sorted(processes_naming(place.folder))
        # Only who holds the interpreter: a thread that waits looks busy otherwise.
        options = [f"--rate={PER_SECOND}", "--gil", "--format=raw", f"--output={out}"]
        spy_program = str(Path(sys.executable).with_name("py-spy"))
        command = [spy_program, "record", "--pid", str(pid), *options]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as spy:
            try:
                yield
            finally:
                spy.send_signal(signal.SIGINT)  # it then writes what it has
                spy.wait(30)

    return watch


def main() -> None:
    """Print the profile of each row that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile")
    parser.add_argument("--rows", default="seq-read,seq-write,cp-out,cp-in")
    parser.add_argument("--rtt", type=float, default=0)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    wanted = given.rows.split(",")
    say: Callable[[str], object] = sys.stdout.write
    with running_site() as site, running_relay(site.port, given.rtt) as port:
        for row in ROWS:
            if row.name in wanted:
                found = profile(row, site, port, quick=given.quick)
                say(f"\n{row.name}: {found.samples} samples, in the function itself\n")
                say("\n".join(top(found.alone, found.samples)))
                say("\nin it or in what it calls\n")
                say("\n".join(top(found.inside, found.samples)) + "\n")


if __name__ == "__main__":
    main()
