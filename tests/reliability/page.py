"""The table of docs/reliability.md: its rows are the cases, and a run writes them.

Columns: the case, sshfs, pamfs before the work on lost sessions (kept as it was
measured then), pamfs now.
"""

from __future__ import annotations

from collections.abc import Mapping

HEAD = "| case | sshfs | before | now |"


def cases(page: str) -> list[str]:
    """Return the names of the cases in the order of the table."""
    return [cells[0] for line in page.splitlines() if (cells := _cells(line))]


def updated(page: str, found: Mapping[str, Mapping[str, str]]) -> str:
    """Return ``page`` with what was ``found``, by case and client."""
    return "".join(_row(line, found) for line in page.splitlines(keepends=True))


def _cells(line: str) -> list[str] | None:
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    is_row = len(cells) == HEAD.count("|") - 1 and not line.startswith((HEAD, "|-"))
    return cells if is_row else None


def _row(line: str, found: Mapping[str, Mapping[str, str]]) -> str:
    cells = _cells(line)
    if cells is None or cells[0] not in found:
        return line
    name, sshfs, before, now = cells
    said = found[name]
    row = (name, said.get("sshfs", sshfs), before, said.get("pamfs", now))
    return "| " + " | ".join(cell.replace("|", "/") for cell in row) + " |\n"
