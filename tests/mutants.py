"""Changes of one line that the tests must notice: `make mutants`.

Each entry of ``mutants.toml`` names a file, the text to replace in it, and the tests
that must fail then. The tree is copied first and only the copies are changed. A mutant
is killed if its tests fail or do not end in time; it survives if they pass. Anything
else (text not found, no tests collected, a module that cannot be imported) is an error
of the table and reported as such.

Invariant: between two mutants a copy is equal to the tree; every change gives the file
a new modification time, so that no compiled module is taken for the other version.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Final

ROOT: Final = Path(__file__).parents[1]
TABLE: Final = Path(__file__).with_suffix(".toml")
# A whole test file takes seconds. Longer is a hang, on a slow machine as well.
WITHIN_S: Final = 300.0
NOT_COPIED: Final = (".git", ".venv*", ".*_cache", ".hypothesis", "*.egg-info", "build")
# The first failure is enough. A test that hangs is one: it takes seconds otherwise.
OPTIONS: Final = (
    "-x",
    "-q",
    "--no-header",
    "--tb=line",
    "--timeout=60",
    "--hypothesis-seed=0",
)
# pytest's exit codes.
PASSED: Final = 0
FAILED: Final = 1

KILLED: Final = "killed"
SURVIVED: Final = "SURVIVED"
ERROR: Final = "ERROR"


class TableError(Exception):
    """An entry of the table does not fit the tree."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change, the law that it breaks, and the tests that must fail."""

    law: str
    file: str
    old: str
    new: str
    tests: Sequence[str]

    def applied_to(self, text: str) -> str:
        """Return ``text`` with the change; raise ``TableError`` if it does not fit."""
        found = text.count(self.old)
        if found != 1:
            raise TableError(
                f"{self.file}: found {found} times instead of once:"
                f" {self.old.strip()!r} ({self.law}): correct tests/mutants.toml"
            )
        changed = text.replace(self.old, self.new)
        try:
            ast.parse(changed)
        except SyntaxError as exc:
            raise TableError(f"{self.file}: no Python afterwards: {exc}") from None
        return changed


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the tests said of one mutant."""

    mutant: Mutant
    outcome: str
    took_s: float
    details: str = ""

    def __str__(self) -> str:
        mutant = self.mutant
        line = f"{self.outcome:8} {self.took_s:5.1f} s  {mutant.file}: {mutant.law}"
        return f"{line}\n{self.details.rstrip()}" if self.details else line


def read_table(path: Path = TABLE) -> list[Mutant]:
    """Return every mutant of the table."""
    with path.open("rb") as file:
        return [Mutant(**entry) for entry in tomllib.load(file)["mutant"]]


class Copy:
    """A copy of the tree in which one mutant at a time is tried."""

    _ages = count(1)

    def __init__(self, folder: Path, root: Path = ROOT) -> None:
        self.folder = folder
        ignore = shutil.ignore_patterns(*NOT_COPIED)
        shutil.copytree(root, folder, symlinks=True, ignore=ignore)

    @contextmanager
    def changed(self, mutant: Mutant) -> Iterator[None]:
        """Have the mutant in the copy during the body."""
        path = self.folder / mutant.file
        text = path.read_text()
        self._write(path, mutant.applied_to(text))
        try:
            yield
        finally:
            self._write(path, text)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text)
        # In the future, and each time another second: see the invariant above.
        at = path.stat().st_mtime + 10 * next(self._ages)
        os.utime(path, (at, at))

    def run(self, tests: Sequence[str], within_s: float) -> tuple[int | None, str]:
        """Run ``tests``; return pytest's exit code, None without one, and its words."""
        command = [sys.executable, "-m", "pytest", *OPTIONS, *tests]
        ours = {"PYTHONPATH": str(self.folder), "HYPOTHESIS_PROFILE": "mutants"}
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, **ours},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                words = process.communicate(timeout=within_s)[0]
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return None, process.communicate()[0]
            return process.returncode, words


def try_out(copy: Copy, mutant: Mutant, within_s: float) -> Verdict:
    """Return what the tests of ``mutant`` say of it."""
    began = time.monotonic()
    try:
        with copy.changed(mutant):
            code, words = copy.run(mutant.tests, within_s)
    except (TableError, OSError) as exc:
        return Verdict(mutant, ERROR, time.monotonic() - began, str(exc))
    took_s = time.monotonic() - began
    if code == PASSED:
        return Verdict(mutant, SURVIVED, took_s)
    if code == FAILED:
        return Verdict(mutant, KILLED, took_s)
    if code is None:
        return Verdict(mutant, KILLED, took_s, f"  (no end within {within_s:g} s)")
    return Verdict(mutant, ERROR, took_s, words)


def check_unchanged(copy: Copy, mutants: Sequence[Mutant]) -> None:
    """End the run unless all named tests pass while nothing is changed."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    print(f"unchanged, {len(tests)} sets of tests ...", flush=True)
    code, words = copy.run(tests, WITHIN_S * 2)
    if code != PASSED:
        sys.exit(
            f"{words}\nmutants: the tests fail without any change: mend them first"
        )


def try_all(
    copies: Sequence[Copy], mutants: Sequence[Mutant], within_s: float
) -> list[Verdict]:
    """Try each mutant in a copy that is free, and print each verdict as it comes."""
    free: SimpleQueue[Copy] = SimpleQueue()
    for copy in copies:
        free.put(copy)

    def one(mutant: Mutant) -> Verdict:
        copy = free.get()
        try:
            verdict = try_out(copy, mutant, within_s)
        finally:
            free.put(copy)
        print(verdict, flush=True)
        return verdict

    with ThreadPoolExecutor(len(copies)) as pool:
        return list(pool.map(one, mutants))


def main(argv: Sequence[str] | None = None) -> int:
    """Try the mutants; return 1 if one survives or does not fit the tree."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="only those with one of these words")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--within-s", type=float, default=WITHIN_S)
    options = parser.parse_args(argv)
    mutants = [
        mutant
        for mutant in read_table(options.table)
        if not options.words
        or any(word in f"{mutant.file} {mutant.law}" for word in options.words)
    ]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pamfs-mutants-") as folder:
        copies = [Copy(Path(folder) / str(n)) for n in range(options.jobs)]
        check_unchanged(copies[0], mutants)
        verdicts = try_all(copies, mutants, options.within_s)
    bad = [verdict for verdict in verdicts if verdict.outcome != KILLED]
    print(
        f"\n{len(verdicts) - len(bad)} of {len(verdicts)} mutants were noticed,"
        f" in {time.monotonic() - began:.0f} s"
    )
    for verdict in bad:
        print(verdict)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
