"""What was seen of each server: ``seen.json``, and its page ``docs/servers.md``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, TypedDict

from tests.menagerie.applications import APPLICATIONS, State

SEEN: Final = Path(__file__).with_name("seen.json")
PAGE: Final = Path(__file__).parents[2] / "docs" / "servers.md"
BEGIN: Final = "<!-- written by make menagerie: begin -->"
END: Final = "<!-- written by make menagerie: end -->"
LONG_COLUMNS: Final = (
    "100 MB in",
    "100 MB out",
    "100 MB in, 10 ms",
    "100 MB out, 10 ms",
)
MARKS: Final = {State.WORKS: "yes", State.REFUSED: "error", State.WRONG: "**WRONG**"}


class Row(TypedDict):
    """One server: its version, and the state and note of each application."""

    version: str
    applications: dict[str, tuple[str, str]]
    promises: dict[str, str]


Seen = dict[str, Row]


def load() -> Seen:
    """Return what was seen last, nothing for a new checkout."""
    if not SEEN.exists():
        return {}
    found: Seen = json.loads(SEEN.read_text())
    return found


def save(seen: Seen) -> None:
    """Store what was seen, and write the page's tables from it."""
    SEEN.write_text(
        json.dumps(seen, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    )
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + BEGIN + "\n" + rendered(seen) + END + after)


def see(
    name: str,
    version: str,
    *,
    applications: dict[str, tuple[str, str]] | None = None,
    promises: dict[str, str] | None = None,
) -> None:
    """Store what was just seen of one server; the rest of its row stays."""
    seen = load()
    row = seen.setdefault(name, Row(version="", applications={}, promises={}))
    row["version"] = version
    if applications is not None:
        row["applications"] = applications
    if promises is not None:
        row["promises"] = promises
    save(seen)


def wrong() -> list[str]:
    """Return the cells in which something else was stored than was said."""
    return [
        f"{name}: {application} ({note})"
        for name, row in sorted(load().items())
        for application, (state, note) in sorted(row["applications"].items())
        if state == State.WRONG
    ]


def rendered(seen: Seen) -> str:
    """Return the tables of ``seen`` as Markdown."""
    columns = [*APPLICATIONS, *LONG_COLUMNS]
    lines = ["", "| server | version | " + " | ".join(columns) + " |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for name, row in sorted(seen.items()):
        cells = [_mark(row, column) for column in columns]
        lines.append(f"| {name} | {row['version']} | {' | '.join(cells)} |")
    lines += ["", "What the cells mean that are not a plain yes:", ""]
    lines += [line for name, row in sorted(seen.items()) for line in _notes(name, row)]
    lines += ["", "Promises of the contract tests that a server does not keep:", ""]
    lines += [line for name, row in sorted(seen.items()) for line in _broken(name, row)]
    return "\n".join([*lines, ""])


def _mark(row: Row, column: str) -> str:
    if column not in row["applications"]:
        return "-"
    state, note = row["applications"][column]
    return MARKS[State(state)] + (" (*)" if note and state == State.WORKS else "")


def _notes(name: str, row: Row) -> list[str]:
    noted = [
        f"{application}: {note.replace('|', ' ')}"
        for application, (_, note) in sorted(row["applications"].items())
        if note
    ]
    return [f"- **{name}**: " + "; ".join(noted)] if noted else []


def _broken(name: str, row: Row) -> list[str]:
    broken = sorted(row["promises"].items())
    if not broken:
        return [f"- **{name}**: none"]
    told = [f"{promise.replace('_', ' ')} (`{how}`)" for promise, how in broken]
    return [f"- **{name}**: " + "; ".join(told)]
