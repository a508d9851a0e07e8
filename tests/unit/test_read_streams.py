"""Reading ahead over fake devices: what goes out, what is kept, what is told."""

from __future__ import annotations

import errno
import itertools
import os

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pamfs.errors import RemoteError
from pamfs.model import AttrChange, Data, FileHandle
from pamfs.vfs.background import Budget
from tests.fakes.faults import WithFiles
from tests.fakes.memory import MemoryFs
from tests.fakes.mounted import CALLER, WEB01, Mounted, mounted
from tests.fakes.remote import Device, FakeFile

KIB = 1 << 10
ASKED = 128 * KIB
EXACT = Device()
HOME = b"acme/root@web01"
CONTENT = os.urandom(64 * KIB) * 48  # 3 MiB


class Remembers(WithFiles):
    """Keeps the ranges that were read, and fails those that are ``bad``."""

    def __init__(self, fs: MemoryFs | None = None, device: Device = EXACT) -> None:
        super().__init__(fs, device)
        self.reads: list[tuple[int, int]] = []
        self.bad: set[int] = set()

    class file_type(FakeFile):  # noqa: N801 - it fills the attribute of that name
        async def read_at(self, offset: int, size: int) -> Data:
            tree = self.tree
            assert isinstance(tree, Remembers)
            tree.reads.append((offset, offset + size))
            data = await super().read_at(offset, size)
            if any(offset <= at < offset + size for at in tree.bad):
                raise RemoteError(errno.EIO, "read_at")
            return data


class World:
    """One file of 3 MiB, open."""

    def __init__(self, mount: Mounted, tree: Remembers, fh: FileHandle) -> None:
        self.mount, self.tree, self.fh = mount, tree, fh
        self.files = mount.tree.files
        self.budget = mount.tree.budget

    @property
    def held_bytes(self) -> int:
        """What is held beside the names that were listed."""
        listed = self.mount.tree.coherence.known.held_bytes
        return self.budget.held_bytes - listed

    async def read(self, start: int, size: int = ASKED) -> bytes:
        return bytes(await self.files.read(self.fh, start, size))

    async def read_all(self) -> bytes:
        parts = [await self.read(at) for at in range(0, len(CONTENT), ASKED)]
        return b"".join(parts)


async def opened(content: bytes = CONTENT, budget_bytes: int = 128 << 20) -> World:
    mount = mounted(make=Remembers, budget=Budget(budget_bytes))
    mount.fs.put(b"/f", content)
    home = await mount.look(HOME)
    await mount.tree.directories.open(home.ino, CALLER)
    tree = mount.source.tree(WEB01)
    assert isinstance(tree, Remembers)
    ino = (await mount.look(HOME + b"/f")).ino
    file = await mount.tree.files.open(ino, os.O_RDWR, CALLER)
    return World(mount, tree, file.fh)


async def test_a_stream_is_fetched_once_and_in_large_parts(
    autojump_clock: MockClock,
) -> None:
    world = await opened()
    assert await world.read_all() == CONTENT
    ranges = sorted(world.tree.reads)
    assert ranges[0] == (0, ASKED)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(ranges))
    assert ranges[-1][1] == len(CONTENT)
    assert len(ranges) < len(CONTENT) // ASKED
    assert world.held_bytes == 0


@pytest.mark.parametrize("asked", [512 * KIB, 1024 * KIB])
async def test_requests_larger_than_the_window_are_fetched_once_as_well(
    autojump_clock: MockClock, asked: int
) -> None:
    world = await opened()
    for start in range(0, len(CONTENT), asked):
        assert await world.read(start, asked) == CONTENT[start : start + asked]
    ranges = sorted(world.tree.reads)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(ranges))
    assert world.held_bytes == 0


@pytest.mark.parametrize("asked", [128 * KIB, 512 * KIB, 1024 * KIB])
async def test_readers_side_by_side_leave_each_other_what_was_fetched(
    autojump_clock: MockClock, asked: int
) -> None:
    world = await opened()
    world.tree.device = Device(latency_s=0.01)
    starts = iter(range(0, len(CONTENT), asked))

    async def read() -> None:
        for start in starts:
            assert await world.read(start, asked) == CONTENT[start : start + asked]

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(read)
    fetched = sum(stop - start for start, stop in world.tree.reads)
    assert fetched < 1.5 * len(CONTENT)
    assert world.held_bytes == 0


async def test_random_reads_cost_exactly_what_was_asked_for() -> None:
    world = await opened()
    wanted = [(at * 4 * KIB, at * 4 * KIB + 4 * KIB) for at in (300, 20, 600, 100, 5)]
    for start, stop in wanted:
        assert await world.read(start, stop - start) == CONTENT[start:stop]
    await trio.testing.wait_all_tasks_blocked()
    assert world.tree.reads == wanted
    assert world.held_bytes == 0


async def test_two_streams_in_one_file_are_both_fetched_ahead(
    autojump_clock: MockClock,
) -> None:
    world = await opened()
    half = len(CONTENT) // 2
    for at in range(0, half, ASKED):
        for start in (at, half + at):
            assert await world.read(start) == CONTENT[start : start + ASKED]
    assert len(world.tree.reads) < 2 * half // ASKED


async def test_after_a_seek_nothing_more_is_fetched(autojump_clock: MockClock) -> None:
    world = await opened()
    await world.read(0)
    await trio.sleep(0.1)
    before = len(world.tree.reads)
    await world.read(2048 * KIB, 4 * KIB)
    await trio.sleep(0.1)
    assert len(world.tree.reads) == before + 1


