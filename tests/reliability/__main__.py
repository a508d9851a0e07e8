"""Measure the cases of docs/reliability.md: ``python -m tests.reliability [WORD ...]``.

Without words all of them, else those whose name has one of the words. The outcomes
are printed as rows of the table, and kept in ``reliability-results/``. With ``--page``
the table of docs/reliability.md gets them; before a page is written, a run may be
split: ``--from`` takes the outcomes of earlier runs instead of trying anything.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tests.mount.accounts import ROOT, myself
from tests.mount.harness import own_place
from tests.reliability.page import updated
from tests.reliability.rows import ROWS, Bench, Row

RESULTS = ROOT / "reliability-results"


def outcome(row: Row, client: str) -> str:
    """Return what the row says, or what went wrong with trying it."""
    with own_place(myself()) as place:
        try:
            return row(Bench(place, client))
        except Exception as exc:  # noqa: BLE001 - the next row is another matter
            return f"not measured: {type(exc).__name__}: {str(exc)[:200]}"


def main() -> None:
    """Try each wanted case by each client."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability")
    parser.add_argument("words", nargs="*")
    parser.add_argument("--clients", default="pamfs,sshfs")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / f"{int(time.monotonic())}.json"
    )
    parser.add_argument("--page", type=Path)
    parser.add_argument("--from", dest="earlier", nargs="*", type=Path)
    given = parser.parse_args()
    found: dict[str, dict[str, str]] = {}
    if given.earlier is not None:
        for path in given.earlier:
            for name, said in json.loads(path.read_text()).items():
                found.setdefault(name, {}).update(said)
    else:
        try_all(given, found)
    if given.page is not None:
        given.page.write_text(updated(given.page.read_text(), found))


def try_all(given: argparse.Namespace, found: dict[str, dict[str, str]]) -> None:
    """Try the cases that the command line names; keep each outcome at once."""
    given.out.parent.mkdir(exist_ok=True)
    for name, row in ROWS.items():
        if given.words and not any(word in name for word in given.words):
            continue
        for client in given.clients.split(","):
            found.setdefault(name, {})[client] = said = outcome(row, client)
            sys.stdout.write(f"| {name} | {client} | {said} |\n")
            sys.stdout.flush()
            given.out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
