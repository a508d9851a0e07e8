"""The table of `make mutants` fits the tree, and a mutant that survives is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import (
    ERROR,
    KILLED,
    ROOT,
    SURVIVED,
    Copy,
    Mutant,
    TableError,
    read_table,
    try_out,
)

TABLE = read_table()
CODE = "def most(limit: int) -> int:\n    return min(limit, 5)\n"
TEST = "from code_under import most\n\n\ndef test_it():\n    assert most({}) == {}\n"


@pytest.mark.parametrize("mutant", TABLE, ids=lambda mutant: mutant.law)
def test_each_line_is_where_the_table_says(mutant: Mutant) -> None:
    mutant.applied_to((ROOT / mutant.file).read_text())
    assert mutant.old != mutant.new
    assert all((ROOT / test).is_file() for test in mutant.tests)
    assert mutant.tests


def test_no_law_and_no_change_stands_in_the_table_twice() -> None:
    laws = [mutant.law for mutant in TABLE]
    changes = [(mutant.file, mutant.old, mutant.new) for mutant in TABLE]
    assert len(set(laws)) == len(set(changes)) == len(TABLE)


def mutant(old: str, new: str, test: str = "test_high.py") -> Mutant:
    return Mutant("a law", "code_under.py", old, new, [test])


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (mutant("max(limit, 5)", "5"), "found 0 times instead of once"),
        (mutant("limit", "5"), "found 2 times instead of once"),
        (mutant("min(limit, 5)", "min(limit, 5"), "no Python afterwards"),
    ],
)
def test_an_entry_that_does_not_fit_names_its_file(wrong: Mutant, problem: str) -> None:
    with pytest.raises(TableError, match=f"^code_under.py: {problem}"):
        wrong.applied_to(CODE)


def test_a_mutant_is_killed_or_survives_or_is_an_error(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "code_under.py").write_text(CODE)
    (tree / "test_high.py").write_text(TEST.format(9, 5))
    (tree / "test_low.py").write_text(TEST.format(1, 1))
    copy = Copy(tmp_path / "copy", tree)
    outcomes = [
        try_out(copy, one, within_s=60).outcome
        for one in (
            mutant("min(limit, 5)", "limit"),
            mutant("min(limit, 5)", "limit", "test_low.py"),
            mutant("most", "least"),
        )
    ]
    assert outcomes == [KILLED, SURVIVED, ERROR]
    assert (copy.folder / "code_under.py").read_text() == CODE
