"""Requests on files that meet another one, a lost session or an impatient caller.

Each test here fails without one line of ``vfs`` that no other test needs: see
``tests/mutants.toml``.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable, Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pamfs.errors import RemoteError, SessionLostError
from pamfs.model import AttrChange, Attrs, Data, Extent, Ino, Name, RemotePath
from pamfs.transport.base import OpenMode, RemoteFile
from pamfs.vfs.background import Background, Budget
from pamfs.vfs.data.writequeue import WriteQueue
from pamfs.vfs.names.inodes import Inode
from pamfs.vfs.prefetch.streams import Readahead, TargetReadahead
from tests.conftest import LogLedger
from tests.fakes.faults import WithFiles
from tests.fakes.memory import MemoryFs
from tests.fakes.mounted import CALLER, WEB01, Mounted, mounted
from tests.fakes.remote import SECOND_NS, Device, FakeFile, FakeTree
from tests.unit.test_small_files import COUNT, RTT_S, Copy, Far, content

KIB = 1 << 10
HOME = b"acme/root@web01"
PATH = HOME + b"/f"


class Queued:
    """Writes up to ``end`` that the device has not acknowledged."""

    is_followed = is_foretold = False
    extents: Sequence[Extent] = ()

    def __init__(self, end: int) -> None:
        self.end = end

    def follow(self, change: AttrChange) -> bool:
        return False

    async def settled(self, *, looks: bool = False) -> None:
        await trio.sleep_forever()


class SeenLater(FakeFile):
    """Looks at the file behind what was sent before, whichever task runs first."""

    async def stat(self) -> Attrs:
        await trio.sleep(0.01)
        return await super().stat()


async def world_with(
    content: bytes = b"old",
    make: type[FakeTree] = FakeTree,
    budget: Budget | None = None,
) -> tuple[Mounted, Ino, FakeTree]:
    """Return a mount, a file that was looked up, and its device."""
    mount = mounted(make=make, budget=budget)
    mount.fs.put(b"/f", content)
    seconds = itertools.count(1000)
    mount.fs.clock_ns = lambda: next(seconds) * SECOND_NS  # no two changes look alike
    ino = (await mount.look(PATH)).ino
    tree = mount.source.tree(WEB01)
    assert tree is not None
    return mount, ino, tree


# -- requests and sessions -------------------------------------------------------


async def test_what_was_asked_when_the_session_was_closed_is_not_asked_again(
    autojump_clock: MockClock,
) -> None:
    mount, _, tree = await world_with()
    mount.fs.symlink(b"there", b"/l")
    link = (await mount.look(HOME + b"/l")).ino
    tree.device = Device(latency_s=1)

    async def check_in() -> None:
        await trio.sleep(0.5)
        mount.tree.session_revoked(WEB01)
        mount.tree.session_closed(WEB01)
        tree.lose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(check_in)
        with pytest.raises(SessionLostError):
            await mount.tree.nodes.readlink(link, CALLER)
    assert mount.source.logins[WEB01] == 1


async def test_a_change_that_has_begun_outlasts_its_caller(
    autojump_clock: MockClock,
) -> None:
    mount, _, tree = await world_with()
    home = (await mount.look(HOME)).ino
    tree.device = Device(latency_s=1)
    began = trio.current_time()
    with trio.move_on_after(0.5):
        await mount.tree.directories.mkdir(home, Name(b"d"), 0o700, CALLER)
    assert trio.current_time() == began + 1
    assert mount.fs.node(b"/d").is_dir


async def test_an_open_that_empties_is_sent_again_in_the_next_session() -> None:
    class LosesOpens(FakeTree):
        """Empties the file and loses its first session before the answer."""

        async def open(
            self, path: RemotePath, mode: OpenMode, permissions: int | None = None
        ) -> tuple[RemoteFile, Attrs]:
            opened = await super().open(path, mode, permissions)
            if mount.source.logins[WEB01] == 1:
                self.lose()
            self.check_alive()
            return opened

    mount, ino, tree = await world_with(make=LosesOpens)
    await mount.tree.files.open(ino, os.O_WRONLY | os.O_TRUNC, CALLER)
    assert tree.calls["open"] == 1
    assert mount.source.logins[WEB01] == 2
    assert mount.fs.node(b"/f").content == b""


async def test_an_open_that_empties_outlasts_its_caller(
    autojump_clock: MockClock,
) -> None:
    mount, ino, tree = await world_with()
    tree.device = Device(latency_s=1)
    with trio.move_on_after(0.5):
        await mount.tree.files.open(ino, os.O_WRONLY | os.O_TRUNC, CALLER)
    assert mount.fs.node(b"/f").content == b""


# -- opening ---------------------------------------------------------------------


async def test_a_file_that_took_the_name_meanwhile_keeps_it() -> None:
    class Swaps(FakeTree):
        """Finds a file gone that is renamed here; another takes its name."""

        async def open(
            self, path: RemotePath, mode: OpenMode, permissions: int | None = None
        ) -> tuple[RemoteFile, Attrs]:
            await rename(b"f", b"g")
            try:
                return await super().open(path, mode, permissions)
            finally:
                await rename(b"h", b"f")

    async def rename(old: bytes, new: bytes) -> None:
        await mount.tree.directories.rename(
            (home, Name(old)), (home, Name(new)), CALLER, replace=True
        )

    mount, ino, _ = await world_with(make=Swaps)
    mount.fs.put(b"/h", b"other")
    home = (await mount.look(HOME)).ino
    other = (await mount.look(HOME + b"/h")).ino
    with pytest.raises(RemoteError) as caught:
        await mount.tree.files.open(ino, os.O_RDONLY, CALLER)
    assert caught.value.code == errno.ESTALE
    assert (await mount.look(PATH)).ino == other
    assert (await mount.look(HOME + b"/g")).ino == ino


async def test_an_open_that_is_given_up_closes_its_handle(
    autojump_clock: MockClock,
) -> None:
    class ClosesLate(WithFiles):
        """Has closed a handle when it answers, and not before."""

        class file_type(FakeFile):  # noqa: N801 - it fills the attribute of that name
            async def close(self) -> None:
                await self.tree.round_trip("close")
                self.tree.open_files -= 1

    mount, ino, tree = await world_with(make=ClosesLate)
    await mount.tree.files.open(ino, os.O_RDONLY, CALLER)
    mount.fs.put(b"/f~", b"newer")
    mount.fs.rename(b"/f~", b"/f", replace=True)
    tree.device = Device(latency_s=1)
    # Cancelled while it compares the two files.
    with trio.move_on_after(1.5) as scope:
        await mount.tree.files.open(ino, os.O_RDONLY, CALLER)
    assert scope.cancelled_caught
    assert tree.calls["open"] == 2
    assert tree.open_files == 1


# -- what was seen, and what is on its way ---------------------------------------


def test_a_look_never_cuts_off_what_is_on_its_way() -> None:
    inode = Inode(Ino(2), stat.S_IFREG)
    inode.unstored = Queued(end=10)
    inode.note_attrs(Attrs(stat.S_IFREG, size=3), at=1)
    assert inode.seen is not None
    assert inode.seen.size == 10
    inode.note_attrs(Attrs(stat.S_IFREG, size=12), at=2)
    assert inode.seen.size == 12


async def test_a_look_behind_an_earlier_write_says_nothing_of_a_later_one(
    autojump_clock: MockClock,
) -> None:
    mount, ino, tree = await world_with(bytes(10))
    files = mount.tree.files
    fh = (await files.open(ino, os.O_RDWR, CALLER)).fh
    tree.device = Device(latency_s=1)
    await files.write(fh, 0, b"first")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(files.flush, fh)
        # In the same instant, behind the look, and after the first was stored.
        await wait_all_tasks_blocked()
        await files.write(fh, 0, b"later")
    await trio.sleep(1.5)
    assert mount.tree.inodes.get(ino).unstored is None
    node = await mount.tree.nodes.getattr(ino, CALLER)
    assert node.attrs.mtime_ns == mount.fs.node(b"/f").mtime_ns


async def test_a_look_by_name_while_it_is_written_is_not_the_last_word(
    autojump_clock: MockClock,
) -> None:
    class NearNames(WithFiles):
        """Answers for names at once, and for open files after a round trip."""

        file_type = SeenLater

        async def lstat(self, path: RemotePath) -> Attrs:
            await trio.lowlevel.checkpoint()
            return self.attrs(self.fs.node(path))

    mount, ino, tree = await world_with(make=NearNames)
    files = mount.tree.files
    fh = (await files.open(ino, os.O_RDWR, CALLER)).fh
    tree.device = Device(latency_s=1)
    await files.write(fh, 0, b"newer")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(files.flush, fh)
        await trio.sleep(0.5)
        assert (await mount.look(PATH)).attrs.size == 5
    node = await mount.tree.nodes.getattr(ino, CALLER)
    assert node.attrs.mtime_ns == mount.fs.node(b"/f").mtime_ns


async def test_nothing_is_read_ahead_of_a_file_that_is_being_written(
    autojump_clock: MockClock,
) -> None:
    mount, ino, _ = await world_with(bytes(4096 * KIB))
    fh = (await mount.tree.files.open(ino, os.O_RDONLY, CALLER)).fh
    file = mount.tree.handles.file(fh)
    started: list[object] = []
    feed = TargetReadahead(
        WEB01, Background(lambda *args: started.append(args)), 10, 10
    )
    ahead = Readahead(feed, file)
    file.inode.unstored = Queued(end=1)
    ahead.missed(0, 128 * KIB)
    ahead.missed(128 * KIB, 256 * KIB)
    assert started == []
    file.inode.unstored = None
    ahead.missed(256 * KIB, 384 * KIB)
    assert started


async def test_a_write_that_is_interrupted_leaves_nothing_older_to_be_read(
    autojump_clock: MockClock,
) -> None:
    step = 128 * KIB
    mount, ino, tree = await world_with(bytes(4096 * KIB), budget=Budget(1 << 20))
    files = mount.tree.files
    fh = (await files.open(ino, os.O_RDWR, CALLER)).fh
    for start in range(0, 4 * step, step):
        await files.read(fh, start, step)
    await trio.sleep(1)
    ahead = mount.tree.handles.file(fh).ahead
    assert isinstance(ahead, Readahead)
    (lane,) = ahead._lanes
    assert lane.reaches(4 * step)
    tree.device = Device(latency_s=1)
    file = mount.tree.inodes.get(ino)
    # More than the budget has room for: its answer waits until it is stored.
    with trio.move_on_after(0.5) as scope:
        await files.write(fh, 4 * step, b"N" * (2 << 20))
    assert scope.cancelled_caught
    assert file.unstored is not None
    assert bytes(await files.read(fh, 4 * step, step)) == b"N" * step


async def test_the_first_error_of_a_file_is_the_one_that_is_told(
    expect_log: LogLedger,
) -> None:
    expect_log("acme/root@web01/f: data was not stored: write: ENOSPC")
    mount, ino, _ = await world_with()
    files = mount.tree.files
    fh = (await files.open(ino, os.O_WRONLY, CALLER)).fh
    file = mount.tree.handles.file(fh)
    for code in (errno.ENOSPC, errno.EIO):
        files.writes.latch(file, RemoteError(code, "write"))
    with pytest.raises(RemoteError) as caught:
        await files.flush(fh)
    assert caught.value.code == errno.ENOSPC


def test_a_piece_that_overlaps_what_is_on_its_way_waits_for_it() -> None:
    queue: WriteQueue[str] = WriteQueue()
    for start, data in ((0, b"old!"), (8, b"else"), (2, b"new")):
        queue.put("a program", start, data, is_append=False)
    first, second = (queue.take(100, is_urgent=True) for _ in range(2))
    assert first is not None
    assert second is not None
    assert (first.data, second.data) == (b"old!", b"else")
    assert queue.take(100, is_urgent=True) is None
    queue.done(first)
    third = queue.take(100, is_urgent=True)
    assert third is not None
    assert third.data == b"new"


@pytest.mark.parametrize("kinds", [(True, False), (False, True), (True, True)])
def test_an_append_is_on_its_way_alone(kinds: tuple[bool, bool]) -> None:
    queue: WriteQueue[str] = WriteQueue()
    for number, is_append in enumerate(kinds):
        queue.put(f"program {number}", 10 * number, b"data", is_append=is_append)
    first = queue.take(100, is_urgent=True)
    assert first is not None
    assert queue.take(100, is_urgent=True) is None
    queue.done(first)
    assert queue.take(100, is_urgent=True) is not None


# -- names -----------------------------------------------------------------------


async def test_a_change_that_failed_may_have_happened(
    autojump_clock: MockClock,
) -> None:
    class LosesAnswers(FakeTree):
        """Removes the file, and says that it could not."""

        async def unlink(self, path: RemotePath) -> None:
            await super().unlink(path)
            raise RemoteError(errno.EIO, "remove")

    mount, _, _ = await world_with(make=LosesAnswers)
    home = (await mount.look(HOME)).ino
    await mount.tree.directories.open(home, CALLER)
    await mount.look(PATH)
    with pytest.raises(RemoteError):
        await mount.tree.directories.unlink(home, Name(b"f"), CALLER)
    with pytest.raises(RemoteError) as caught:
        await mount.look(PATH)
    assert caught.value.code == errno.ENOENT


async def test_of_a_lost_session_nothing_is_known_before_it_is_closed(
    autojump_clock: MockClock,
) -> None:
    mount, _, tree = await world_with()
    home = (await mount.look(HOME)).ino
    await mount.tree.directories.open(home, CALLER)
    tree.calls.clear()
    await mount.look(PATH)
    assert not tree.calls
    tree.lose()
    await mount.look(PATH)
    assert mount.source.logins[WEB01] == 2


async def test_of_a_lost_session_nothing_is_listed_ahead(
    autojump_clock: MockClock,
) -> None:
    mount, _, tree = await world_with()
    home = mount.tree.inodes.get((await mount.look(HOME)).ino)
    known = mount.tree.coherence.known
    assert known.lifetime_s(home) > 0
    tree.lose()
    assert known.lifetime_s(home) == 0


async def test_a_path_that_no_device_takes_is_not_sent() -> None:
    mount, _, tree = await world_with()
    deep = (await mount.look(HOME)).ino
    for _ in range(15):
        name = Name(b"d" * 255)
        deep = (await mount.tree.directories.mkdir(deep, name, 0o700, CALLER)).ino
    tree.calls.clear()
    with pytest.raises(RemoteError) as caught:
        await mount.tree.directories.mkdir(deep, Name(b"d" * 255), 0o700, CALLER)
    assert caught.value.code == errno.ENAMETOOLONG
    assert not tree.calls


# -- small files -----------------------------------------------------------------


class Edited(Far):
    """Lets the test change a file between the end of a read and the look behind it."""

    def __init__(self, fs: MemoryFs) -> None:
        super().__init__(fs)
        self.after_read: Callable[[FakeFile], None] = lambda _: None
        self.most = 1 << 30

    async def open(
        self, path: RemotePath, mode: OpenMode, permissions: int | None = None
    ) -> tuple[RemoteFile, Attrs]:
        file, attrs = await super().open(path, mode, permissions)
        assert isinstance(file, FakeFile)
        return EditedFile(self, file.node, file.mode), attrs


class EditedFile(SeenLater):
    tree: Edited

    async def read_at(self, offset: int, size: int) -> Data:
        data = await super().read_at(offset, min(size, self.tree.most))
        self.tree.after_read(self)
        return data


async def copying() -> tuple[Copy, Edited]:
    """Return a copy whose listing ends soon; it is about to read three files."""
    mount = mounted(make=Edited)
    for number in range(COUNT):
        mount.fs.put(b"/%02d" % number, content(number))
    found = Copy(mount, (await mount.look(HOME)).ino)
    await found.listed()
    await trio.sleep(1.6)
    assert isinstance(found.device, Edited)
    return found, found.device


def edit(found: Copy, new: bytes) -> None:
    """Change the fourth file on the device, to another time."""
    node = found.mount.fs.node(b"/03")
    node.content[:] = new
    node.touched(node.mtime_ns + 10 * SECOND_NS)


async def read_later(found: Copy) -> bytes:
    """Read the fourth file when the listing has ended, and what was read has not."""
    await trio.sleep(0.6)
    small = found.mount.tree.files.small
    fetched = {f.inode.names[0][1]: f for f in small._readers[WEB01].fetches.values()}
    known = fetched[Name(b"03")].content if Name(b"03") in fetched else None
    # Still of use when the name is looked up, which tells of the change.
    assert known is None or known.until > trio.current_time() + RTT_S
    opens, looks = found.device.calls["open"], found.device.calls["lstat"]
    data = await found.read(b"03")
    assert found.device.calls["lstat"] == looks + 1
    assert found.device.calls["open"] == opens + 1  # what was read ahead is not used
    return data


async def test_a_file_that_changes_while_it_is_read_ahead_is_read_again(
    autojump_clock: MockClock,
) -> None:
    found, device = await copying()
    await found.read_some(0, 1)
    new = bytes(len(content(3)))

    def change(file: FakeFile) -> None:
        if file.node is found.mount.fs.node(b"/03") and file.node.content != new:
            edit(found, new)

    device.after_read = change
    await found.read_some(2)
    await trio.sleep(0.35)
    assert await read_later(found) == new


async def test_a_file_that_changed_after_it_was_read_ahead_is_read_again(
    autojump_clock: MockClock,
) -> None:
    found, _ = await copying()
    await found.read_some(0, 1, 2)
    await trio.sleep(0.35)
    new = bytes(len(content(3)))
    edit(found, new)
    assert await read_later(found) == new


async def test_what_was_read_ahead_in_part_is_read_again(
    autojump_clock: MockClock,
) -> None:
    found, device = await copying()
    await found.read_some(0, 1)
    fh = await found.opened(b"02")
    files = found.mount.tree.files
    await files.read(fh, 0, 1 << 20)
    device.most = 10
    await files.flush(fh)
    await trio.sleep(0.35)
    device.most = 1 << 30
    assert await found.read(b"03") == content(3)
