"""What a killed bench left behind is found; nothing else is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.leftovers import clear, mounts_below
from tests.limits import HANG_S

MOUNTINFO = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
40 22 0:40 / /dev/shm rw - tmpfs tmpfs rw
51 40 0:51 / /dev/shm/pamfs-bench-a/run-1/mnt rw - fuse.sshfs pamfs:acme rw
52 40 0:52 / /dev/shm/pamfs-bench-ab/run-1/mnt rw - fuse.sshfs pamfs:acme rw
"""


def test_mounts_are_those_of_the_folder() -> None:
    found = mounts_below(Path("/dev/shm/pamfs-bench-a"), MOUNTINFO)
    assert found == [Path("/dev/shm/pamfs-bench-a/run-1/mnt")]
    assert mounts_below(found[0], MOUNTINFO) == found


def test_the_folder_goes_and_the_processes_that_name_it(tmp_path: Path) -> None:
    folder = tmp_path / "pamfs-bench-a"
    (folder / "remote").mkdir(parents=True)
    command = [sys.executable, "-c", "import time; time.sleep(60)", str(folder)]
    with subprocess.Popen(command) as left, subprocess.Popen(["sleep", "60"]) as other:
        clear(folder)
        assert left.wait(HANG_S) == -9
        assert other.poll() is None
        other.kill()
    assert not folder.exists()
    assert tmp_path.exists()
