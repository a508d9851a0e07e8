"""A mount that ends: what it opens, gives up and has the kernel forget.

Each test here fails without one line that no other test needs: ``tests/mutants.toml``.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from pamfs.app.login_stack import LoginStack
from pamfs.app.mount import Mount
from pamfs.config import Config
from pamfs.fuse.inflight import InFlightTable
from pamfs.fuse.kernel import Entries, KernelCaches
from pamfs.fuse.operations import Operations
from pamfs.model import Attrs, Ino, Name, Target
from pamfs.mountpoint import MountOptions
from pamfs.sessions.pool import Pool
from pamfs.vfs.names.inodes import InodeTable
from tests.conftest import LogLedger
from tests.fakes.faults import FallsSilent
from tests.fakes.mounted import CALLER, WEB01, Mounted, mounted


class Parts:
    """The other parts of a mount: they note in ``events`` what is asked of them."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.in_flight = InFlightTable()

    @property
    def events(self) -> list[str]:
        return self.log.read_text().split()

    def note(self, event: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{event}\n")

    def stop_opening(self) -> None:
        self.note("stop-opening")

    def end_within(self, seconds: float) -> None:
        self.note("end-within")

    async def unreturned(self) -> tuple[str, ...]:
        await trio.lowlevel.checkpoint()
        return ()

    async def close(self, deadline_s: float = 0) -> Sequence[Target]:
        await trio.lowlevel.checkpoint()
        self.note("close")
        return ()


class LoginParts(Parts):
    def close(self) -> None:  # type: ignore[override] # the way in closes at once
        self.note("close-journal")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where events are noted, also the calls of the programs that unmount."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    programs, log = tmp_path / "bin", tmp_path / "log"
    programs.mkdir()
    for name in ("sync", "fusermount3"):
        program = programs / name
        program.write_text(f"#!/bin/sh\necho {name} >> {log}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return log


def mount_of(world: Mounted, log: Path) -> Mount:
    """Return a mount of ``world``'s tree that was taken from the kernel."""
    config = Config(path=Path("test.toml"), tenants={})
    loop = cast("asyncio.AbstractEventLoop", None)  # nothing runs in it here
    mount = Mount(loop, config, log.parent, MountOptions())
    parts = Parts(log)
    mount._tree = world.tree
    mount._pool = cast("Pool", parts)
    mount._operations = cast("Operations", parts)
    mount._logins = cast("LoginStack", LoginParts(log))
    mount._is_serving = False
    return mount


async def test_a_mount_that_ends_opens_nothing_while_it_is_taken_away(
    log: Path,
) -> None:
    mount = mount_of(mounted(), log)
    mount._stop_wanted.set()
    await mount._stop_when_wanted()
    assert Parts(log).events == ["stop-opening", "sync", "fusermount3", "close"]


async def test_what_is_not_stored_in_time_is_given_up_and_named(
    log: Path, autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("acme/root@web01/f: data was not stored: write: EIO")
    expect_log("^not stored: acme/root@web01/f")
    world = mounted(make=FallsSilent)
    world.fs.put(b"/f")
    ino = (await world.look(b"acme/root@web01/f")).ino
    fh = (await world.tree.files.open(ino, os.O_WRONLY, CALLER)).fh
    tree = world.source.tree(WEB01)
    assert isinstance(tree, FallsSilent)
    tree.is_silent = True
    await world.tree.files.write(fh, 0, b"data")
    mount = mount_of(world, log)
    await mount._take_down()
    assert len(mount._lost) == 1
    assert Parts(log).events == ["end-within", "close", "close-journal"]


class Remembers(KernelCaches):
    """Tells nothing to the kernel, and keeps what it would have told."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__(nursery)
        self.inos: list[Ino] = []
        self.names: list[tuple[Ino, Name]] = []

    def _drop_all(self, inos: Sequence[Ino], names: Entries) -> None:
        self.inos += inos
        self.names += names


async def test_a_folder_keeps_its_name_in_the_kernel_and_a_file_does_not(
    nursery: trio.Nursery,
) -> None:
    inodes = InodeTable()
    folder = inodes.looked_up(inodes.root, Name(b"d"), Attrs(stat.S_IFDIR | 0o755))
    file = inodes.looked_up(folder, Name(b"f"), Attrs(stat.S_IFREG | 0o644))
    link = inodes.looked_up(folder, Name(b"l"), Attrs(stat.S_IFLNK | 0o777))
    caches = Remembers(nursery)
    caches.drop([folder, file, link])
    await caches.wait_dropped()
    assert caches.inos == [folder.ino, file.ino, link.ino]
    # A shell that stands in the folder would not know where it is.
    assert caches.names == [(folder.ino, b"f"), (folder.ino, b"l")]
    await caches.close()
    caches.drop([file])
    await caches.wait_dropped()
    assert len(caches.inos) == 3
