"""What runs on the mounts: each a program of its own that says what it was told."""

from __future__ import annotations

import hashlib
import os
import random
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Final, Self

from tests.limits import HANG_S, PROGRAM_S
from tests.mount.harness import Command, Place, TookTooLongError

# Opens each file, reads a part, waits for a line, and reads the rest; one line of
# JSON for each: the errno or null, the hash, the seconds. A file called *.list names
# them, where the guard is not to see the targets among the arguments.
READS: Final = """
import errno, hashlib, json, os, sys, time
paths = sys.argv[1:]
if paths[0].endswith(".list"):
    paths = open(paths[0]).read().splitlines()
files = [os.open(os.fsencode(path), os.O_RDONLY) for path in paths]
sums = [hashlib.sha256(os.read(fd, 65536)) for fd in files]
print("open", flush=True)
sys.stdin.readline()
for fd, found in zip(files, sums):
    said, began = None, time.monotonic()
    try:
        while data := os.read(fd, 1 << 20):
            found.update(data)
    except OSError as exc:
        said = errno.errorcode[exc.errno]
    took = time.monotonic() - began
    print(json.dumps([said, found.hexdigest(), took]), flush=True)
"""

# Writes blocks by the plan [path, flags, blocks, block_bytes, sync_every], numbered so
# that each is found again; waits for a line after half. Says what each call was told.
WRITES: Final = """
import errno, json, os, random, sys, time
path, flags, blocks, size, every = json.loads(sys.argv[1])
fd = os.open(os.fsencode(path), flags | os.O_CREAT | os.O_WRONLY, 0o644)
told, written = {}, 0
began = time.monotonic()
def call(name, do):
    try:
        do()
    except OSError as exc:
        told.setdefault(name, errno.errorcode[exc.errno])
        return False
    return True
for number in range(blocks):
    if number == blocks // 2:
        if every:
            call("fsync", lambda: os.fsync(fd))
        print("half", flush=True)
        sys.stdin.readline()
        began = time.monotonic()
    block = random.Random(number).randbytes(size)
    if not call("write", lambda: os.write(fd, block)):
        break
    written += 1
    if every and number % every == every - 1:
        if not call("fsync", lambda: os.fsync(fd)):
            break
call("fsync", lambda: os.fsync(fd))
call("close", lambda: os.close(fd))
print(json.dumps([told, written, time.monotonic() - began]), flush=True)
"""

# Does one change of a name when it gets a line; looks before, so that only the change
# itself is sent. Says the errno or null, and the seconds.
CHANGES: Final = """
import errno, json, os, sys, time
what, path, other = sys.argv[1], os.fsencode(sys.argv[2]), os.fsencode(sys.argv[3])
os.path.lexists(path), os.path.lexists(other)
new = os.O_CREAT | os.O_EXCL | os.O_WRONLY
do = {
    "mkdir": lambda: os.mkdir(path),
    "rmdir": lambda: os.rmdir(path),
    "rename": lambda: os.rename(path, other),
    "unlink": lambda: os.unlink(path),
    "symlink": lambda: os.symlink("said", path),
    "chmod": lambda: os.chmod(path, 0o640),
    "exclusive create": lambda: os.close(os.open(path, new, 0o644)),
}[what]
print("ready", flush=True)
sys.stdin.readline()
began, said = time.monotonic(), None
try:
    do()
except OSError as exc:
    said = errno.errorcode[exc.errno]
print(json.dumps([said, time.monotonic() - began]), flush=True)
"""

# Changes a shared map, says so, waits for a line, and has it stored.
MAPS: Final = """
import errno, json, mmap, os, sys
fd = os.open(os.fsencode(sys.argv[1]), os.O_RDWR)
mapped = mmap.mmap(fd, 65536)
mapped[:] = b"new" + bytes(65533)
print("dirty", flush=True)
sys.stdin.readline()
said = {}
for name, do in {"msync": mapped.flush, "close": lambda: os.close(fd)}.items():
    try:
        do()
    except OSError as exc:
        said[name] = errno.errorcode[exc.errno]
print(json.dumps(said), flush=True)
"""


@dataclass
class Ran:
    """How a program ended: its exit code, what it said, how long it took."""

    code: int | None
    text: str
    took_s: float

    def __str__(self) -> str:
        if self.code == 0:
            return f"success in {self.took_s:.1f} s"
        why = "no end" if self.code is None else self.reason
        return f"{why} after {self.took_s:.1f} s"

    @property
    def reason(self) -> str:
        """Return what the program says was wrong."""
        lines = self.text.strip().splitlines() or [f"exit code {self.code}"]
        traced = any(line.startswith("Traceback") for line in lines)
        line = lines[-1 if traced else 0]
        named = re.search(r"\[Errno \d+\] ([^:]+)", line)
        return named[1] if named else line.rpartition(": ")[2][:60].strip()


def ran(place: Place, command: Command, within_s: float = PROGRAM_S) -> Ran:
    """Run a program to its end, however it ends."""
    began = time.monotonic()
    try:
        done = place.start(command, timeout_s=within_s)
    except TookTooLongError:
        return Ran(None, "", time.monotonic() - began)
    return Ran(done.code, done.text, time.monotonic() - began)


@dataclass
class Talk:
    """A program that says a line, waits for one, and says how it ended: in ``with``."""

    place: Place
    command: Command
    child: Popen[bytes] = field(init=False)

    def __enter__(self) -> Self:
        self.child = self.place.open(self.command)
        return self

    def hear(self) -> str:
        """Return the next line."""
        assert self.child.stdout is not None
        return self.child.stdout.readline().decode().strip()

    def go_on(self) -> None:
        """Give it its line."""
        assert self.child.stdin is not None
        with suppress(OSError):
            self.child.stdin.write(b"\n")
            self.child.stdin.flush()

    def rest(self, within_s: float = PROGRAM_S) -> list[str]:
        """Return the lines until its end; nothing if it does not come."""
        try:
            out, _ = self.child.communicate(timeout=within_s)
        except TimeoutExpired:
            return []
        return out.decode(errors="replace").strip().splitlines()

    def __exit__(self, *exc: object) -> None:
        self.child.kill()
        with suppress(TimeoutExpired):
            self.child.communicate(timeout=HANG_S)


def talk(place: Place, code: str, *arguments: str | bytes | Path) -> Talk:
    """Return a program of Python, to be run by ``with``."""
    return Talk(place, [place.account.python, "-c", code, *arguments])


def listed(place: Place, paths: Sequence[bytes]) -> Path:
    """Write ``paths`` to a file that ``READS`` takes them from."""
    file = place.folder / "paths.list"
    file.write_text("".join(f"{os.fsdecode(path)}\n" for path in paths))
    file.chmod(0o644)
    return file


def noise(path: Path, nbytes: int, seed: int = 0) -> Path:
    """Write a file that no two parts of are alike."""
    chance = random.Random(seed)
    with path.open("wb") as file:
        for _ in range(nbytes >> 20):
            file.write(chance.randbytes(1 << 20))
        file.write(chance.randbytes(nbytes & ((1 << 20) - 1)))
    path.chmod(0o644)
    return path


def digest(path: Path) -> str:
    """Return the hash of a file on our disk, or why there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        return exc.strerror or "?"


def blocks_of(path: Path, size: int) -> list[int]:
    """Return the numbers of the blocks that ``WRITES`` stored, -1 for what is none."""
    content = path.read_bytes()
    known = {
        random.Random(number).randbytes(size): number
        for number in range(len(content) // size + 100)
    }
    return [
        known.get(content[at : at + size], -1) for at in range(0, len(content), size)
    ]
