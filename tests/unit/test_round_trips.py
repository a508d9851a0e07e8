"""How many round trips a program waits for, and how many requests go out.

docs/round-trips.md is this table for people. The device answers late by trio's own
clock, so the time that an operation takes there is what it takes in round trips;
what goes out behind something else takes none, and is counted as a request.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from pamfs.errors import MissingError
from pamfs.model import AttrChange, FileHandle, Ino, Name
from tests.fakes.memory import MemoryFs
from tests.fakes.mounted import CALLER, WEB01, Mounted, mounted
from tests.fakes.remote import Device, FakeTree

HOME = b"acme/root@web01"
PAGE = Path(__file__).parents[2] / "docs" / "round-trips.md"
FILES: Final = 20
RTT_S: Final = 0.1


class Far(FakeTree):
    """A device that is far away, and works in the order in which it is asked."""

    def __init__(self, fs: MemoryFs) -> None:
        super().__init__(fs, Device(latency_s=RTT_S))
        self.asked = 0

    async def round_trip(self, name: str) -> None:
        self.asked += 1
        self.device = Device(latency_s=RTT_S + 1e-6 * self.asked)
        await super().round_trip(name)


@dataclass
class Program:
    """What programs do, as the requests that the kernel makes of it."""

    mount: Mounted
    home: Ino

    async def stat(self, name: bytes, folder: Ino | None = None) -> Ino | None:
        try:
            node = await self.mount.tree.nodes.lookup(
                folder or self.home, Name(name), CALLER
            )
        except MissingError:
            return None
        return node.ino

    async def listed(self) -> None:
        directories = self.mount.tree.directories
        fh = await directories.open(self.home, CALLER)
        for entry in await directories.entries(fh, 0):
            directories.listed(fh, entry)
        directories.close(fh)

    async def read_whole(self, name: bytes) -> None:
        ino = await self.stat(name)
        assert ino is not None
        files = self.mount.tree.files
        opened = await files.open(ino, os.O_RDONLY, CALLER)
        await files.read(opened.fh, 0, 4096)
        await self.closed(opened.fh)

    async def made(self, name: bytes, *changes: AttrChange) -> Ino:
        """Make a file as tar does: what it is to look like before the close."""
        assert await self.stat(name) is None
        where = (self.home, Name(name))
        files = self.mount.tree.files
        opened, node = await files.create(where, os.O_WRONLY, 0o600, CALLER)
        await files.write(opened.fh, 0, b"x" * 4096)
        for change in changes:
            await self.mount.tree.nodes.setattr(node.ino, change, CALLER)
            if change.mtime_ns is not None:
                await self.mount.tree.nodes.getattr(node.ino, CALLER)
        await self.closed(opened.fh)
        return node.ino

    async def closed(self, fh: FileHandle) -> None:
        """Close; nobody waits for the release."""
        await self.mount.tree.files.flush(fh)
        self.mount.tree.files._background.spawn(self.mount.tree.files.release, fh)

    async def renamed(self, old: bytes, new: bytes) -> None:
        await self.stat(new)
        source, dest = (self.home, Name(old)), (self.home, Name(new))
        directories = self.mount.tree.directories
        await directories.rename(source, dest, CALLER, replace=True)

    async def removed(self, name: bytes) -> None:
        await self.stat(name)
        await self.mount.tree.directories.unlink(self.home, Name(name), CALLER)


MODE, TIMES = AttrChange(mode=0o644), AttrChange(mtime_ns=0)
MINE = AttrChange(uid=1000, gid=1000)


async def stat(program: Program) -> None:
    assert await program.stat(b"f0") is not None


async def stat_absent(program: Program) -> None:
    assert await program.stat(b"none") is None


async def readdir(program: Program) -> None:
    await program.listed()


async def list_long(program: Program) -> None:
    await program.listed()
    for number in range(FILES):
        ino = await program.stat(b"f%d" % number)
        assert ino is not None
        await program.mount.tree.nodes.getattr(ino, CALLER)


async def git_status(program: Program) -> None:
    for number in range(FILES):
        await program.stat(b"f%d" % number)
        await program.stat(b"none%d" % number)


async def read_small(program: Program) -> None:
    await program.read_whole(b"f0")


async def create_small(program: Program) -> None:
    await program.made(b"new")


async def create_listed(program: Program) -> None:
    await program.made(b"new")


async def tar_extract(program: Program) -> None:
    """Extract as GNU tar does, which looks at the file after its times are set."""
    await program.made(b"new", MINE, TIMES, MODE)


async def rsync(program: Program) -> None:
    ino = await program.made(b".f0.tmp")
    nodes = program.mount.tree.nodes
    await nodes.getattr(ino, CALLER)
    for change in (MINE, TIMES, MODE):
        await nodes.setattr(ino, change, CALLER)
    await program.renamed(b".f0.tmp", b"f0")


async def mkdir(program: Program) -> None:
    assert await program.stat(b"new") is None
    directories = program.mount.tree.directories
    await directories.mkdir(program.home, Name(b"new"), 0o755, CALLER)


async def fill_folder(program: Program) -> None:
    """Make a folder and a file in it; look for another one."""
    directories = program.mount.tree.directories
    node = await directories.mkdir(program.home, Name(b"new"), 0o755, CALLER)
    inside = Program(program.mount, node.ino)
    await inside.made(b"file")
    assert await inside.stat(b"other") is None


async def copy_tree(program: Program) -> None:
    """Copy a folder of files as ``cp -r`` does."""
    assert await program.stat(b"new") is None
    directories = program.mount.tree.directories
    node = await directories.mkdir(program.home, Name(b"new"), 0o755, CALLER)
    inside = Program(program.mount, node.ino)
    for number in range(FILES):
        await inside.made(b"file%d" % number)


async def rsync_tree(program: Program) -> None:
    """Send files that are not there yet, as ``rsync`` does."""
    nodes = program.mount.tree.nodes
    for number in range(FILES):
        name = b"new%d" % number
        assert await program.stat(name) is None
        ino = await program.made(b".%s.tmp" % name)
        for change in (MINE, TIMES, MODE):
            await nodes.setattr(ino, change, CALLER)
        await program.renamed(b".%s.tmp" % name, name)


async def remove(program: Program) -> None:
    await program.removed(b"f0")


async def rename(program: Program) -> None:
    await program.renamed(b"f0", b"g0")


async def chmod(program: Program) -> None:
    ino = await program.stat(b"f0")
    assert ino is not None
    await program.mount.tree.nodes.setattr(ino, MODE, CALLER)


@dataclass(frozen=True)
class Row:
    """What is done, in a folder just listed or not, and what it may take."""

    what: str
    do: Callable[[Program], Awaitable[None]]
    is_listed: bool
    round_trips: int
    requests: int


# A listing counts as one here; on the wire a small folder takes two (OPENDIR, then
# READDIR), whatever it holds.
ROWS = [
    Row("stat", stat, False, 1, 1),
    Row("stat in a folder just listed", stat, True, 0, 0),
    Row("stat of an absent name there", stat_absent, True, 1, 1),
    Row("list a folder", readdir, False, 1, 1),
    Row("list it again", readdir, True, 0, 0),
    Row(f"ls -l of {FILES} files", list_long, False, 1, 1),
    Row(f"git status: {2 * FILES} names, half of them absent", git_status, False, 5, 6),
    Row("the same in a folder just listed", git_status, True, 3, 3),
    Row("open, read, close a small file", read_small, False, 3, 4),
    Row("the same in a folder just listed", read_small, True, 2, 3),
    Row("create, write, close", create_small, False, 3, 5),
    Row("the same in a folder just listed", create_listed, True, 3, 5),
    Row("tar: create, write, chown, chmod, utimes, close", tar_extract, True, 3, 5),
    Row("rsync: create, write, close, utimes, chmod, rename", rsync, True, 6, 8),
    Row("mkdir", mkdir, True, 2, 2),
    Row("mkdir, and create a file in it", fill_folder, True, 5, 7),
    Row(f"cp -r of a folder of {FILES} files", copy_tree, True, 45, 86),
    Row(f"rsync of {FILES} new files", rsync_tree, True, 112, 155),
    Row("chmod", chmod, True, 1, 1),
    Row("unlink", remove, True, 1, 1),
    Row("rename", rename, True, 2, 2),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.what}-{row.is_listed}")
async def test_an_operation_takes_no_more(row: Row, autojump_clock: MockClock) -> None:
    mount = mounted(make=Far)
    for number in range(FILES):
        mount.fs.put(b"/f%d" % number, b"x" * 4096)
    program = Program(mount, (await mount.look(HOME)).ino)
    async with mount.source.lend(WEB01, CALLER):
        pass  # the login is not what is counted
    if row.is_listed:
        await program.listed()
    tree = mount.source.tree(WEB01)
    assert tree is not None
    tree.calls.clear()
    start = trio.current_time()
    await row.do(program)
    took = round((trio.current_time() - start) / RTT_S)
    await trio.sleep(5)
    assert took <= row.round_trips
    assert tree.calls.total() <= row.requests, tree.calls


def test_the_page_shows_the_table() -> None:
    shown = re.findall(r"^\| ([^|]+) \| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    assert shown == [(row.what, str(row.round_trips)) for row in ROWS]
