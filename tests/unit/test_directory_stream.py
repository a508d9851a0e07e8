"""How an open directory is read: dots, numbers, and what it costs."""

from __future__ import annotations

import errno
import math
import stat
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from pamfs.errors import RemoteError
from pamfs.model import Attrs, Entry, FileHandle, Name, RemotePath
from pamfs.vfs.names.attributes import Node
from pamfs.vfs.names.dentries import ListedDirectory
from pamfs.vfs.names.directory_stream import DirectoryStream
from pamfs.vfs.names.inodes import ROOT_INO
from tests.fakes.mounted import CALLER, WEB01, Mounted, mounted, tenant
from tests.fakes.remote import FakeTree

HOME = b"acme/root@web01"
MANY = 100


@dataclass
class Buffer:
    """Room for so many entries, as one READDIRPLUS has."""

    room: int = 1 << 20
    nodes: dict[bytes, Node] = field(default_factory=dict)
    numbers: list[int] = field(default_factory=list)

    def reply(self, name: Name, node: Node, number: int) -> bool:
        if len(self.nodes) == self.room:
            return False
        self.nodes[name] = node
        self.numbers.append(number)
        return True


async def read(mount: Mounted, fh: FileHandle, start: int, room: int = 1000) -> Buffer:
    buffer = Buffer(room)
    await mount.tree.directories.read(fh, start, buffer.reply)
    return buffer


async def opened(mount: Mounted) -> FileHandle:
    home = (await mount.look(HOME)).ino
    return await mount.tree.directories.open(home, CALLER)


def filled(count: int = 3, attr_timeout_s: float = 3.0) -> Mounted:
    mount = mounted(tenant(attr_timeout_s=attr_timeout_s))
    for n in range(count):
        mount.fs.put(b"/%03d" % n)
    return mount


def listings(mount: Mounted) -> int:
    tree = mount.source.tree(WEB01)
    return tree.calls["list_dir"] if tree else 0


class TestTheDots:
    @pytest.mark.parametrize("path", [b"acme", HOME, HOME + b"/d"])
    async def test_are_the_folder_and_the_one_above(self, path: bytes) -> None:
        mount = mounted()
        mount.fs.make_dirs(b"/d")
        node = await mount.look(path)
        above = path.rpartition(b"/")[0]
        parent = (await mount.look(above)).ino if above else ROOT_INO
        fh = await mount.tree.directories.open(node.ino, CALLER)
        nodes = (await read(mount, fh, 0)).nodes
        assert list(nodes)[:2] == [b".", b".."]
        assert (nodes[b"."].ino, nodes[b".."].ino) == (node.ino, parent)
        assert all(stat.S_ISDIR(nodes[name].attrs.mode) for name in (b".", b".."))

    async def test_of_the_mount_itself_are_both_the_mount(self) -> None:
        mount = mounted()
        fh = await mount.tree.directories.open(ROOT_INO, CALLER)
        nodes = (await read(mount, fh, 0)).nodes
        assert list(nodes) == [b".", b"..", b"acme"]
        assert nodes[b"."].ino == nodes[b".."].ino == ROOT_INO

    async def test_count_no_lookup(self) -> None:
        mount = filled(0)
        fh = await opened(mount)
        before = mount.tree.inodes.statistics()
        for start in (0, 1, 2):
            await read(mount, fh, start)
        assert mount.tree.inodes.statistics() == before

    async def test_have_numbers_of_their_own(self) -> None:
        mount = filled(1)
        fh = await opened(mount)
        assert (await read(mount, fh, 0)).numbers == [1, 2, 3]
        assert list((await read(mount, fh, 1)).nodes) == [b"..", b"000"]
        assert list((await read(mount, fh, 2)).nodes) == [b"000"]
        assert list((await read(mount, fh, 3)).nodes) == []


class TestTheFirstRead:
    async def test_costs_no_listing_beyond_the_open(self) -> None:
        mount = filled()
        fh = await opened(mount)
        assert len((await read(mount, fh, 0)).nodes) == 5
        assert listings(mount) == 1

    async def test_costs_none_where_nothing_may_be_kept(self) -> None:
        mount = filled(attr_timeout_s=0)
        fh = await opened(mount)
        assert len((await read(mount, fh, 0)).nodes) == 5
        assert listings(mount) == 1

    async def test_shows_what_was_made_here_since_without_asking(self) -> None:
        mount = filled()
        fh = await opened(mount)
        home = (await mount.look(HOME)).ino
        directories = mount.tree.directories
        made = await directories.mkdir(home, Name(b"new"), 0o755, CALLER)
        await directories.unlink(home, Name(b"001"), CALLER)
        nodes = (await read(mount, fh, 0)).nodes
        assert list(nodes) == [b".", b"..", b"000", b"002", b"new"]
        assert nodes[b"new"].ino == made.ino
        assert listings(mount) == 1

    async def test_asks_again_once_the_open_is_long_ago(
        self, autojump_clock: MockClock
    ) -> None:
        mount = filled()
        fh = await opened(mount)
        mount.fs.put(b"/late")
        await trio.sleep(4)
        assert b"late" in (await read(mount, fh, 0)).nodes
        assert listings(mount) == 2

    async def test_asks_again_after_a_change_that_may_have_happened(self) -> None:
        class FailsButRemoves(FakeTree):
            async def unlink(self, path: RemotePath) -> None:
                await super().unlink(path)
                raise RemoteError(errno.EIO, "unlink")

        mount = mounted(make=FailsButRemoves)
        mount.fs.put(b"/a")
        fh = await opened(mount)
        home = (await mount.look(HOME)).ino
        with pytest.raises(RemoteError):
            await mount.tree.directories.unlink(home, Name(b"a"), CALLER)
        assert list((await read(mount, fh, 0)).nodes) == [b".", b".."]


