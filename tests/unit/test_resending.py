"""Writes over sessions that are lost: sent again behind a handle that is proven."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pamfs.errors import (
    DeclinedError,
    LoginRefusedError,
    PamfsError,
    RemoteError,
    SessionLostError,
)
from pamfs.model import AttrChange, Attrs, Data, Entry, FileHandle, Ino, Name
from pamfs.vfs.remote_access import TRIES
from tests.conftest import LogLedger
from tests.fakes.faults import WithFiles
from tests.fakes.mounted import CALLER, WEB01, Mounted, mounted
from tests.fakes.remote import SECOND_NS, Device, FakeFile, FakeTree

HOME = b"acme/root@web01"
STEP = 261120
Change = Callable[[Mounted], object]


class StoresHalf(WithFiles):
    """Stores the first half of each write when the session is lost meanwhile."""

    class file_type(FakeFile):  # noqa: N801 - it fills the attribute of that name
        async def write_at(self, offset: int, data: Data) -> None:
            try:
                await super().write_at(offset, data)
            except SessionLostError:
                alive, self.tree.is_lost = self.tree.is_lost, False
                device, self.tree.device = self.tree.device, Device()
                await super().write_at(offset, data[: len(data) // 2])
                self.tree.is_lost, self.tree.device = alive, device
                raise


class World:
    """A file, and sessions that the test loses."""

    def __init__(self, content: bytes = b"", make: type[FakeTree] = FakeTree) -> None:
        self.mount = mounted(make=make)
        self.mount.fs.put(b"/f", content)
        now = self.mount.fs.clock_ns()
        self.mount.fs.clock_ns = lambda: now + int(trio.current_time() * SECOND_NS)
        self.files = self.mount.tree.files

    async def ino(self) -> Ino:
        return (await self.mount.look(HOME + b"/f")).ino

    async def open(self, flags: int = os.O_RDWR) -> FileHandle:
        return (await self.files.open(await self.ino(), flags, CALLER)).fh

    @property
    def tree(self) -> FakeTree:
        tree = self.mount.source.tree(WEB01)
        assert tree is not None
        return tree

    def lose(self) -> None:
        tree = self.tree
        self.mount.tree.session_closed(WEB01)
        tree.lose()

    @property
    def content(self) -> bytes:
        return bytes(self.mount.fs.node(b"/f").content)


@pytest.mark.parametrize("make", [FakeTree, StoresHalf])
async def test_what_was_on_its_way_is_sent_again(
    make: type[FakeTree], autojump_clock: MockClock
) -> None:
    world = World(make=make)
    fh = await world.open()
    data = os.urandom(20 * STEP)
    world.tree.device = Device(latency_s=1)
    await world.files.write(fh, 0, data[: 10 * STEP])
    await trio.sleep(1.5)
    world.lose()
    await world.files.write(fh, 10 * STEP, data[10 * STEP :])
    await world.files.flush(fh)
    await world.files.fsync(fh)
    await world.files.release(fh)
    assert world.content == data
    assert world.mount.source.logins[WEB01] == 2
    assert world.mount.tree.unstored() == []


@pytest.mark.parametrize("make", [FakeTree, StoresHalf])
async def test_an_append_is_stored_once(
    make: type[FakeTree], autojump_clock: MockClock
) -> None:
    world = World(b"head ", make)
    fh = await world.open(os.O_WRONLY | os.O_APPEND)
    for number in range(12):
        world.tree.device = Device(latency_s=1)
        await world.files.write(fh, 5 + number * 8, b"line %02d\n" % number)
        await wait_all_tasks_blocked()
        if number % 3 == 0:
            world.lose()
        await world.files.fsync(fh)
    assert world.content == b"head " + b"".join(b"line %02d\n" % n for n in range(12))


async def test_a_handle_that_was_synced_writes_on_in_the_next_session(
    autojump_clock: MockClock,
) -> None:
    world = World()
    fh = await world.open()
    await world.files.write(fh, 0, b"one")
    await world.files.fsync(fh)
    world.lose()
    await world.files.write(fh, 3, b"two")
    await world.files.flush(fh)
    assert world.content == b"onetwo"
    assert await world.files.read(fh, 0, 10) == b"onetwo"


def unlinked(mount: Mounted) -> None:
    mount.fs.unlink(b"/f")


def replaced(mount: Mounted) -> None:
    mount.fs.unlink(b"/f")
    mount.fs.put(b"/f", b"another")


def shortened(mount: Mounted) -> None:
    mount.fs.put(b"/f", b"on")


def changed(mount: Mounted) -> None:
    mount.fs.put(b"/f", b"ONE")


@pytest.mark.parametrize("change", [unlinked, replaced, shortened, changed])
@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_APPEND])
async def test_nothing_is_written_to_another_file(
    change: Change, flags: int, autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("f: data was not stored: reopen: ESTALE")
    world = World()
    fh = await world.open(flags)
    await world.files.write(fh, 0, b"one")
    await world.files.fsync(fh)
    world.lose()
    change(world.mount)
    before = b"" if change is unlinked else world.content
    await world.files.write(fh, 3, b"two")
    for call in (world.files.flush, world.files.fsync):
        with pytest.raises(RemoteError) as caught:
            await call(fh)
        assert caught.value.code == errno.ESTALE
    with pytest.raises(RemoteError):
        await world.files.write(fh, 6, b"three")
    if change is not unlinked:
        assert world.content == before


async def test_a_refused_login_is_an_error_and_no_end_of_the_file(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("acme/root@web01/f: data was not stored")
    world = World(b"old")
    fh, ino = await world.open(), await world.ino()
    world.lose()
    world.mount.source.refusal = LoginRefusedError("locked")
    await world.files.write(fh, 3, bytes(1000))
    with pytest.raises(LoginRefusedError):
        await world.files.flush(fh)
    world.mount.source.refusal = None
    with pytest.raises(PamfsError):
        await world.files.read(fh, 500, 100)
    with pytest.raises(RemoteError) as caught:
        await world.mount.tree.nodes.getattr(ino, CALLER)
    assert caught.value.code == errno.ESTALE
    # By name there is what the device has, under another number.
    node = await world.mount.look(HOME + b"/f")
    assert (node.attrs.size, node.ino != ino) == (3, True)
    with pytest.raises(RemoteError) as caught:
        await world.files.open(ino, os.O_RDONLY, CALLER)
    assert caught.value.code == errno.ESTALE
    again = (await world.files.open(node.ino, os.O_RDONLY, CALLER)).fh
    assert await world.files.read(again, 0, 100) == b"old"


async def test_a_reader_sees_no_end_where_data_of_another_handle_was_lost(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("acme/root@web01/f: data was not stored")
    world = World(b"old")
    writer, reader = await world.open(), await world.open(os.O_RDONLY)
    world.lose()
    world.mount.source.refusal = LoginRefusedError("locked")
    await world.files.write(writer, 3, bytes(1000))
    with pytest.raises(LoginRefusedError):
        await world.files.flush(writer)
    world.mount.source.refusal = None
    with pytest.raises(LoginRefusedError):
        await world.files.read(reader, 500, 100)


async def test_a_request_is_sent_once_in_a_session_that_lost_it(
    autojump_clock: MockClock,
) -> None:
    world = World(b"content", LosesUnnoticed)
    await world.open()
    cut = world.tree
    assert isinstance(cut, LosesUnnoticed)
    cut.is_cut = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.mount.look, HOME + b"/other")
        await trio.sleep(0.5)
        world.lose()
        nursery.cancel_scope.cancel()
    assert cut.failed == 1


async def test_a_listing_never_shows_less_than_was_stored(
    autojump_clock: MockClock,
) -> None:
    """The kernel would cut the file off at the size that it had when it was opened."""
    world = World()
    fh, ino = await world.open(), await world.ino()
    await world.files.write(fh, 0, bytes(5000))
    await world.files.fsync(fh)
    world.lose()
    inode, home = world.mount.tree.inodes.get(ino), await world.mount.look(HOME)
    parent = world.mount.tree.inodes.get(home.ino)
    from_before = Attrs(mode=0o100644, size=0)
    assert inode.seen is None
    node = world.mount.tree.nodes.listed(
        parent, Entry(Name(b"f"), from_before), trio.current_time(), 0.0
    )
    assert node.attrs.size == 5000


async def test_a_listing_from_before_a_write_hides_nothing_of_it(
    autojump_clock: MockClock,
) -> None:
    """Found by the model of the stack: the session before took what was seen."""
    world = World()
    fh, home = await world.open(), await world.mount.look(HOME)
    world.lose()
    await world.mount.tree.directories.open(home.ino, CALLER)
    await trio.sleep(0.1)
    await world.files.write(fh, 0, bytes(5000))
    await world.files.fsync(fh)
    assert (await world.mount.look(HOME + b"/f")).attrs.size == 5000
    await world.files.release(fh)


async def test_a_truncating_open_after_a_loss_parts_no_handle_from_its_file(
    autojump_clock: MockClock,
) -> None:
    """Found by the model of the stack: an empty file was taken for another one."""
    world = World(b"content")
    fh, ino = await world.open(), await world.ino()
    await world.files.write(fh, 7, b" and more")
    await world.files.fsync(fh)
    world.lose()
    other = (await world.files.open(ino, os.O_RDWR | os.O_TRUNC, CALLER)).fh
    await world.files.write(other, 0, b"new")
    await world.files.flush(other)
    assert await world.files.read(fh, 0, 100) == b"new"


async def test_a_loss_that_the_pool_has_not_noticed_costs_no_try(
    autojump_clock: MockClock,
) -> None:
    """Found by the model of the stack: four tries fell on one lost session."""

    class FailsFirst(FakeTree):
        """Its requests fail a moment before the pool knows that it is lost."""

        is_cut = False

        async def round_trip(self, name: str) -> None:
            await super().round_trip(name)
            if self.is_cut:
                raise SessionLostError("it is over, and nobody knows")

    world = World(b"content", FailsFirst)
    fh = await world.open()
    assert await world.files.write(fh, 0, b"C") == 1
    await world.files.fsync(fh)
    cut = world.tree
    assert isinstance(cut, FailsFirst)
    cut.is_cut = True
    async with trio.open_nursery() as nursery:
        await world.files.write(fh, 1, b"O")
        nursery.start_soon(world.files.fsync, fh)
        await trio.sleep(0.1)
        assert cut.calls["write_at"] + cut.calls["fsync"] <= 4
        world.lose()
    assert world.content == b"COntent"
    assert await world.files.read(fh, 0, 100) == b"COntent"


class LosesUnnoticed(FakeTree):
    """Its requests fail, and the pool does not know yet that it is lost."""

    is_cut = False
    failed = 0

    async def round_trip(self, name: str) -> None:
        await super().round_trip(name)
        if self.is_cut:
            self.failed += 1
            raise SessionLostError("it is over")


class DiesOfWrites(WithFiles):
    """Ends the session at each write."""

    class file_type(FakeFile):  # noqa: N801
        async def write_at(self, offset: int, data: Data) -> None:
            del offset, data
            self.tree.lose()
            await self.tree.round_trip("write_at")


async def test_an_open_that_waited_for_lost_data_finds_another_inode(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    """Found by the model of the stack: it said ENOENT of a file that is there."""
    expect_log("data was not stored")
    world = World(b"old", DiesOfWrites)
    fh, ino = await world.open(), await world.ino()
    await world.files.write(fh, 0, b"deadly")
    with pytest.raises(RemoteError) as caught:
        await world.files.open(ino, os.O_RDONLY, CALLER)
    assert caught.value.code == errno.ESTALE
    node = await world.mount.look(HOME + b"/f")
    again = (await world.files.open(node.ino, os.O_RDONLY, CALLER)).fh
    assert await world.files.read(again, 0, 100) == b"old"


async def test_a_write_that_ends_each_session_is_given_up(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("data was not stored")
    world = World(make=DiesOfWrites)
    fh = await world.open()
    await world.files.write(fh, 0, b"deadly")
    with pytest.raises(SessionLostError):
        await world.files.flush(fh)
    assert world.mount.source.logins[WEB01] <= TRIES + 1


async def test_a_file_stays_a_file_while_its_session_is_lost(
    autojump_clock: MockClock,
) -> None:
    """The kernel gives an inode up for good (EIO) whose type changes."""
    world = World()
    home = (await world.mount.look(HOME)).ino
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    opened, node = await world.files.create((home, Name(b"new")), flags, 0o600, CALLER)
    world.tree.device = Device(latency_s=1)
    await world.files.write(opened.fh, 0, b"content")
    nodes = world.mount.tree.nodes
    await nodes.setattr(node.ino, AttrChange(mtime_ns=7 * SECOND_NS), CALLER)
    world.lose()
    found = await nodes.getattr(node.ino, CALLER)
    assert stat.S_ISREG(found.attrs.mode)
    assert found.attrs.size == len(b"content")
    await world.files.flush(opened.fh)
    assert bytes(world.mount.fs.node(b"/new").content) == b"content"
    assert world.mount.fs.node(b"/new").mtime_ns == 7 * SECOND_NS


async def test_a_reconnect_that_nobody_answers_leaves_a_prefix_and_is_an_error(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("data was not stored")
    world = World()
    fh = await world.open()
    data = os.urandom(20 * STEP)
    world.tree.device = Device(latency_s=1)
    await world.files.write(fh, 0, data[: 4 * STEP])
    await trio.sleep(1.5)
    await world.files.write(fh, 4 * STEP, data[4 * STEP :])
    world.mount.source.login_s = 60  # the question's own deadline
    world.mount.source.refusal = DeclinedError("no answer within 60 s")
    world.lose()
    began = trio.current_time()
    with pytest.raises(DeclinedError):
        await world.files.flush(fh)
    assert trio.current_time() - began < 70
    assert data.startswith(world.content)
    assert len(world.content) >= STEP


async def test_a_listing_behind_a_lost_session_shows_what_was_written(
    autojump_clock: MockClock,
) -> None:
    """The kernel takes the size for the end of the file: a smaller one reads short."""
    world = World(b"old")
    ino, fh = await world.ino(), await world.open()
    home = (await world.mount.look(HOME)).ino
    at_the_open = world.tree.attrs(world.mount.fs.node(b"/f"))
    await world.files.write(fh, 0, bytes(65_536))
    await world.files.flush(fh)
    world.lose()
    await world.mount.tree.directories.open(home, CALLER)
    nodes, parent = world.mount.tree.nodes, world.mount.tree.inodes.get(home)
    now = trio.current_time()
    shown = nodes.listed(parent, Entry(Name(b"f"), at_the_open), now, now + 3)
    assert shown.ino == ino
    assert shown.attrs.size == 65_536
