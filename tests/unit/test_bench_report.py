"""The table says what the figures say: who is faster, by how much, and is it enough."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.comparison import compare
from bench.measure import Sample
from bench.processes import REPOSITORY, run
from bench.report import BEGIN, END, NEW_PAGE, PAGE, merged, page, table
from bench.results import Cell, Results
from bench.rows import Row
from bench.run import ROWS
from bench.targets import Target, targets_of

FACTS = {
    "machine": dict.fromkeys(
        ("cpu", "cores", "memory_gib", "kernel", "system", "python"), "some"
    ),
    "versions": {"pamfs": "pamfs 1", "commit": "abc"},
    "cipher": "a cipher",
    "caches_dropped": False,
    "quick": True,
    "runs": 3,
    "limit_s": 60,
    "load_before": 0.1,
    "load_after": 0.2,
    "took_s": 5,
}


def sample(value: float, *, closed_s: float | None = None) -> Sample:
    closed = value if closed_s is None else closed_s
    return Sample(value, value, closed, cpu_s=1, peak_bytes=50_000_000)


def cell(row: str, peer: str, *values: float, failure: str = "") -> Cell:
    return Cell(row, peer, 0, 64, [sample(value) for value in values], failure)


def results(*cells: Cell) -> Results:
    relay = {"rtt_ms": 0.0, "gb_s": 2.0, "direct_gb_s": 5.0, "ping_ms": 0.1}
    return Results(dict(FACTS), [relay], list(cells))


def row(name: str) -> Row:
    return next(row for row in ROWS if row.name == name)


def target(name: str) -> Target:
    return targets_of(name)[0]


def test_less_time_is_better_and_more_bytes_are() -> None:
    found = results(
        cell("find", "pamfs", 1, 2, 3),
        cell("find", "sshfs", 4),
        cell("seq-read", "pamfs", 100),
        cell("seq-read", "sshfs", 50),
    )
    for name in ("find", "seq-read"):
        comparison = compare(found, row(name), 0, target(name))
        assert comparison is not None
        assert comparison.ratio == 2
        assert comparison.holds


def test_it_is_the_better_peer_that_counts() -> None:
    found = results(
        cell("find", "pamfs", 2), cell("find", "sshfs", 8), cell("find", "rclone", 1)
    )
    comparison = compare(found, row("find"), 0, target("find"))
    assert comparison is not None
    assert (comparison.against, comparison.ratio) == ("rclone", 0.5)
    assert comparison.holds is False


def test_a_peer_that_stores_later_is_no_match_for_a_write() -> None:
    late = Cell("seq-write", "rclone", 0, 64, [sample(900, closed_s=1)])
    found = results(
        cell("seq-write", "pamfs", 100), cell("seq-write", "sshfs", 50), late
    )
    comparison = compare(found, row("seq-write"), 0, target("seq-write"))
    assert comparison is not None
    assert comparison.against == "sshfs"


def test_a_peer_that_was_stopped_is_at_least_that_slow() -> None:
    found = results(cell("find", "pamfs", 2), cell("find", "sshfs", failure="> 60 s"))
    comparison = compare(found, row("find"), 0, target("find"))
    assert comparison is not None
    assert (comparison.ratio, comparison.at_least) == (30, True)
    assert ">= 30.00x sshfs" in table(found)
    assert "> 60 s" in table(found)


def test_no_figure_of_ours_is_no_comparison() -> None:
    found = results(cell("find", "pamfs", failure="broke"), cell("find", "sshfs", 8))
    assert compare(found, row("find"), 0, target("find")) is None
    assert "failed" in table(found)
    assert "- find at 0 ms, pamfs: broke" in page(found)


def test_a_faster_peer_stays_in_the_table() -> None:
    text = table(results(cell("ls", "pamfs", 4), cell("ls", "sshfs", 1)))
    (line,) = [line for line in text.splitlines() if "0.25x sshfs" in line]
    assert line.rstrip(" |").endswith("missed")


def test_growth_is_set_against_its_limit() -> None:
    few, many = (cell(f"targets-{count}", "pamfs", 1) for count in (1, 200))
    few.size, many.size = 1, 200
    assert "Each open target costs 0.00 MB (target: 2): met." in table(
        results(few, many)
    )


def test_the_page_keeps_what_people_wrote() -> None:
    old = f"# Performance\n\nwritten by hand\n\n{BEGIN}\nold\n{END}\n\nthe end\n"
    new = merged(old, "measured")
    assert new == old.replace("\nold\n", "\n\nmeasured\n\n")
    assert merged(new, "measured") == new


def test_a_page_without_marks_gets_them_at_its_end() -> None:
    new = merged("# Performance\n\nby hand\n", "measured")
    assert new == f"# Performance\n\nby hand\n\n{BEGIN}\n\nmeasured\n\n{END}\n"
    assert merged(NEW_PAGE, "measured").startswith(f"{NEW_PAGE}\n{BEGIN}\n")


def test_the_page_in_the_documentation_has_its_place_for_the_figures() -> None:
    text = (REPOSITORY / PAGE).read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)


def test_figures_are_read_as_they_were_written(tmp_path: Path) -> None:
    found = results(
        cell("find", "pamfs", 1, 2, 3), cell("find", "sshfs", failure="> 60 s")
    )
    found.save(tmp_path / "figures.json")
    again = Results.load(tmp_path / "figures.json")
    assert again == found
    assert page(again) == page(found)


def test_the_page_says_that_caches_were_not_dropped() -> None:
    assert "NOT dropped" in page(results(cell("find", "pamfs", 1)))


def test_plots_are_the_same_for_the_same_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra 'bench'")
    found = results(
        cell("find", "pamfs", 1),
        cell("find", "sshfs", 3),
        cell("seq-read", "pamfs", 100),
    )
    found.save(tmp_path / "figures.json")
    for name in ("one", "other"):
        # A process of its own: matplotlib keeps its fonts open.
        path = str(tmp_path / name / "performance.md")
        command = [sys.executable, "-m", "bench.report", "--page", path]
        run([*command, tmp_path / "figures.json"], timeout_s=60)
    folders = [tmp_path / name / "performance" for name in ("one", "other")]
    plots = sorted(path.name for path in folders[0].iterdir())
    assert plots == ["ratios.svg", "streams.svg", "trees.svg"]
    for name in plots:
        one, other = (folder / name for folder in folders)
        assert one.read_bytes() == other.read_bytes()
        assert b"<svg" in one.read_bytes()
