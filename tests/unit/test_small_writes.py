"""Small writes and reads in turn: the device is not asked for what is known."""

from __future__ import annotations

import errno
import itertools
import os

import pytest
import trio
from trio.testing import MockClock

from pamfs.errors import RemoteError
from pamfs.model import AttrChange, Attrs, Data, FileHandle, Ino, Name
from pamfs.vfs.background import FILE_BYTES
from tests.conftest import LogLedger
from tests.fakes.faults import FullDisk, WithFiles
from tests.fakes.mounted import CALLER, WEB01, Mounted, mounted, tenant
from tests.fakes.remote import SECOND_NS, Device, FakeFile, FakeTree

KIB = 1 << 10
PATH = b"acme/root@web01/f"
RTT_S = 0.001


class LooksLater(WithFiles):
    """Looks at a file behind the writes that were sent before, as a server does."""

    class file_type(FakeFile):  # noqa: N801 - it fills the attribute of that name
        async def stat(self) -> Attrs:
            await trio.sleep(RTT_S / 100)
            return await super().stat()


class Written:
    """A file of 64 KiB, open for reading and writing, as the kernel works on it.

    Whatever changes on the device has a second of its own.
    """

    def __init__(self, mount: Mounted) -> None:
        seconds = itertools.count(1000)
        mount.fs.clock_ns = lambda: next(seconds) * SECOND_NS
        mount.fs.put(b"/f", bytes(64 * KIB))
        self.mount = mount
        self.files = mount.tree.files
        self.ino = Ino(0)
        self.fh = FileHandle(0)

    async def opened(self, flags: int = os.O_RDWR) -> Written:
        self.ino = (await self.mount.look(PATH)).ino
        self.tree.device = Device(latency_s=RTT_S)
        self.fh = (await self.files.open(self.ino, flags, CALLER)).fh
        self.tree.calls.clear()
        return self

    @property
    def tree(self) -> FakeTree:
        tree = self.mount.source.tree(WEB01)
        assert isinstance(tree, FakeTree)
        return tree

    @property
    def looks(self) -> int:
        return self.tree.calls["fstat"] + self.tree.calls["lstat"]

    async def write(self, offset: int = 0, data: bytes = b"data") -> None:
        await self.files.write(self.fh, offset, data)

    async def size(self) -> int:
        return (await self.mount.tree.nodes.getattr(self.ino, CALLER)).attrs.size

    async def seconds(self) -> int:
        """Return the time of change, as the program sees it."""
        node = await self.mount.tree.nodes.getattr(self.ino, CALLER)
        return node.attrs.mtime_ns // SECOND_NS

    def stored_seconds(self) -> int:
        """Return the time of change, as the device has it."""
        return self.mount.fs.node(b"/f").mtime_ns // SECOND_NS


async def test_writes_and_reads_in_turn_ask_for_attributes_once_a_second(
    autojump_clock: MockClock,
) -> None:
    file = await Written(mounted(make=LooksLater)).opened()
    began = trio.current_time()
    for number in range(100):
        await file.write(number * 512, b"%04d" % number)
        assert await file.size() == 64 * KIB  # as the kernel does before it reads
        found = await file.files.read(file.fh, number * 512, 4)
        assert bytes(found) == b"%04d" % number
    assert trio.current_time() < began + 1
    assert file.looks <= 2


async def test_the_size_grows_with_each_write_without_a_look(
    autojump_clock: MockClock,
) -> None:
    file = await Written(mounted(make=LooksLater)).opened()
    for number in range(1, 100):
        await file.write(64 * KIB + number * 10 - 10, b"0123456789")
        assert await file.size() == 64 * KIB + number * 10
    assert file.looks <= 2


async def test_a_cut_between_two_writes_counts(autojump_clock: MockClock) -> None:
    file = await Written(mounted(make=LooksLater)).opened()
    await file.write()
    await file.size()
    change = AttrChange(size=100)
    await file.mount.tree.nodes.setattr(file.ino, change, CALLER)
    await file.write(200)
    assert await file.size() == 204
    await file.files.flush(file.fh)
    content = file.mount.fs.node(b"/f").content
    assert content == b"data" + bytes(196) + b"data"


async def test_the_time_of_a_write_is_seen_a_second_later(
    autojump_clock: MockClock,
) -> None:
    file = await Written(mounted(make=LooksLater)).opened()
    await file.write()
    first = await file.seconds()
    assert first == file.stored_seconds()
    await file.write()
    assert await file.seconds() == first
    await trio.sleep(1)
    assert await file.seconds() == file.stored_seconds() > first


