"""A program of the bench ends in time, or is ended; a failure says why."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bench.processes import (
    FailedError,
    TookTooLongError,
    processes_naming,
    run,
    started,
    usage_of,
    wait_until,
)


def test_what_a_program_prints_is_returned() -> None:
    assert run(["sh", "-c", "echo said"], timeout_s=10) == "said"


def test_a_failure_tells_what_the_program_said_last() -> None:
    with pytest.raises(FailedError, match="ended with 3: no such mount"):
        run(["sh", "-c", "echo no such mount >&2; exit 3"], timeout_s=10)


def test_what_takes_too_long_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = f"sleep 60 & echo $! >{mark}; wait"
    with pytest.raises(TookTooLongError, match=r"took over 0\.3 s"):
        run(["sh", "-c", script], timeout_s=0.3)
    pid = int(mark.read_text())
    state = Path(f"/proc/{pid}/stat")
    wait_until(
        lambda: not state.exists() or " Z " in state.read_text(),
        "the child has ended",
        within_s=10,
    )


def test_processes_are_found_by_a_folder_that_they_name(tmp_path: Path) -> None:
    code = "import sys; print(1, flush=True); sys.stdin.read(); import time;"
    command = [sys.executable, "-c", code + "time.sleep(60)", str(tmp_path)]
    with started(command) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert processes_naming(tmp_path) == {child.pid}
        used = usage_of({child.pid})
        child.stdout.close()
    assert used.peak_bytes > 1 << 20
    assert used.cpu_s >= 0


def test_a_process_that_is_gone_has_used_nothing() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert usage_of({pid}).peak_bytes == 0
