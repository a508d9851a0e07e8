"""The jobs of a soak: programs that people run, each checked on the device's disk.

A job gets a place on a target that nobody else uses and a number that makes its data
its own. It raises ``ToldError`` if a program ended with an error, ``WrongError`` if all
said success and something else is stored or was read.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.mount.harness import Command, Place
from tests.reliability.programs import digest, noise, ran

# Within it a job ends, whatever its target does: login, reconnect, deadlines.
JOB_S: Final = 240.0
MIB: Final = 1 << 20
WRONG_READ: Final = 33  # what no program of these exits with

# Commits one row after the other; says each number once it was committed.
COMMITS: Final = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=30)
db.execute("create table if not exists rows (number integer primary key)")
db.commit()
for number in range(20):
    db.execute("insert into rows values (?)", (number,))
    db.commit()
    print(number, flush=True)
db.close()
"""

# Random writes and reads of one file beside a model of it in memory. Ends with 33 if
# a read is wrong; prints the hash of what the file must be.
RANDOM: Final = """
import hashlib, os, random, sys
chance = random.Random(int(sys.argv[2]))
size = 1 << 20
known = bytearray(size)
fd = os.open(os.fsencode(sys.argv[1]), os.O_RDWR | os.O_CREAT, 0o644)
os.pwrite(fd, bytes(size), 0)
for step in range(300):
    at, n = chance.randrange(size), chance.choice([1, 700, 4096, 65536])
    n = min(n, size - at)
    if chance.random() < 0.6:
        data = chance.randbytes(n)
        os.pwrite(fd, data, at)
        known[at:at + n] = data
    elif (found := os.pread(fd, n, at)) != known[at:at + n]:
        print(f"{len(found)} bytes of {n} at {at}, size {os.fstat(fd).st_size}")
        sys.exit(33)
    if step % 100 == 99:
        os.fsync(fd)
os.close(fd)
print(hashlib.sha256(known).hexdigest())
"""


class ToldError(Exception):
    """A program ended with an error: nothing was claimed."""


class HungError(Exception):
    """A program did not end."""


class WrongError(Exception):
    """All programs said success, and it is not so."""


@dataclass(frozen=True)
class Spot:
    """Where a job works: a new folder, on the mount and on the device's disk."""

    place: Place
    folder: Path  # of our own disk, for sources and copies
    there: bytes
    device: Path
    number: int
    files: int = 40  # of a tree
    within_s: float = JOB_S  # each program

    def on_mount(self, name: str) -> bytes:
        """Return the path of ``name`` on the mount."""
        return self.there + b"/" + os.fsencode(name)

    def run(self, *command: str | bytes | Path) -> str:
        """Run a program, which may be told an error; return what it printed."""
        return self._run(command)

    def _run(self, command: Command) -> str:
        done = ran(self.place, command, self.within_s)
        if done.code is None:
            raise HungError(str(command[0]))
        if done.code == WRONG_READ:
            raise WrongError(f"a wrong read: {done.text.strip()}")
        if done.code:
            raise ToldError(done.reason)
        return done.text

    def python(self, code: str, *arguments: str | bytes | Path) -> str:
        """Run a few lines of Python."""
        return self._run([self.place.account.python, "-c", code, *arguments])


def hold(what: str, *, is_so: bool) -> None:
    """Raise ``WrongError`` unless it is so."""
    if not is_so:
        raise WrongError(what)


