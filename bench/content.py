"""Files to work on: the same at each run, and not compressible."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sysconfig
from pathlib import Path
from typing import Final

from bench.rows import MIB, Job

SMALL_BYTES: Final = 8 * 1024
# Whole seconds in the past: SFTP has no others, and git trusts no fresh ones.
MTIME: Final = 1_700_000_000


def big_file(path: Path, mib: int) -> None:
    """Write ``mib`` MiB of noise."""
    noise = random.Random(0)  # noqa: S311 - repeatable
    block = noise.randbytes(16 * MIB)
    with path.open("wb") as file:
        for number in range(mib):
            start = (number * 7919) % (15 * MIB)
            file.write(block[start : start + MIB])


def small_files(folder: Path, count: int, per_folder: int = 100) -> None:
    """Write ``count`` files of 8 KiB."""
    noise = random.Random(1)  # noqa: S311 - repeatable
    for number in range(count):
        home = folder / f"dir{number // per_folder:03}"
        home.mkdir(parents=True, exist_ok=True)
        (home / f"file{number:05}").write_bytes(noise.randbytes(SMALL_BYTES))
    age(folder)


def tree(folder: Path, entries: int) -> None:
    """Make ``entries`` entries, a tenth of them directories, ten in each."""
    folders = [folder]
    folder.mkdir(parents=True, exist_ok=True)
    directories = max(entries // 10, 1)
    for number in range(directories):
        made = folders[number // 10] / f"dir{number:05}"
        made.mkdir()
        folders.append(made)
    for number in range(entries - directories):
        home = folders[1 + number % directories]
        (home / f"file{number:06}").write_bytes(b"entry\n")
    age(folder)


def source_tree(folder: Path, count: int) -> None:
    """Copy the first ``count`` sources of Python's library, as a project."""
    library = Path(sysconfig.get_path("stdlib"))
    found = sorted(
        path
        for path in library.rglob("*.py")
        if not {"site-packages", "dist-packages"}.intersection(path.parts)
    )
    for path in found[:count]:
        copy = folder / path.relative_to(library)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    age(folder)


def age(folder: Path) -> None:
    """Give everything below ``folder`` the same old time."""
    for home, _, names in os.walk(folder, topdown=False):
        for name in [*names, "."]:
            os.utime(Path(home) / name, (MTIME, MTIME))


def script(job: Job, text: str) -> None:
    """Run a shell script in preparation, with the row's folders as its variables."""
    environment = {
        **os.environ,
        "SERVER": str(job.server),
        "LOCAL": str(job.local),
        "HOME": str(job.local),
        "RESTIC_PASSWORD": "of-the-bench",
        "N": str(job.size),
    }
    subprocess.run(
        ["sh", "-ec", text],
        check=True,
        env=environment,
        timeout=300,
        stdout=subprocess.DEVNULL,
    )


def same_files(one: Path, other: Path) -> bool:
    """Whether each file below ``one`` is below ``other`` with the same size."""
    for home, _, names in os.walk(one):
        there = other / Path(home).relative_to(one)
        for name in names:
            try:
                if (there / name).stat().st_size != (Path(home) / name).stat().st_size:
                    return False
            except FileNotFoundError:
                return False
    return True


def rows_in(database: Path) -> int:
    """Return how many rows a database holds that may be half stored."""
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as opened:
            (count,) = opened.execute("select count(*) from entries").fetchone()
            return int(count)
    except sqlite3.Error:
        return 0
