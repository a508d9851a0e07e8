"""A name that a listing does not hold: when the device is asked, and when not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from pamfs.errors import MissingError
from pamfs.model import Caller, Ino, Name
from pamfs.vfs.names.dentries import RUN, AbsentRuns, pause_s
from tests.fakes.memory import MemoryFs
from tests.fakes.mounted import CALLER, WEB01, Mounted, mounted
from tests.fakes.remote import Device, FakeTree

HOME = b"acme/root@web01"
OTHER = Caller(pid=2, uid=1000, gid=1000)
RTT_S = 0.1


class Far(FakeTree):
    def __init__(self, fs: MemoryFs) -> None:
        super().__init__(fs, Device(latency_s=RTT_S))


async def is_there(
    mount: Mounted, folder: Ino, name: bytes, caller: Caller = CALLER
) -> bool:
    try:
        await mount.tree.nodes.lookup(folder, Name(name), caller)
    except MissingError:
        return False
    return True


async def names(
    mount: Mounted, folder: Ino, caller: Caller = CALLER
) -> Sequence[bytes]:
    directories = mount.tree.directories
    fh = await directories.open(folder, caller)
    found = [item.name for item in await directories.entries(fh, 0)]
    directories.close(fh)
    return found


def looks(mount: Mounted) -> int:
    tree = mount.source.tree(WEB01)
    assert tree is not None
    return tree.calls["lstat"]


async def listed() -> tuple[Mounted, Ino]:
    """Return a mount whose target's folder was just listed."""
    mount = mounted(make=Far)
    mount.fs.put(b"/f")
    home = (await mount.look(HOME)).ino
    assert await names(mount, home) == [b"f"]
    return mount, home


class TestANameThatWasJustMadeOnTheDevice:
    async def test_is_found_in_a_folder_that_was_made_here(
        self, autojump_clock: MockClock
    ) -> None:
        mount = mounted(make=Far)
        home = (await mount.look(HOME)).ino
        directories = mount.tree.directories
        folder = await directories.mkdir(home, Name(b"n"), 0o755, CALLER)
        mount.fs.put(b"/n/fresh")
        assert await is_there(mount, folder.ino, b"fresh")

    async def test_is_found_in_a_folder_that_was_listed(
        self, autojump_clock: MockClock
    ) -> None:
        mount, home = await listed()
        for n in range(10):
            mount.fs.put(b"/fresh%d" % n)
            assert await is_there(mount, home, b"fresh%d" % n)

    async def test_is_in_the_listing_once_it_was_found(
        self, autojump_clock: MockClock
    ) -> None:
        mount, home = await listed()
        mount.fs.put(b"/fresh")
        assert await is_there(mount, home, b"fresh")
        assert await names(mount, home) == [b"f", b"fresh"]

    async def test_is_found_where_it_was_removed_here(
        self, autojump_clock: MockClock
    ) -> None:
        mount, home = await listed()
        await mount.tree.directories.unlink(home, Name(b"f"), CALLER)
        mount.fs.put(b"/f")
        assert await is_there(mount, home, b"f")

    async def test_is_absent_for_the_lifetime_if_it_was_looked_up(
        self, autojump_clock: MockClock
    ) -> None:
        mount, home = await listed()
        assert not await is_there(mount, home, b"late")
        mount.fs.put(b"/late")
        assert not await is_there(mount, home, b"late", OTHER)
        assert looks(mount) == 1
        await trio.sleep(3)
        assert await is_there(mount, home, b"late")


async def test_a_name_that_is_gone_is_in_no_listing(autojump_clock: MockClock) -> None:
    mount, home = await listed()
    mount.tree.coherence._dentries.doubt((WEB01, ()), Name(b"f"))
    mount.fs.unlink(b"/f")
    assert not await is_there(mount, home, b"f")
    assert await names(mount, home) == []
    tree = mount.source.tree(WEB01)
    assert tree is not None
    assert tree.calls["list_dir"] == 1


class TestAProgramThatLooksUpMany:
    async def test_is_answered_by_the_listing_after_a_few(
        self, autojump_clock: MockClock
    ) -> None:
        mount, home = await listed()
        for n in range(50):
            assert not await is_there(mount, home, b"none%d" % n)
        assert looks(mount) == RUN

    async def test_has_no_effect_on_others(self, autojump_clock: MockClock) -> None:
        mount, home = await listed()
        for n in range(10):
            await is_there(mount, home, b"none%d" % n)
        mount.fs.put(b"/fresh")
        assert await is_there(mount, home, b"fresh", OTHER)

    async def test_finds_what_was_made_while_it_paused(
        self, autojump_clock: MockClock
    ) -> None:
        mount, home = await listed()
        for n in range(10):
            await is_there(mount, home, b"none%d" % n)
        await trio.sleep(pause_s(RTT_S) + 0.01)
        mount.fs.put(b"/fresh")
        assert await is_there(mount, home, b"fresh")

    async def test_is_asked_for_again_once_the_listing_was_wrong(
        self, autojump_clock: MockClock
    ) -> None:
        mount, home = await listed()
        for n in range(10):
            await is_there(mount, home, b"none%d" % n)
        mount.fs.put(b"/one")
        mount.fs.put(b"/two")
        assert await is_there(mount, home, b"one", OTHER)
        assert await is_there(mount, home, b"two")


class TestAWalk:
    async def walked(self) -> tuple[Mounted, Ino]:
        mount = mounted(make=Far)
        mount.fs.make_dirs(b"/d")
        home = (await mount.look(HOME)).ino
        await names(mount, home)
        folder = (await mount.look(HOME + b"/d")).ino
        await names(mount, folder)
        return mount, folder

    async def test_is_answered_by_what_it_has_listed(
        self, autojump_clock: MockClock
    ) -> None:
        mount, folder = await self.walked()
        assert not await is_there(mount, folder, b".gitignore")
        assert looks(mount) == 0

    async def test_of_another_program_is_not_meant(
        self, autojump_clock: MockClock
    ) -> None:
        mount, folder = await self.walked()
        mount.fs.put(b"/d/fresh")
        assert await is_there(mount, folder, b"fresh", OTHER)

    async def test_that_has_stopped_is_not_meant(
        self, autojump_clock: MockClock
    ) -> None:
        mount, folder = await self.walked()
        await trio.sleep(pause_s(RTT_S) + 0.01)
        mount.fs.put(b"/d/fresh")
        assert await is_there(mount, folder, b"fresh")


@pytest.mark.parametrize("count", [1, 100])
def test_few_programs_are_remembered(count: int) -> None:
    absences = AbsentRuns()
    for pid in range(count):
        for _ in range(RUN):
            absences.answered(WEB01, pid, 0.0, 1.0)
    assert absences.is_run(WEB01, count - 1, 0.5)
    assert not absences.is_run(WEB01, count - 1, 1.0)
    assert len(absences._runs) <= 64
