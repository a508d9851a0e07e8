"""The matrix of open(2): every sensible set of flags on every kind of name.

What a local file system does is stored in open_flags.json; the oracle is held
to it as well, so a stored mistake is found.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

from tests.mount.posix import Checks, OsLike, exists

OPENS = Checks()
STORED = Path(__file__).with_name("open_flags.json")

ACCESS = {"RDONLY": os.O_RDONLY, "WRONLY": os.O_WRONLY, "RDWR": os.O_RDWR}
KINDS = ("missing", "file", "dir", "link", "dangling", "dirlink", "loop")
# O_EXCL without O_CREAT is undefined, O_CREAT with O_DIRECTORY differs by kernel.
CREATION = ("", "CREAT", "CREAT|EXCL")
CONTENT = ("", "TRUNC", "APPEND", "TRUNC|APPEND")
TYPE = ("", "NOFOLLOW", "DIRECTORY")


def flag_sets() -> Iterator[str]:
    for parts in itertools.product(ACCESS, CREATION, CONTENT, TYPE):
        if "CREAT" in parts[1] and parts[3] == "DIRECTORY":
            continue
        yield "|".join(part for part in parts if part)


def bits(flags: str) -> int:
    found = 0
    for name in flags.split("|"):
        found |= ACCESS[name] if name in ACCESS else int(getattr(os, "O_" + name))
    return found


def set_up(fs: OsLike, root: bytes) -> None:
    """Make one name of each kind, as if nothing had happened before."""
    for name in (b"/missing", b"/nowhere", b"/file", b"/real"):
        if exists(fs, root + name):
            fs.unlink(root + name)
    for name in (b"/file", b"/real"):
        fd = fs.open(root + name, os.O_WRONLY | os.O_CREAT, 0o644)
        fs.write(fd, b"12345")
        fs.close(fd)


def set_up_once(fs: OsLike, root: bytes) -> None:
    set_up(fs, root)
    fs.mkdir(root + b"/dir")
    for content, name in (
        (b"real", b"/link"),
        (b"nowhere", b"/dangling"),
        (b"dir", b"/dirlink"),
        (b"loop", b"/loop"),
    ):
        fs.symlink(content, root + name)


def outcome(fs: OsLike, path: bytes, flags: int) -> str:
    """Open ``path`` and return what came of it, in a few words."""
    try:
        fd = fs.open(path, flags, 0o644)
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    try:
        if flags & os.O_DIRECTORY or path.endswith((b"/dir", b"/dirlink")):
            return "directory"
        return f"size {fs.fstat(fd).st_size}, {_write(fs, fd)}, {_read(fs, fd)}"
    finally:
        fs.close(fd)


def _write(fs: OsLike, fd: int) -> str:
    try:
        fs.write(fd, b"ab")
    except OSError as exc:
        return f"write {errno.errorcode[exc.errno or 0]}"
    return f"write to {fs.fstat(fd).st_size}"


def _read(fs: OsLike, fd: int) -> str:
    try:
        return f"read {fs.pread(fd, 100, 0).decode()}"
    except OSError as exc:
        return f"read {errno.errorcode[exc.errno or 0]}"


def outcomes(fs: OsLike, root: bytes) -> dict[str, str]:
    """Return the outcome of every open of the matrix."""
    found: dict[str, str] = {}
    set_up_once(fs, root)
    for flags in flag_sets():
        is_changing = not flags.startswith("RDONLY") or "|" in flags
        for kind in KINDS:
            name = root + b"/" + kind.encode()
            found[f"{kind}: {flags}"] = outcome(fs, name, bits(flags))
        if is_changing:
            set_up(fs, root)
    return found


@OPENS
def open_flags_mean_what_they_mean_locally(fs: OsLike, root: bytes) -> None:
    stored: dict[str, str] = json.loads(STORED.read_text())
    found = outcomes(fs, root)
    differing = {
        name: (found.get(name), right)
        for name, right in stored.items()
        if found.get(name) != right
    }
    assert not differing, f"(found, right): {differing}"
    assert found.keys() == stored.keys()
