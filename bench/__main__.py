"""``python -m bench``: measure, print the table, keep the figures."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from bench.peers import PEERS
from bench.processes import FailedError
from bench.report import FIGURES, table
from bench.run import ROWS, Options, run_all


def main() -> int:
    """Measure what was asked for."""
    given = _parser().parse_args()
    # What is mounted and made is removed on the way out, also of `timeout`.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if os.getuid() != 0:
        print("bench: needs root, to make accounts as a PAM has them", file=sys.stderr)
        return 1
    rows = [row for row in ROWS if not given.rows or row.name in given.rows]
    options = Options(
        rows=rows,
        peers=given.peers,
        rtts=given.rtt or ([0, 50] if given.quick else [0, 20, 100]),
        runs=given.runs or (1 if given.quick else 3),
        quick=given.quick,
        limit_s=15 if given.quick else 30,
        cell_s=4,
    )
    given.json.parent.mkdir(parents=True, exist_ok=True)
    try:
        results = run_all(options, given.json)
    except FailedError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(table(results))
    print(f"figures in {given.json}; python -m bench.report writes the page of them")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure pamfs beside sshfs, rclone and ssh itself.",
        epilog="rows: " + " ".join(row.name for row in ROWS),
    )
    names = [row.name for row in ROWS]
    parser.add_argument("--quick", action="store_true", help="one small run")
    parser.add_argument("--rows", type=lambda text: _some(text, names), default=[])
    parser.add_argument(
        "--peers", type=lambda text: _some(text, list(PEERS)), default=list(PEERS)
    )
    parser.add_argument("--rtt", type=_numbers, metavar="MS,...")
    parser.add_argument("--runs", type=int, help="of each cell; default 3, quick 1")
    parser.add_argument("--json", type=Path, default=FIGURES, metavar="FILE")
    return parser


def _some(text: str, known: list[str]) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return names


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
