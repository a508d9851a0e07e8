"""Each row can be run by a shell, has its sizes, and is what a target speaks of."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench import content
from bench.results import Cell
from bench.rows import Row, Sizes
from bench.run import ROWS, rotated
from bench.targets import TARGETS


def test_names_are_distinct() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_shell_understands_the_scripts(row: Row) -> None:
    for script in (row.work.script, row.work.over_ssh, row.work.reset, row.work.warm):
        assert subprocess.run(["sh", "-nc", script], check=False).returncode == 0


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_does_less_where_the_latency_is_greater(row: Row) -> None:
    for sizes in (row.sizes, row.quick):
        assert sizes.near >= sizes.far >= sizes.farthest >= 0
    assert row.quick.near <= row.sizes.near
    assert row.sizes.near > 0


def test_targets_are_about_rows() -> None:
    assert {target.row for target in TARGETS} <= {row.name for row in ROWS}


def test_a_latency_has_its_size() -> None:
    sizes = Sizes(3, 2, 1)
    assert [sizes.at(rtt_ms) for rtt_ms in (0, 5, 20, 50, 100)] == [3, 2, 2, 1, 1]


def test_a_row_is_left_out_where_its_size_is_nothing() -> None:
    (row,) = [row for row in ROWS if row.name == "find-warm"]
    assert row.is_for("pamfs", 0, quick=True)
    assert row.is_for("pamfs", 0, quick=False)
    assert not row.is_for("pamfs", 100, quick=False)


def test_each_target_is_measured_at_its_latencies() -> None:
    rows = {row.name: row for row in ROWS}
    for target in TARGETS:
        for rtt_ms in target.at_least:
            assert rows[target.row].is_for("pamfs", rtt_ms, quick=False)


def test_each_peer_is_first_in_its_turn() -> None:
    cells = [Cell("find", name, 0, 1) for name in ("pamfs", "sshfs", "rclone")]
    orders = [[cell.peer for cell in rotated(cells, number)] for number in range(4)]
    assert [order[0] for order in orders] == ["pamfs", "sshfs", "rclone", "pamfs"]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)


@pytest.mark.parametrize("entries", [100, 1000])
def test_a_tree_has_as_many_entries_as_were_asked_for(
    tmp_path: Path, entries: int
) -> None:
    content.tree(tmp_path / "tree", entries)
    found = list((tmp_path / "tree").rglob("*"))
    assert len(found) == entries
    assert sum(path.is_dir() for path in found) == entries // 10


def test_a_copy_that_lacks_something_is_not_the_same(tmp_path: Path) -> None:
    for name in ("one", "other"):
        content.small_files(tmp_path / name, 3)
    assert content.same_files(tmp_path / "one", tmp_path / "other")
    (tmp_path / "other/dir000/file00001").write_bytes(b"short")
    assert not content.same_files(tmp_path / "one", tmp_path / "other")
    (tmp_path / "other/dir000/file00001").unlink()
    assert not content.same_files(tmp_path / "one", tmp_path / "other")


def test_a_database_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert content.rows_in(tmp_path / "db") == 0