def tree(spot: Spot) -> Path:
    """Make a tree of small files on our own disk."""
    folder = spot.folder / "tree"
    for number in range(spot.files):
        part = folder / f"part{number % 20}"
        part.mkdir(parents=True, exist_ok=True)
        size = 100 + 977 * (number % 40)
        noise(part / f"file{number}", size, spot.number * 10_000 + number)
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """Return the hash of each file below ``folder``."""
    return {
        str(path.relative_to(folder)): digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def cp_in(spot: Spot) -> None:
    source = noise(spot.folder / "source", (spot.number % 12 + 1) * MIB, spot.number)
    spot.run("cp", source, spot.on_mount("copy"))
    hold("cp in", is_so=digest(source) == digest(spot.device / "copy"))


def cp_out(spot: Spot) -> None:
    source = noise(spot.device / "source", (spot.number % 12 + 1) * MIB, spot.number)
    spot.run("cp", spot.on_mount("source"), spot.folder / "copy")
    hold("cp out", is_so=digest(source) == digest(spot.folder / "copy"))


def rsync(spot: Spot) -> None:
    source = tree(spot)
    spot.run("rsync", "-a", f"{source}/", spot.on_mount("copy/"))
    hold("rsync", is_so=hashes(source) == hashes(spot.device / "copy"))


def tar(spot: Spot) -> None:
    source = tree(spot)
    archive = spot.folder / "tree.tar"
    spot.run("tar", "cf", archive, "-C", source, ".")
    spot.run("tar", "xf", archive, "-C", spot.there)
    hold("tar", is_so=hashes(source) == hashes(spot.device))


def git(spot: Spot) -> None:
    work = tree(spot)
    spot.run("git", "init", "-q", work)
    spot.run("git", "-C", work, "add", ".")
    spot.run("git", "-C", work, "commit", "-qm", "all")
    spot.run("git", "init", "-q", "--bare", spot.on_mount("bare"))
    spot.run(
        "git", "-C", work, "push", "-q", spot.on_mount("bare"), "HEAD:refs/heads/main"
    )
    bare = spot.device / "bare"
    head = spot.run("git", "-C", work, "rev-parse", "HEAD")
    hold("git: HEAD", is_so=spot.run("git", "-C", bare, "rev-parse", "main") == head)
    hold(
        "git: fsck",
        is_so="missing" not in spot.run("git", "-C", bare, "fsck", "--full"),
    )


def restic(spot: Spot) -> None:
    source, repository = tree(spot), spot.on_mount("repository")
    stored = spot.device / "repository"
    spot.run("restic", "-q", "-r", repository, "init")
    spot.run("restic", "-q", "-r", repository, "backup", source)
    spot.run("restic", "-q", "-r", stored, "check", "--read-data", "--no-lock")
    copy = spot.folder / "copy"
    spot.run("restic", "-q", "-r", stored, "restore", "latest", "-t", copy, "--no-lock")
    found = copy / source.relative_to("/")
    hold("restic", is_so=hashes(found) == hashes(source))


def sqlite(spot: Spot) -> None:
    path = spot.device / "db"
    try:
        said = spot.python(COMMITS, spot.on_mount("db"))
    except ToldError as exc:
        _check_rows(path, at_least=0)
        hold(f"sqlite read: {exc}", is_so="malformed" not in str(exc))
        raise
    _check_rows(path, at_least=len(said.split()))


def _check_rows(path: Path, at_least: int) -> None:
    if not path.exists() and not at_least:
        return
    db = sqlite3.connect(path)
    try:
        whole = db.execute("pragma integrity_check").fetchone()
        rows = db.execute("select count(*) from rows").fetchone() if at_least else (0,)
    except sqlite3.DatabaseError as exc:
        raise WrongError(f"sqlite: {exc}") from exc
    finally:
        db.close()
    hold(f"sqlite: {whole[0]}", is_so=whole == ("ok",))
    hold(f"sqlite: {rows[0]} rows of {at_least}", is_so=rows[0] >= at_least)


def pwrite(spot: Spot) -> None:
    said = spot.python(RANDOM, spot.on_mount("file"), str(spot.number))
    hold("pwrite", is_so=said.strip() == digest(spot.device / "file"))


Job = Callable[[Spot], None]
JOBS: Final[dict[str, Job]] = {
    job.__name__: job
    for job in (cp_in, cp_out, rsync, tar, git, restic, sqlite, pwrite)
}


def kept(spot: Spot) -> dict[str, str]:
    """Return the hashes of what a job that is done has on the device."""
    return hashes(spot.device)


def as_json(found: dict[str, str]) -> str:
    """Return hashes as text."""
    return json.dumps(found, sort_keys=True)
