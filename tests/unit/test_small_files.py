"""Small files ahead: read once, used once, and never instead of what is there."""

from __future__ import annotations

import os

import pytest
import trio
from trio.testing import MockClock

from pamfs.config import Ahead
from pamfs.model import (
    AttrChange,
    Attrs,
    Data,
    FileHandle,
    Ino,
    Name,
    RemotePath,
)
from pamfs.transport.base import OpenMode, RemoteFile
from pamfs.vfs.names.attributes import MountOwner
from pamfs.vfs.prefetch.small_files import FRESH_S
from tests.fakes.heard import Heard
from tests.fakes.memory import MemoryFs
from tests.fakes.mounted import CALLER, WEB01, Mounted, mounted, tenant
from tests.fakes.remote import Device, FakeFile, FakeTree

HOME = b"acme/root@web01"
RTT_S = 0.1
COUNT = 40


class Far(FakeTree):
    def __init__(self, fs: MemoryFs) -> None:
        super().__init__(fs, Device(latency_s=RTT_S))


class Copy:
    """``cp -r`` of a folder out of the mount, one file after the other."""

    def __init__(self, mount: Mounted, home: Ino) -> None:
        self.mount = mount
        self.home = home

    @property
    def device(self) -> FakeTree:
        tree = self.mount.source.tree(WEB01)
        assert tree is not None
        return tree

    @property
    def held(self) -> int:
        """Return the bytes that are held, without those of listings."""
        self.mount.tree.coherence._dentries.forget(WEB01)
        return self.mount.tree.budget.held_bytes

    async def listed(self) -> None:
        directories = self.mount.tree.directories
        fh = await directories.open(self.home, CALLER)
        for entry in await directories.entries(fh, 0):
            directories.listed(fh, entry)
        directories.close(fh)

    async def ino(self, name: bytes) -> Ino:
        node = await self.mount.tree.nodes.lookup(self.home, Name(name), CALLER)
        return node.ino

    async def opened(self, name: bytes) -> FileHandle:
        files = self.mount.tree.files
        return (await files.open(await self.ino(name), os.O_RDONLY, CALLER)).fh

    async def read(self, name: bytes) -> bytes:
        files = self.mount.tree.files
        fh = await self.opened(name)
        data = bytes(await files.read(fh, 0, 1 << 20))
        await files.flush(fh)
        await files.release(fh)
        return data

    async def read_some(self, *numbers: int) -> None:
        for number in numbers:
            assert await self.read(b"%02d" % number) == content(number)


def content(number: int) -> bytes:
    return b"%02d" % number * 100


async def copy(ahead: Ahead = Ahead.FILES, make: type[Far] = Far) -> Copy:
    mount = mounted(tenant(ahead=ahead), make=make)
    for number in range(COUNT):
        mount.fs.put(b"/%02d" % number, content(number))
    found = Copy(mount, (await mount.look(HOME)).ino)
    await found.listed()
    return found


async def begun() -> Copy:
    """Return a copy that has read three files, and waits."""
    found = await copy()
    await found.read_some(0, 1, 2)
    await trio.sleep(5 * RTT_S)
    return found


async def test_a_copy_takes_a_fraction_of_its_round_trips(
    autojump_clock: MockClock,
) -> None:
    found = await copy()
    start = trio.current_time()
    await found.read_some(*range(COUNT))
    assert (trio.current_time() - start) / RTT_S < COUNT
    # Each was read once, whoever asked for it.
    assert found.device.calls["open"] == COUNT
    assert found.device.calls["read_at"] == COUNT
    await trio.sleep(1)
    assert found.device.open_files == 0
    names = found.mount.tree.coherence.known
    assert found.mount.tree.budget.held_bytes == names.held_bytes


async def test_what_was_read_ahead_costs_nothing(autojump_clock: MockClock) -> None:
    found = await begun()
    calls, start = found.device.calls.total(), trio.current_time()
    await found.read_some(3)
    assert trio.current_time() == start
    assert found.device.calls["open"] == 3 + 8
    assert found.device.calls.total() >= calls  # the next ones may be on their way