@pytest.mark.parametrize("call", ["flush", "fsync", "release"])
async def test_after_flush_fsync_and_close_the_time_is_the_devices(
    autojump_clock: MockClock, call: str
) -> None:
    file = await Written(mounted(make=LooksLater)).opened()
    await file.write()
    await file.seconds()
    await file.write()
    await trio.sleep(10 * RTT_S)  # it is stored
    await getattr(file.files, call)(file.fh)
    assert await file.seconds() == file.stored_seconds()


async def test_a_time_that_was_set_does_not_outlast_the_next_write(
    autojump_clock: MockClock,
) -> None:
    file = await Written(mounted(make=LooksLater)).opened()
    await file.write()
    await file.seconds()
    long_ago = AttrChange(atime_ns=SECOND_NS, mtime_ns=SECOND_NS)
    await file.mount.tree.nodes.setattr(file.ino, long_ago, CALLER)
    await trio.sleep(5)
    assert await file.seconds() == 1
    await file.write()
    assert await file.seconds() == file.stored_seconds() > 1


async def test_where_an_append_went_is_asked_for(autojump_clock: MockClock) -> None:
    file = await Written(mounted(make=LooksLater)).opened(os.O_WRONLY | os.O_APPEND)
    await file.write(64 * KIB)
    await file.size()
    node = file.mount.fs.node(b"/f")
    node.content += b"of another program"
    await file.write(64 * KIB + 4)
    assert await file.size() == len(node.content) > 64 * KIB + 8


