"""The kernel's limits of a mount: found by number, changed if they are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from pamfs.fuse.kernel import LIMITS, READ_AHEAD_KB, connection_of, raise_limits

POINT = Path("/home/a b/pam")
TABLE = r"""
22 1 254:0 / / rw,relatime - ext4 /dev/root rw
40 22 0:41 / /home/a\040b/pam rw,nosuid - fuse.pamfs pamfs#old rw,user_id=1000
41 22 0:77 / /home/a\040b/pam rw,nosuid - fuse.pamfs pamfs#new rw,user_id=1000
42 22 0:78 / /home/a\040b/pam/other rw - fuse.pamfs pamfs#other rw,user_id=1000
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(TABLE)
    return path


def connection(folder: Path, number: int) -> Path:
    made = folder / str(number)
    made.mkdir(parents=True)
    for name in LIMITS:
        (made / name).write_text("12\n")
    return made


def test_the_connection_is_the_uppermost_mounts() -> None:
    assert connection_of(POINT, TABLE) == 77
    assert connection_of(POINT / "other", TABLE) == 78
    assert connection_of(POINT / "none", TABLE) is None


def test_limits_are_raised_for_this_mount_only(tmp_path: Path, table: Path) -> None:
    ours, other = (connection(tmp_path / "all", number) for number in (77, 78))
    backing = tmp_path / "bdi/0:77/read_ahead_kb"
    backing.parent.mkdir(parents=True)
    backing.write_text("128\n")
    raise_limits(POINT, table, tmp_path / "all", tmp_path / "bdi")
    assert backing.read_text() == f"{READ_AHEAD_KB}\n"
    assert {name: (ours / name).read_text() for name in LIMITS} == {
        "max_background": "256\n",
        "congestion_threshold": "192\n",
    }
    assert {(other / name).read_text() for name in LIMITS} == {"12\n"}


@pytest.mark.parametrize("point", [POINT, POINT / "none"])
def test_without_the_files_nothing_is_made(
    tmp_path: Path, table: Path, point: Path
) -> None:
    (tmp_path / "all").mkdir()
    raise_limits(point, table, tmp_path / "all", tmp_path / "all")
    assert not list((tmp_path / "all").iterdir())
