"""A tree with everything that makes trouble, and what a tree holds.

``python -m tests.mount.trees FOLDER`` prints the manifest of a folder; tests run
it as a process of its own, so that a mount that hangs cannot hang them.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import stat
import sys
from pathlib import Path

# A whole second: SFTP version 3 knows no fractions.
MTIME_S = 1_700_000_000
HARD_NAMES = (
    "gr\u00fc\u00dfe-\u65e5\u672c\u8a9e-\U0001f40d.txt".encode(),
    b"caf\xe9-latin1",
    b"n" * 255,
    b"two\nlines",
    b"[bracket]",
    b"{brace}",
    b"100%d %s %",
    b" leading and trailing ",
    b"-dash",
    b"back\\slash",
    b"quote'\"$HOME`id`",
    b"tab\tand\x01control",
)


def make_tree(root: Path, owner: tuple[int, int]) -> None:
    """Fill the new folder ``root``: sizes, modes, links, names; owned by ``owner``."""
    top = os.fsencode(root)
    os.mkdir(top, 0o755)
    for name in HARD_NAMES:
        _write(top + b"/" + name, b"the file " + name)
    os.mkdir(top + b"/d")
    for size in (0, 1, 4095, 4096, 131072, 131073, 1_000_000):
        _write(top + b"/d/size-%d" % size, random.Random(size).randbytes(size))
    for mode in (0o400, 0o600, 0o644, 0o755):
        _write(top + b"/d/mode-%o" % mode, b"x", mode)
    os.symlink(b"size-1", top + b"/d/link")
    os.symlink(b"nowhere/at all", top + b"/d/dangling")
    os.mkdir(top + b"/empty")
    deep = top
    for level in range(8):
        deep += b"/level-%d" % level
        os.mkdir(deep)
    _write(deep + b"/leaf", b"deep")
    _settle(top, owner)


def make_sparse(path: Path) -> None:
    """Make a file of 64 MiB that is nearly all hole."""
    with path.open("wb") as file:
        file.seek(5_000_000)
        file.write(b"island")
        file.truncate(64 << 20)


def make_huge(path: Path, mebibytes: int) -> None:
    """Make a file of which no two blocks are the same."""
    block = bytearray(random.Random(1).randbytes(1 << 20))
    with path.open("wb") as file:
        for number in range(mebibytes):
            block[:8] = number.to_bytes(8, "big")
            file.write(block)


def _write(path: bytes, content: bytes, mode: int = 0o644) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        os.fchmod(fd, mode)


def _settle(top: bytes, owner: tuple[int, int]) -> None:
    for folder, _, files in os.walk(top, topdown=False):
        for name in files:
            _settle_one(folder + b"/" + name, owner)
        _settle_one(folder, owner)


def _settle_one(path: bytes, owner: tuple[int, int]) -> None:
    os.chown(path, *owner, follow_symlinks=False)
    os.utime(path, (MTIME_S, MTIME_S), follow_symlinks=False)


def manifest(root: bytes) -> dict[str, list[object]]:
    """Return relative path to kind, mode, whole mtime, and content, of all below."""
    found: dict[str, list[object]] = {}
    for folder, folders, files in os.walk(root, onerror=_raise):
        for name in folders + files:
            path = folder + b"/" + name
            found[path[len(root) + 1 :].hex()] = _describe(path)
    return found


def _raise(error: OSError) -> None:
    raise error


def _describe(path: bytes) -> list[object]:
    info = os.lstat(path)
    kind = stat.S_IFMT(info.st_mode)
    if stat.S_ISLNK(kind):
        # The mode of a link means nothing, and not every server sets its times.
        return ["link", os.readlink(path).hex()]
    if stat.S_ISDIR(kind):
        return ["folder", stat.S_IMODE(info.st_mode), int(info.st_mtime)]
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return [
        "file",
        stat.S_IMODE(info.st_mode),
        int(info.st_mtime),
        info.st_size,
        digest,
    ]


if __name__ == "__main__":
    json.dump(manifest(os.fsencode(sys.argv[1])), sys.stdout)