async def test_a_file_whose_write_was_refused_has_no_size(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("data was not stored")
    file = await Written(mounted(make=FullDisk)).opened()
    await file.write(0)
    await trio.sleep(10 * RTT_S)
    # What the device has is not what was written: it is told by name.
    with pytest.raises(RemoteError) as caught:
        await file.size()
    assert caught.value.code == errno.ESTALE
    assert (await file.mount.look(b"acme/root@web01/f")).attrs.size == 64 * KIB
    with pytest.raises(RemoteError):
        await file.write(64 * KIB)


async def test_without_a_lifetime_each_write_is_followed_by_a_look(
    autojump_clock: MockClock,
) -> None:
    file = await Written(mounted(tenant(attr_timeout_s=0), make=LooksLater)).opened()
    for _ in range(10):
        await file.write()
        assert await file.seconds() == file.stored_seconds()
    assert file.looks >= 10


async def test_a_read_beside_writes_on_their_way_waits_for_none_of_them(
    autojump_clock: MockClock,
) -> None:
    file = await Written(mounted(make=LooksLater)).opened()
    await file.write(KIB)
    began = trio.current_time()
    assert bytes(await file.files.read(file.fh, 0, KIB)) == bytes(KIB)
    assert trio.current_time() - began < 1.5 * RTT_S


class ReadsEarly(WithFiles):
    """Reads before the writes that were sent before are carried out."""

    class file_type(FakeFile):  # noqa: N801 - it fills the attribute of that name
        async def read_at(self, offset: int, size: int) -> Data:
            found = bytes(self.node.content[offset : offset + size])
            await super().read_at(offset, size)
            return found


@pytest.mark.parametrize("make", [LooksLater, ReadsEarly])
async def test_a_read_of_what_is_on_its_way_has_it_in_one_round_trip(
    autojump_clock: MockClock, make: type[WithFiles]
) -> None:
    file = await Written(mounted(make=make)).opened()
    await file.write(KIB - 1)
    await file.write(KIB - 3, b"abc")
    began = trio.current_time()
    assert bytes(await file.files.read(file.fh, 0, KIB))[-4:] == b"\0abc"
    assert trio.current_time() - began < 1.5 * RTT_S
    await file.files.flush(file.fh)
    content = file.mount.fs.node(b"/f").content
    assert content[KIB - 4 : KIB + 3] == b"\0abcata"


async def test_a_read_behind_an_append_waits_for_it(autojump_clock: MockClock) -> None:
    file = await Written(mounted(make=ReadsEarly)).opened(os.O_RDWR | os.O_APPEND)
    await file.write(64 * KIB)
    found = await file.files.read(file.fh, 63 * KIB, KIB)
    assert len(found) == KIB
    assert file.mount.fs.node(b"/f").content[64 * KIB :] == b"data"


class ReadsLate(FullDisk):
    """Refuses a write, and answers a read that was sent behind it after that."""

    class file_type(FullDisk.file_type):  # noqa: N801
        async def read_at(self, offset: int, size: int) -> Data:
            await trio.sleep(RTT_S)
            return await super().read_at(offset, size)


async def test_a_read_of_what_was_refused_meanwhile_fails(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("data was not stored")
    file = await Written(mounted(make=ReadsLate)).opened()
    await file.write(0)
    with pytest.raises(RemoteError):
        await file.files.read(file.fh, 0, KIB)


async def test_a_short_read_beside_a_write_is_asked_again_behind_it(
    autojump_clock: MockClock,
) -> None:
    file = await Written(mounted(make=LooksLater)).opened()
    change = AttrChange(size=KIB)
    await file.mount.tree.nodes.setattr(file.ino, change, CALLER)
    await file.write(8 * KIB)
    assert bytes(await file.files.read(file.fh, KIB, KIB)) == bytes(KIB)


async def test_a_write_with_room_is_answered_at_once(
    autojump_clock: MockClock,
) -> None:
    file = await Written(mounted(make=LooksLater)).opened()
    for number in range(10):
        assert file.files.write_nowait(file.fh, number * KIB, b"data") == 4
    await file.files.flush(file.fh)
    content = file.mount.fs.node(b"/f").content
    assert content[: 10 * KIB : KIB] == b"d" * 10
    assert file.mount.tree.handles.usage[WEB01].bytes_written == 40


async def test_a_write_without_room_has_to_wait(autojump_clock: MockClock) -> None:
    file = await Written(mounted(make=LooksLater)).opened()
    block = bytes(KIB * KIB)
    queued = 0
    while file.files.write_nowait(file.fh, queued, block) is not None:
        queued += len(block)
        assert queued <= FILE_BYTES
    await file.write(queued, block)
    await file.files.flush(file.fh)
    assert len(file.mount.fs.node(b"/f").content) == queued + len(block)


async def test_a_write_behind_a_change_of_times_has_to_wait(
    autojump_clock: MockClock,
) -> None:
    mount = mounted(make=LooksLater)
    parent = (await mount.look(b"acme/root@web01")).ino
    where = (parent, Name(b"new"))
    opened, node = await mount.tree.files.create(where, os.O_WRONLY, 0o644, CALLER)
    await mount.tree.files.write(opened.fh, 0, b"data")
    change = AttrChange(atime_ns=SECOND_NS, mtime_ns=SECOND_NS)
    await mount.tree.nodes.setattr(node.ino, change, CALLER)
    assert mount.tree.files.write_nowait(opened.fh, 4, b"more") is None


async def test_what_is_wrong_with_a_file_is_no_answer_at_once(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("data was not stored")
    file = await Written(mounted(make=FullDisk)).opened()
    assert file.files.write_nowait(file.fh, 0, b"data") == 4
    await trio.sleep(10 * RTT_S)
    assert file.files.write_nowait(file.fh, 0, b"data") is None
    with pytest.raises(RemoteError):
        await file.write()


async def test_of_a_closed_session_nothing_is_answered_at_once(
    autojump_clock: MockClock,
) -> None:
    file = await Written(mounted(make=LooksLater)).opened()
    file.mount.tree.files.revoke(WEB01)
    assert file.files.write_nowait(file.fh, 0, b"data") is None
    assert file.files.read_nowait(file.fh, 0, 4) is None
    with pytest.raises(RemoteError):
        await file.files.read(file.fh, 0, 4)


async def test_what_was_read_ahead_is_answered_at_once(
    autojump_clock: MockClock,
) -> None:
    file = await Written(mounted(make=LooksLater)).opened(os.O_RDONLY)
    assert file.files.read_nowait(file.fh, 0, KIB) is None
    assert bytes(await file.files.read(file.fh, 0, KIB)) == bytes(KIB)
    await file.files.read(file.fh, KIB, KIB)
    await trio.sleep(10 * RTT_S)
    found = file.files.read_nowait(file.fh, 2 * KIB, KIB)
    assert found is not None
    assert bytes(found) == bytes(KIB)
    assert file.files.read_nowait(file.fh, 3 * KIB, KIB) is not None


async def test_attributes_that_are_known_are_answered_at_once(
    autojump_clock: MockClock,
) -> None:
    file = await Written(mounted(make=LooksLater)).opened()
    nodes = file.mount.tree.nodes
    assert nodes.getattr_nowait(file.ino) is not None
    await trio.sleep(5)
    assert nodes.getattr_nowait(file.ino) is None