async def test_a_change_elsewhere_is_seen_after_a_second(
    autojump_clock: MockClock,
) -> None:
    found = await begun()
    changed = b"longer than it was before, by another machine" * 9
    found.mount.fs.put(b"/03", changed)
    await trio.sleep(FRESH_S)
    assert await found.read(b"03") == changed


@pytest.mark.parametrize("ahead", [Ahead.OFF, Ahead.DIRECTORIES])
async def test_no_file_is_read_ahead_unless_it_may(
    ahead: Ahead, autojump_clock: MockClock
) -> None:
    found = await copy(ahead)
    await found.read_some(0, 1, 2, 3)
    await trio.sleep(1)
    assert found.device.calls["open"] == 4


async def test_reading_here_and_there_is_no_pattern(autojump_clock: MockClock) -> None:
    found = await copy()
    await found.read_some(20, 10, 5, 0)
    await trio.sleep(1)
    assert found.device.calls["open"] == 4


async def test_a_copy_that_stops_is_not_read_on_for(autojump_clock: MockClock) -> None:
    found = await begun()
    assert found.device.calls["open"] == 3 + 8
    await trio.sleep(10)
    assert found.device.calls["open"] == 3 + 8
    # It is too old by now, and the file is opened again.
    await found.read_some(3)
    assert found.device.calls["open"] >= 3 + 8 + 1


async def test_what_we_changed_is_not_read_from_before(
    autojump_clock: MockClock,
) -> None:
    found = await begun()
    files, nodes = found.mount.tree.files, found.mount.tree.nodes
    opened = await files.open(await found.ino(b"03"), os.O_WRONLY, CALLER)
    await files.write(opened.fh, 0, b"ours")
    await files.flush(opened.fh)
    await files.release(opened.fh)
    assert (await found.read(b"03")).startswith(b"ours")
    await nodes.setattr(await found.ino(b"04"), AttrChange(size=1), CALLER)
    assert await found.read(b"04") == content(4)[:1]
    directories = found.mount.tree.directories
    old, new = (found.home, Name(b"05")), (found.home, Name(b"06"))
    await directories.rename(old, new, CALLER, replace=True)
    assert await found.read(b"06") == content(5)


async def test_a_change_while_it_is_fetched_counts(autojump_clock: MockClock) -> None:
    found = await copy()
    await found.read_some(0, 1, 2)  # the next ones are on their way
    files = found.mount.tree.files
    opened = await files.open(await found.ino(b"03"), os.O_WRONLY, CALLER)
    await files.write(opened.fh, 0, b"ours")
    await files.flush(opened.fh)
    await files.release(opened.fh)
    assert (await found.read(b"03")).startswith(b"ours")


async def test_another_size_or_time_is_another_content(
    autojump_clock: MockClock,
) -> None:
    found = await begun()
    found.mount.fs.put(b"/03", b"theirs")
    await trio.sleep(2)  # the listing counts no longer, what was fetched does
    node = await found.mount.tree.nodes.lookup(found.home, Name(b"03"), CALLER)
    await found.mount.tree.nodes.getattr(node.ino, CALLER)
    assert await found.read(b"03") == b"theirs"


async def test_a_handle_of_its_own_is_opened_when_it_is_used_for_long(
    autojump_clock: MockClock,
) -> None:
    found = await begun()
    files = found.mount.tree.files
    fh = await found.opened(b"03")
    opens = found.device.calls["open"]
    await trio.sleep(4)
    node = found.mount.fs.node(b"/03")
    node.content += b"grown"
    node.touched(found.mount.fs.clock_ns() + 10**10)
    await found.mount.tree.nodes.getattr(await found.ino(b"03"), CALLER)
    assert bytes(await files.read(fh, 0, 1000)) == content(3) + b"grown"
    assert found.device.calls["open"] == opens + 1
    # From now on it is read there: the content is of no more use.
    await trio.sleep(10)
    assert found.held == 0
    await files.release(fh)
    assert found.held == 0
    await trio.sleep(1)
    assert found.device.open_files == 0


