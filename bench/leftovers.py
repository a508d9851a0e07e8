"""One bench at a time, which clears away what a killed one left behind."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.processes import (
    FailedError,
    TookTooLongError,
    kill_all,
    processes_naming,
    run,
)

PREFIX: Final = "pamfs-bench-"
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - private folders are made in it
_RUNNING: Final = Path("/run/pamfs-bench.lock")


@contextlib.contextmanager
def only_run() -> Iterator[None]:
    """Hold the machine's one place for a bench; raise if it is taken."""
    with _RUNNING.open("a") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FailedError("another bench runs on this machine") from None
        for home in (MEMORY, Path(tempfile.gettempdir())):
            for folder in home.glob(f"{PREFIX}*/"):
                clear(folder)
        yield


def clear(folder: Path) -> None:
    """Remove a run's folder, after the mounts in it and the processes that name it."""
    for point in mounts_below(folder, Path("/proc/self/mountinfo").read_text()):
        with contextlib.suppress(FailedError, TookTooLongError):
            run(["fusermount3", "-uz", point], timeout_s=20)
    kill_all(processes_naming(folder))
    # Still mounted: then nothing may be removed, it could be on the server.
    if not mounts_below(folder, Path("/proc/self/mountinfo").read_text()):
        shutil.rmtree(folder, ignore_errors=True)


def mounts_below(folder: Path, mountinfo: str) -> list[Path]:
    """Return what is mounted below ``folder``, as the kernel lists it."""
    points = [Path(line.split(" ")[4]) for line in mountinfo.splitlines()]
    return [point for point in points if point.is_relative_to(folder)]
