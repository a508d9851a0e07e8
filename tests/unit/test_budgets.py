"""The budgets of the house: what only a count can hold."""

from __future__ import annotations

import ast
import io
import re
import statistics
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = sorted((ROOT / "pamfs").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FILE_LINES = 600
FUNCTION_LINES_MEDIAN = 8
FUNCTION_LINES_P95 = 30
# Only ever lowered: each is a place where the types say nothing.
TYPE_IGNORES_LEFT = 1
ANYS_LEFT = 23

# A poll on a foreign process has nothing else to wait for; it is written once.
MAY_SLEEP = {ROOT / "tests/mount/waiting.py"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> set[int]:
    """Return the numbers of the lines that hold code: no comment, no docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines.difference_update(range(node.lineno, (node.end_lineno or 0) + 1))
    return lines


def function_sizes(path: Path) -> list[int]:
    """Return the code lines of each function in ``path``."""
    source = path.read_text()
    lines = code_lines(source)
    return [
        len(lines.intersection(range(node.lineno, (node.end_lineno or 0) + 1)))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, Function)
    ]


def calls_of(path: Path, module: str, name: str) -> list[int]:
    """Return the lines on which ``module.name`` is spoken of."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr == name
        and isinstance(node.value, ast.Name)
        and node.value.id == module
    ]


@pytest.mark.parametrize(
    "path", PACKAGE + TESTS, ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_file_is_one_concept_of_at_most_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= FILE_LINES


def test_functions_of_the_package_are_small() -> None:
    sizes = sorted(size for path in PACKAGE for size in function_sizes(path))
    assert statistics.median(sizes) <= FUNCTION_LINES_MEDIAN
    assert sizes[int(len(sizes) * 0.95)] <= FUNCTION_LINES_P95


def anys(path: Path) -> int:
    """Return how often ``path`` says ``Any`` in its code, imports aside."""
    return sum(
        (isinstance(node, ast.Name) and node.id == "Any")
        or (isinstance(node, ast.Attribute) and node.attr == "Any")
        for node in ast.walk(ast.parse(path.read_text()))
    )


def test_the_places_without_types_become_fewer() -> None:
    ignores = sum(
        len(re.findall(r"#\s*type:\s*ignore", path.read_text())) for path in PACKAGE
    )
    assert ignores <= TYPE_IGNORES_LEFT
    assert sum(map(anys, PACKAGE)) <= ANYS_LEFT


def test_no_test_sleeps_to_wait_for_something() -> None:
    sleeping = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in TESTS
        if path not in MAY_SLEEP
        for line in calls_of(path, "time", "sleep")
    }
    assert not sleeping


def test_no_test_uses_a_mock() -> None:
    mocking = [
        str(path.relative_to(ROOT))
        for path in TESTS
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and node.module == "unittest.mock")
        or (
            isinstance(node, ast.Import)
            and any(alias.name.startswith("unittest") for alias in node.names)
        )
    ]
    assert not mocking


def test_the_counts_see_what_they_are_meant_to_see(tmp_path: Path) -> None:
    source = tmp_path / "sample.py"
    source.write_text(
        'import time\n\ndef f():\n    """Doc.\n\n    More."""\n'
        "    # a comment\n\n    time.sleep(1)\n    return [\n        1,\n    ]\n"
    )
    assert function_sizes(source) == [5]
    assert calls_of(source, "time", "sleep") == [9]