async def test_a_removed_file_is_read_to_its_end(autojump_clock: MockClock) -> None:
    found = await begun()
    files = found.mount.tree.files
    fh = await found.opened(b"03")
    await found.mount.tree.directories.unlink(found.home, Name(b"03"), CALLER)
    await trio.sleep(10)
    assert bytes(await files.read(fh, 0, 1000)) == content(3)


async def test_nothing_outlives_its_session(autojump_clock: MockClock) -> None:
    found = await begun()
    fh = await found.opened(b"03")
    assert found.mount.tree.budget.held_bytes > 0
    found.mount.tree.session_closed(WEB01)
    assert found.mount.tree.budget.held_bytes == 0
    await found.mount.tree.files.release(fh)
    assert found.mount.tree.budget.held_bytes == 0


async def test_a_file_that_has_grown_is_not_read_ahead(
    autojump_clock: MockClock,
) -> None:
    found = await copy()
    await found.read_some(0, 1)
    found.mount.fs.put(b"/05", bytes(10 << 20))
    await found.read_some(2)
    await trio.sleep(1)
    assert found.device.calls["open"] == 3 + 8
    assert found.device.calls["read_at"] == 3 + 7
    assert found.device.open_files == 0


async def test_a_listing_that_is_too_old_is_not_read_on_from(
    autojump_clock: MockClock,
) -> None:
    found = await copy()
    for number in range(3):
        await found.read_some(number)
        await trio.sleep(2)
    assert found.device.calls["open"] == 3


async def test_what_is_open_counts_in_the_budget(autojump_clock: MockClock) -> None:
    found = await begun()
    budget = found.mount.tree.budget
    held = budget.held_bytes
    fh = await found.opened(b"03")
    assert budget.held_bytes == held
    await found.mount.tree.files.release(fh)
    assert budget.held_bytes == held - len(content(3))


class Packets(Far):
    """A transport that hands out views of what it received."""

    def __init__(self, fs: MemoryFs) -> None:
        super().__init__(fs)
        self.received: list[bytearray] = []

    async def open(
        self, path: RemotePath, mode: OpenMode, permissions: int | None = None
    ) -> tuple[RemoteFile, Attrs]:
        await self.round_trip("open")
        node = self.fs.node(path)
        self.open_files += 1
        return Viewed(self, node, mode), self.attrs(node)


class Viewed(FakeFile):
    tree: Packets

    async def read_at(self, offset: int, size: int) -> Data:
        packet = bytearray(32768)
        data = await super().read_at(offset, size)
        packet[: len(data)] = data
        self.tree.received.append(packet)
        return memoryview(packet)[: len(data)]


async def test_content_holds_no_packet(autojump_clock: MockClock) -> None:
    found = await copy(make=Packets)
    await found.read_some(0, 1, 2)
    await trio.sleep(1)
    device = found.device
    assert isinstance(device, Packets)
    assert len(device.received) == 3 + 8
    for packet in device.received:
        packet.clear()  # which nobody may who is looked at
    assert await found.read(b"03") == content(3)


async def test_what_the_mode_denies_is_not_read_ahead(
    autojump_clock: MockClock,
) -> None:
    heard = Heard()
    mount = mounted(make=Far, audit=heard, me=MountOwner(1, 1, 0, checks_modes=True))
    for number in range(COUNT):
        mode = 0o600 if number % 2 else 0o644
        mount.fs.put(b"/%02d" % number, content(number), mode)
    found = Copy(mount, (await mount.look(HOME)).ino)
    await found.listed()
    await found.read_some(0, 2, 4)
    await trio.sleep(1)
    told = [one["path"] for one in heard.records if one["event"] == "read_ahead"]
    assert {int(str(path)[-2:]) for path in told} == set(range(6, 22, 2))


async def test_what_a_copy_leaves_is_forgotten_within_its_lifetime(
    autojump_clock: MockClock,
) -> None:
    found = await begun()
    fh = await found.opened(b"03")
    await trio.sleep(10)
    assert found.held == len(content(3))
    assert not found.mount.tree.files.small._readers
    found.mount.tree.session_closed(WEB01)
    assert found.held == 0
    await found.mount.tree.files.release(fh)