class TestASeek:
    async def test_reads_a_few_entries_and_more_as_it_goes_on(self) -> None:
        mount = filled(MANY)
        fh = await opened(mount)
        numbers = (await read(mount, fh, 0)).numbers
        assert len(numbers) == MANY + 2
        once = await read(mount, fh, numbers[9])
        assert len(once.nodes) == 16
        on = await read(mount, fh, once.numbers[-1])
        assert len(on.nodes) == 32

    async def test_of_a_program_that_seeks_each_time_reads_few_entries(self) -> None:
        mount = filled(MANY)
        fh = await opened(mount)
        numbers = (await read(mount, fh, 0)).numbers
        shown = 0
        for number in [*numbers[:-1], *reversed(numbers[:-1])]:
            shown += len((await read(mount, fh, number)).nodes)
        assert shown <= 2 * (2 * len(numbers)) + 32

    async def test_behind_many_others_reads_more_again_once_they_are_used(self) -> None:
        mount = filled(MANY)
        fh = await opened(mount)
        numbers = (await read(mount, fh, 0)).numbers
        sought = [await read(mount, fh, number) for number in reversed(numbers[10:20])]
        assert len(sought[-1].nodes) == 1
        for _ in range(4):
            on = await read(mount, fh, (await read(mount, fh, 3)).numbers[-1])
            assert on.nodes
        assert len((await read(mount, fh, 3)).nodes) == 16

    async def test_that_goes_on_where_the_last_read_ended_is_none(self) -> None:
        mount = filled(MANY)
        fh = await opened(mount)
        first = await read(mount, fh, 0, room=20)
        rest = await read(mount, fh, first.numbers[-1])
        assert len(first.nodes) + len(rest.nodes) == MANY + 2


async def test_what_does_not_fit_has_no_lookup() -> None:
    mount = filled(MANY)
    fh = await opened(mount)
    before = mount.tree.inodes.statistics()
    await read(mount, fh, 0, room=12)
    assert mount.tree.inodes.statistics().inodes == before.inodes + 10


async def test_a_name_that_may_have_changed_is_shown_for_no_time() -> None:
    mount = filled()
    fh = await opened(mount)
    await read(mount, fh, 0, room=2)
    file = await mount.look(HOME + b"/001")
    mount.tree.coherence.open_failed(mount.tree.inodes.get(file.ino))
    nodes = (await read(mount, fh, 2)).nodes
    assert [node.timeout_s > 0 for node in nodes.values()] == [True, False, True]


async def test_a_removed_file_does_not_come_back_with_its_attributes() -> None:
    mount = filled()
    fh = await opened(mount)
    await read(mount, fh, 0, room=2)
    file = await mount.look(HOME + b"/001")
    home = (await mount.look(HOME)).ino
    await mount.tree.directories.unlink(home, Name(b"001"), CALLER)
    mount.tree.inodes.forget(file.ino, 1)
    assert list((await read(mount, fh, 2)).nodes) == [b"000", b"002"]


async def test_a_removed_name_that_another_handle_lists_is_gone() -> None:
    mount = filled()
    one, other = await opened(mount), await opened(mount)
    await read(mount, one, 0)
    home = (await mount.look(HOME)).ino
    move = (home, Name(b"001")), (home, Name(b"moved"))
    await mount.tree.directories.rename(*move, CALLER, replace=True)
    expected = [b".", b"..", b"000", b"002", b"moved"]
    assert list((await read(mount, other, 0)).nodes) == expected
    assert list((await read(mount, one, 0)).nodes) == expected


def test_a_folder_that_is_held_open_keeps_a_bounded_number_of_changes() -> None:
    stream = DirectoryStream()
    entries = [Entry(Name(b"%d" % n), Attrs(stat.S_IFREG | 0o600, 0)) for n in range(9)]
    stream.show(ListedDirectory(entries, at=0.0, until=math.inf), {})
    stream.take(Name(b"3"))
    for n in range(30_000):
        name = Name(b"new%d" % n)
        stream.put(name, entries[0].attrs, 1.0)
        if n % 2:
            stream.take(name)
    assert len(stream._changes) + len(stream._gone) < 15_000
    # A read that goes on shows what is left, behind the same numbers.
    shown = {item.name: item.number for item in stream.items(0)}
    assert shown == {Name(b"%d" % n): n + 3 for n in range(9) if n != 3}
    # One from the start needs a new listing.
    assert not stream.start(now=0.5)
