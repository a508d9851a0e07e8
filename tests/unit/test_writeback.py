"""Queued writes over fake devices: merged, ordered, stored or reported."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pamfs.errors import RemoteError
from pamfs.model import AttrChange, Data, FileHandle, Ino, Name
from pamfs.vfs.background import (
    FILE_BYTES,
    FIRST_BYTES,
    LEAST_STEP,
    MAX_WINDOW,
    NEAR_FILE_BYTES,
    QUEUED_S,
    UNKNOWN_BYTES,
    Budget,
)
from tests.fakes.faults import FallsSilent, FullDisk, WithFiles
from tests.fakes.mounted import CALLER, WEB01, Mounted, mounted
from tests.fakes.remote import EVERYTHING, Device, FakeFile, FakeTree

KIB = 1 << 10
HOME = b"acme/root@web01"
STEP = EVERYTHING.max_write_bytes


class World:
    """An empty file, and the device that it is on."""

    def __init__(self, mount: Mounted, tree: FakeTree, ino: Ino) -> None:
        self.mount, self.tree, self.ino = mount, tree, ino
        self.files = mount.tree.files

    async def open(self, flags: int = os.O_RDWR) -> FileHandle:
        return (await self.files.open(self.ino, flags, CALLER)).fh

    @property
    def content(self) -> bytes:
        return bytes(self.mount.fs.node(b"/f").content)

    @property
    def writes(self) -> int:
        return self.tree.calls["write_at"]


async def ready(make: type[FakeTree] = FakeTree, budget: Budget | None = None) -> World:
    mount = mounted(make=make, budget=budget)
    mount.fs.put(b"/f")
    ino = (await mount.look(HOME + b"/f")).ino
    tree = mount.source.tree(WEB01)
    assert isinstance(tree, FakeTree)
    return World(mount, tree, ino)


async def test_small_writes_are_merged_and_sent_at_the_flush(
    autojump_clock: MockClock,
) -> None:
    world = await ready()
    world.tree.device = Device(latency_s=1)
    fh = await world.open()
    began = trio.current_time()
    for number in range(256):
        await world.files.write(fh, number * 4 * KIB, bytes([number]) * 4 * KIB)
    assert trio.current_time() == began
    await world.files.flush(fh)
    assert world.content == b"".join(bytes([n]) * 4 * KIB for n in range(256))
    # The first goes alone, the others in as few as the server takes.
    assert world.writes <= 2 + 1024 * KIB // STEP
    # All on their way at once, behind the first of them.
    assert trio.current_time() - began <= 3


async def test_what_is_written_is_stored_without_a_flush() -> None:
    world = await ready()
    fh = await world.open()
    await world.files.write(fh, 0, b"data")
    await trio.testing.wait_all_tasks_blocked()
    assert world.content == b"data"
    assert world.mount.tree.budget.held_bytes == 0


async def test_whoever_asks_sees_what_was_written(autojump_clock: MockClock) -> None:
    world = await ready()
    world.tree.device = Device(latency_s=1)
    fh, other = await world.open(), await world.open()
    await world.files.write(fh, 5, b"data")
    assert (await world.mount.tree.nodes.getattr(world.ino, CALLER)).attrs.size == 9
    await world.files.write(fh, 9, b"more")
    assert await world.files.read(other, 0, 100) == bytes(5) + b"datamore"
    await world.files.write(other, 5, b"DATA")
    truncated = AttrChange(size=7)
    node = await world.mount.tree.nodes.setattr(world.ino, truncated, CALLER)
    assert node.attrs.size == 7
    assert world.content == bytes(5) + b"DA"
    await world.files.write(fh, 0, b"x")
    third = await world.open(os.O_RDWR | os.O_TRUNC)
    assert world.content == b""
    assert await world.files.read(third, 0, 10) == b""


async def test_the_size_never_shrinks_while_data_is_on_its_way(
    autojump_clock: MockClock,
) -> None:
    world = await ready()
    fh = await world.open()
    home = (await world.mount.look(HOME)).ino
    world.tree.device = Device(latency_s=1)
    sizes = []

    async def look() -> None:
        for _ in range(20):
            node = await world.mount.tree.nodes.lookup(home, Name(b"f"), CALLER)
            sizes.append(node.attrs.size)
            await trio.sleep(0.3)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        for number in range(8):
            await world.files.write(fh, number * 10, b"0123456789")
            await trio.sleep(0.7)
    assert sizes == sorted(sizes)


async def test_two_handles_share_one_order(autojump_clock: MockClock) -> None:
    world = await ready()
    world.tree.device = Device(latency_s=1)
    one, other = await world.open(), await world.open()
    for number in range(20):
        fh = (one, other)[number % 2]
        await world.files.write(fh, number % 3, b"%02d" % number)
    await world.files.flush(one)
    assert world.content == expected(20)


def expected(count: int) -> bytes:
    content = bytearray(4)
    for number in range(count):
        content[number % 3 : number % 3 + 2] = b"%02d" % number
    return bytes(content)


async def test_appends_keep_their_order_and_go_behind_the_end(
    autojump_clock: MockClock,
) -> None:
    world = await ready()
    fh = await world.open(os.O_WRONLY | os.O_APPEND)
    world.tree.device = Device(latency_s=1)
    for number in range(30):
        await world.files.write(fh, 0, b"%02d\n" % number)
    await world.files.flush(fh)
    assert world.content == b"".join(b"%02d\n" % number for number in range(30))
    assert world.writes <= 2


async def test_a_removed_and_a_renamed_file_get_what_was_written(
    autojump_clock: MockClock,
) -> None:
    world = await ready()
    home = (await world.mount.look(HOME)).ino
    directories = world.mount.tree.directories
    world.mount.fs.put(b"/g", b"old")
    fh = await world.open()
    world.tree.device = Device(latency_s=1)
    node = world.mount.fs.node(b"/f")
    await world.files.write(fh, 0, b"one")
    await directories.rename(
        (home, Name(b"f")), (home, Name(b"g")), CALLER, replace=True
    )
    await world.files.write(fh, 3, b"two")
    await directories.unlink(home, Name(b"g"), CALLER)
    await world.files.write(fh, 6, b"three")
    await world.files.flush(fh)
    assert bytes(node.content) == b"onetwothree"
    await world.files.release(fh)


@pytest.mark.parametrize(
    ("latency_s", "most"), [(1, FILE_BYTES), (0.001, NEAR_FILE_BYTES)]
)
async def test_the_queue_of_a_file_is_bounded(
    autojump_clock: MockClock, latency_s: float, most: int
) -> None:
    world = await ready()
    fh = await world.open()
    world.tree.device = Device(latency_s=latency_s)
    budget = world.mount.tree.budget
    block = bytes(1024 * KIB)
    held = []
    for number in range(2 * most // len(block)):
        await world.files.write(fh, number * len(block), block)
        held.append(budget.held_bytes)
    await world.files.flush(fh)
    assert max(held) == most
    assert len(world.content) == 2 * most
    assert budget.held_bytes == 0


@pytest.mark.parametrize("limit", [0, 300 * KIB])
async def test_a_small_budget_costs_time_and_no_data(
    autojump_clock: MockClock, limit: int
) -> None:
    world = await ready(budget=Budget(limit))
    fh = await world.open()
    for number in range(20):
        await world.files.write(fh, number * 100 * KIB, bytes([number]) * 100 * KIB)
        assert world.mount.tree.budget.held_bytes <= limit
    await world.files.flush(fh)
    assert world.content == b"".join(bytes([n]) * 100 * KIB for n in range(20))


async def test_an_error_is_told_to_the_handle_that_it_came_through(
    expect_log: object,
) -> None:
    assert callable(expect_log)
    expect_log("data was not stored")
    world = await ready(FullDisk)
    one, other = await world.open(), await world.open()
    await world.files.write(one, 0, b"data")
    with pytest.raises(RemoteError) as caught:
        await world.files.fsync(one)
    assert caught.value.code == errno.ENOSPC
    await world.files.flush(other)
    await world.files.release(one)
    assert world.mount.tree.unstored() == []


async def test_a_device_that_falls_silent_is_an_error_in_time(
    autojump_clock: MockClock, expect_log: object
) -> None:
    assert callable(expect_log)
    expect_log("data was not stored: write: ETIMEDOUT")
    world = await ready(FallsSilent)
    assert isinstance(world.tree, FallsSilent)
    fh = await world.open()
    world.tree.is_silent = True
    await world.files.write(fh, 0, bytes(4 * STEP))
    with pytest.raises(RemoteError) as caught:
        await world.files.flush(fh)
    assert caught.value.code == errno.ETIMEDOUT
    assert world.mount.tree.budget.held_bytes == 0
    world.tree.is_silent = False


async def test_what_a_closed_session_took_with_it_is_an_error(
    autojump_clock: MockClock, expect_log: object
) -> None:
    assert callable(expect_log)
    expect_log("acme/root@web01/f: data was not stored")
    world = await ready()
    fh = await world.open()
    world.tree.device = Device(latency_s=1)
    await world.files.write(fh, 0, bytes(8 * STEP))
    world.mount.tree.session_revoked(WEB01)
    world.tree.lose()
    with pytest.raises(RemoteError) as caught:
        await world.files.flush(fh)
    assert caught.value.code == errno.ESTALE
    with pytest.raises(RemoteError):
        await world.files.write(fh, 0, b"more")
    assert world.mount.tree.budget.held_bytes == 0
    # A program was told, which may not have looked: a person is told as well, once.
    await world.files.release(fh)
    (line,) = world.mount.tree.unstored()
    assert line.startswith(f"acme/root@web01/f: {8 * STEP} bytes: handle: ESTALE")
    world.mount.tree.lost.was_read(1)
    assert world.mount.tree.unstored() == []


async def test_what_could_not_be_stored_in_time_is_named(
    autojump_clock: MockClock, expect_log: object
) -> None:
    assert callable(expect_log)
    expect_log("data was not stored")
    world = await ready()
    fh = await world.open()
    world.tree.device = Device(latency_s=20)
    await world.files.write(fh, 0, b"data")
    with trio.move_on_after(10):
        await world.files.writes.stored(WEB01)
    world.files.writes.abandon(RemoteError(errno.EIO, "write", "too late"))
    (line,) = world.mount.tree.unstored()
    assert line.startswith("acme/root@web01/f: ")


class FullAtClose(WithFiles):
    """Finds out that it has no room when a file is closed, as NFS may."""

    class file_type(FakeFile):  # noqa: N801 - it fills the attribute of that name
        async def close(self) -> None:
            await super().close()
            raise RemoteError(errno.EDQUOT, "close")


async def test_what_a_close_refuses_is_named(expect_log: object) -> None:
    assert callable(expect_log)
    expect_log("acme/root@web01/f: data was not stored: close: EDQUOT")
    expect_log("closing a file")
    world = await ready(FullAtClose)
    read, written = await world.open(), await world.open()
    await world.files.write(written, 0, b"data")
    await world.files.flush(written)
    await world.files.release(read)
    assert world.mount.tree.unstored() == []
    await world.files.release(written)
    assert world.mount.tree.unstored() == ["acme/root@web01/f: close: EDQUOT"]


async def test_a_release_stores_before_it_closes(autojump_clock: MockClock) -> None:
    world = await ready()
    fh = await world.open()
    world.tree.device = replace(Device(), latency_s=1)
    await world.files.write(fh, 0, b"data")
    await world.files.release(fh)
    assert world.content == b"data"
    assert world.tree.open_files == 0
    assert world.mount.source.pins[WEB01] == 0


async def test_the_last_stretch_of_a_lease_takes_no_more(expect_log: object) -> None:
    assert callable(expect_log)
    expect_log("data was not stored")
    world = await ready()
    fh = await world.open()
    await world.files.write(fh, 0, b"stored")
    world.mount.source.read_only.add(WEB01)
    with pytest.raises(RemoteError) as caught:
        await world.files.write(fh, 6, b"refused")
    assert caught.value.code == errno.EROFS
    await world.files.writes.stored(WEB01)
    assert world.content == b"stored"


class CountsFlying(WithFiles):
    """Counts how many writes of all its files are under way at once."""

    flying = 0
    most = 0

    class file_type(FakeFile):  # noqa: N801 - it fills the attribute of that name
        async def write_at(self, offset: int, data: Data) -> None:
            tree = self.tree
            assert isinstance(tree, CountsFlying)
            tree.flying += 1
            tree.most = max(tree.most, tree.flying)
            await super().write_at(offset, data)
            tree.flying -= 1


async def test_a_far_line_is_full_after_a_few_round_trips(
    autojump_clock: MockClock,
) -> None:
    world = await ready(CountsFlying)
    assert isinstance(world.tree, CountsFlying)
    world.tree.device = Device(latency_s=0.05)
    fh = await world.open()
    for number in range(2 * FIRST_BYTES // STEP):
        await world.files.write(fh, number * STEP, bytes(STEP))
    began = trio.current_time()
    await world.files.flush(fh)
    assert world.tree.most >= FIRST_BYTES // STEP
    assert trio.current_time() - began <= 4 * 0.05


class Narrow(CountsFlying):
    """Takes what is written over a line of 1 MB/s, one write after the other."""

    bytes_per_s = 1_000_000
    flying_bytes = 0
    noted: list[int]
    line: trio.Lock | None = None

    class file_type(FakeFile):  # noqa: N801 - it fills the attribute of that name
        async def write_at(self, offset: int, data: Data) -> None:
            tree = self.tree
            assert isinstance(tree, Narrow)
            tree.flying_bytes += len(data)
            tree.noted.append(tree.flying_bytes)
            line = tree.line = tree.line or trio.Lock()
            async with line:
                await trio.sleep(len(data) / tree.bytes_per_s)
            await super().write_at(offset, data)
            tree.flying_bytes -= len(data)


@pytest.mark.parametrize("files", [1, 4])
@pytest.mark.parametrize("bytes_per_s", [100_000, 1_000_000, 20_000_000])
async def test_what_waits_on_the_line_is_sent_in_a_quarter_of_a_second(
    autojump_clock: MockClock, bytes_per_s: int, files: int
) -> None:
    world = await ready(Narrow)
    assert isinstance(world.tree, Narrow)
    world.tree.bytes_per_s, world.tree.noted = bytes_per_s, []
    handles = [await world.open() for _ in range(files)]
    for number in range(4 * FIRST_BYTES // STEP):
        fh = handles[number % files]
        await world.files.write(fh, number * STEP, bytes(STEP))
    for fh in handles:
        await world.files.flush(fh)
    later = world.tree.noted[len(world.tree.noted) // 4 :]
    assert max(later) <= max(bytes_per_s * QUEUED_S, LEAST_STEP)
    assert max(world.tree.noted) <= max(UNKNOWN_BYTES, bytes_per_s * QUEUED_S)


@pytest.mark.parametrize("latency_s", [2, 0.001])
async def test_a_slow_or_near_line_gets_no_more_than_its_pace(
    autojump_clock: MockClock, latency_s: float
) -> None:
    world = await ready(CountsFlying)
    assert isinstance(world.tree, CountsFlying)
    world.tree.device = Device(latency_s=latency_s)
    fh = await world.open()
    await world.files.write(fh, 0, bytes(STEP))
    await world.files.flush(fh)
    for number in range(FIRST_BYTES // STEP):
        await world.files.write(fh, number * STEP, bytes(STEP))
    await world.files.flush(fh)
    assert world.tree.most < FIRST_BYTES // STEP


async def test_many_files_share_one_line(autojump_clock: MockClock) -> None:
    world = await ready(CountsFlying)
    assert isinstance(world.tree, CountsFlying)
    files = world.files
    home = (await world.mount.look(HOME)).ino
    handles = []
    for number in range(30):
        where = (home, Name(b"f%d" % number))
        opened, _ = await files.create(where, os.O_WRONLY, 0o600, CALLER)
        handles.append(opened.fh)
    world.tree.device = Device(latency_s=1)
    for fh in handles:
        await files.write(fh, 0, bytes(8 * STEP))
    for fh in handles:
        await files.flush(fh)
    # One of each, and what a line holds at most; of each alone there are eight.
    assert len(handles) <= world.tree.most <= len(handles) + MAX_WINDOW // STEP + 1
    for number in range(30):
        assert world.mount.fs.node(b"/f%d" % number).size == 8 * STEP
