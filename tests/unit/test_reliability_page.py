"""docs/reliability.md has one row for each case of ``make reliability``."""

from __future__ import annotations

from pathlib import Path

from tests.reliability.page import HEAD, cases, updated
from tests.reliability.rows import ROWS

PAGE = Path(__file__).parents[2] / "docs/reliability.md"
SMALL = f"""\
Text with a | in it.

{HEAD}
|---|---|---|---|
| one cut | EIO | EIO | equal |
| another | - | told | - |
"""


def test_each_case_has_its_row_and_each_row_its_case() -> None:
    assert cases(PAGE.read_text()) == list(ROWS)


def test_a_run_writes_what_it_found_and_keeps_the_rest() -> None:
    found = {"one cut": {"pamfs": "equal|fast"}, "new": {"pamfs": "-"}}
    assert updated(SMALL, found) == SMALL.replace("| equal |", "| equal/fast |")
    assert updated(SMALL, {"another": {"sshfs": "hung"}}).endswith(
        "| another | hung | told | - |\n"
    )
    assert cases(SMALL) == ["one cut", "another"]