async def test_a_failed_fetch_is_told_only_to_who_needs_the_range(
    autojump_clock: MockClock,
) -> None:
    world = await opened()
    world.tree.bad = {300 * KIB}
    assert await world.read(0) == CONTENT[:ASKED]
    await trio.sleep(0.1)
    assert await world.read(ASKED) == CONTENT[ASKED : 2 * ASKED]
    with pytest.raises(RemoteError) as caught:
        await world.read(2 * ASKED)
    assert caught.value.code == errno.EIO
    # It was asked for again, and is there when the device can read it again.
    assert (2 * ASKED, 3 * ASKED) in world.tree.reads
    world.tree.bad = set()
    assert await world.read_all() == CONTENT


async def test_a_read_after_a_write_sees_it_whatever_was_fetched(
    autojump_clock: MockClock,
) -> None:
    world = await opened()
    await world.read(0)
    await trio.sleep(0.1)
    await world.files.write(world.fh, ASKED, b"new")
    assert (await world.read(ASKED))[:4] == b"new" + CONTENT[ASKED + 3 : ASKED + 4]


async def test_a_change_that_is_noticed_drops_what_was_fetched(
    autojump_clock: MockClock,
) -> None:
    world = await opened()
    await world.read(0)
    await trio.sleep(5)
    world.mount.fs.node(b"/f").content[:] = b"x" * 1024 * KIB
    await world.mount.look(HOME + b"/f")
    assert await world.read(ASKED) == b"x" * ASKED


async def test_a_reader_that_leaves_takes_only_itself_away(
    autojump_clock: MockClock,
) -> None:
    world = await opened()
    world.tree.device = Device(latency_s=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.read, 0)
        await trio.sleep(0.5)
        with trio.move_on_after(0.1):
            await world.read(ASKED)
        nursery.start_soon(world.read, ASKED)
    # What the one waited for was not asked for again for the other.
    assert len(world.tree.reads) == len(set(world.tree.reads))


async def test_a_closed_file_and_a_lost_session_hold_nothing(
    autojump_clock: MockClock,
) -> None:
    for end in ("release", "revoke", "lose"):
        world = await opened()
        await world.read(0)
        if end == "release":
            await world.files.release(world.fh)
        elif end == "revoke":
            world.mount.tree.session_revoked(WEB01)
            world.mount.tree.session_closed(WEB01)
            with pytest.raises(RemoteError):
                await world.read(ASKED)
        else:
            world.tree.lose()
            assert await world.read(ASKED) == CONTENT[ASKED : 2 * ASKED]
            world.mount.tree.session_closed(WEB01)
        await trio.sleep(0.1)
        assert world.held_bytes == 0, end


async def test_the_budget_bounds_what_many_files_hold(
    autojump_clock: MockClock,
) -> None:
    limit = 1024 * KIB
    world = await opened(budget_bytes=limit)
    handles = [world.fh]
    for number in range(30):
        world.mount.fs.put(b"/g%d" % number, CONTENT)
    await trio.sleep(60)  # the listing is forgotten
    for number in range(30):
        ino = (await world.mount.look(HOME + b"/g%d" % number)).ino
        handles.append((await world.files.open(ino, os.O_RDONLY, CALLER)).fh)
    for at in range(0, len(CONTENT), ASKED):
        for fh in handles:
            data = bytes(await world.files.read(fh, at, ASKED))
            assert data == CONTENT[at : at + ASKED]
            assert world.budget.held_bytes <= limit
    for fh in handles:
        await world.files.release(fh)
    await trio.sleep(0.1)
    assert world.held_bytes == 0


async def test_without_a_budget_every_read_is_the_devices(
    autojump_clock: MockClock,
) -> None:
    world = await opened(budget_bytes=0)
    assert await world.read_all() == CONTENT
    assert len(world.tree.reads) == len(CONTENT) // ASKED
    assert all(stop - start == ASKED for start, stop in world.tree.reads)


async def test_a_lost_session_while_a_reader_waits_is_asked_anew(
    autojump_clock: MockClock,
) -> None:
    world = await opened()
    await world.read(0)
    world.tree.device = Device(latency_s=5)

    async def lose() -> None:
        await trio.sleep(2)
        world.tree.lose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lose)
        assert await world.read_all() == CONTENT
    assert world.mount.source.logins[WEB01] == 2


async def test_what_was_fetched_long_ago_is_fetched_anew(
    autojump_clock: MockClock,
) -> None:
    world = await opened()
    await world.read(0)
    await trio.sleep(60)
    before = len(world.tree.reads)
    assert await world.read(ASKED) == CONTENT[ASKED : 2 * ASKED]
    assert len(world.tree.reads) > before
    # And read ahead from there on.
    assert await world.read_all() == CONTENT


async def test_what_was_cut_off_and_put_back_is_empty(
    autojump_clock: MockClock,
) -> None:
    world = await opened()
    world.mount.fs.clock_ns = lambda: 0  # all within one second
    world.mount.fs.node(b"/f").mtime_ns = 0
    await world.files.release(world.fh)
    await trio.sleep(60)
    node = await world.mount.look(HOME + b"/f")
    world.fh = (await world.files.open(node.ino, os.O_RDWR, CALLER)).fh
    await world.read(0)
    await trio.sleep(0.1)
    for size in (ASKED, len(CONTENT)):
        await world.mount.tree.nodes.setattr(node.ino, AttrChange(size=size), CALLER)
    assert await world.read(ASKED) == bytes(ASKED)
