"""Changes whose session is lost are done once, whether they had happened or not."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine

import pytest
import trio
from trio.testing import MockClock

from pamfs.errors import LoginRefusedError, RemoteError
from pamfs.model import AttrChange, Ino, Name, RemotePath
from pamfs.transport.rename_over import rename_over
from tests.conftest import LogLedger
from tests.fakes.memory import MemoryFs
from tests.fakes.mounted import CALLER, WEB01, Mounted, mounted
from tests.fakes.remote import FakeTree

HOME = b"acme/root@web01"
CHANGES = {"mkdir", "rmdir", "unlink", "rename", "symlink", "link", "set_attrs"}


class Cut(FakeTree):
    """Loses the session of one change: ``before`` it happens, or ``behind`` it.

    ``late``: it happens a moment after the loss, when the next session is open.
    """

    when = ""

    async def round_trip(self, name: str) -> None:
        if self.when == "before" and (name in CHANGES or name == "open"):
            self.lose()
        await super().round_trip(name)


def executed(fs: MemoryFs) -> Counter[str]:
    """Count the changes of names that ``fs`` carries out."""
    done: Counter[str] = Counter()
    for name in ("_enter", "_leave"):
        do = getattr(fs, name)

        def counted(
            *args: object, do: Callable[..., None] = do, what: str = name
        ) -> None:
            done[what] += 1
            do(*args)

        setattr(fs, name, counted)
    return done


class World:
    """A folder with a file, a folder and a session that is lost at the next change."""

    def __init__(self, when: str) -> None:
        self.mount: Mounted = mounted(make=Cut)
        self.fs = self.mount.fs
        self.fs.put(b"/old", b"content")
        self.fs.mkdir(b"/empty", 0o755)
        self.when = when
        self.home = Ino(0)

    async def ready(self) -> World:
        self.home = (await self.mount.look(HOME)).ino
        for name in (b"/old", b"/empty"):
            await self.mount.look(HOME + name)
        tree = self.mount.source.tree(WEB01)
        assert isinstance(tree, Cut)
        if self.when == "before":
            tree.when = "before"
        else:
            self._lose_behind(tree)
        self.done = executed(self.fs)
        return self

    def _lose_behind(self, tree: Cut) -> None:
        def lost_behind(do: Callable[..., Awaitable[object]]) -> Callable[..., object]:
            async def change(*args: object, **kwargs: object) -> object:
                await do(*args, **kwargs)
                tree.lose()
                tree.check_alive()
                return None

            return change

        for name in (*CHANGES, "open"):
            setattr(tree, name, lost_behind(getattr(tree, name)))


async def mkdir(world: World) -> None:
    tree = world.mount.tree.directories
    node = await tree.mkdir(world.home, Name(b"new"), 0o750, CALLER)
    assert node.attrs.mode & 0o777 == 0o750


async def symlink(world: World) -> None:
    tree = world.mount.tree.directories
    await tree.symlink(world.home, Name(b"new"), b"says", CALLER)
    assert world.fs.readlink(b"/new") == b"says"


async def mknod(world: World) -> None:
    tree = world.mount.tree.directories
    await tree.mknod(world.home, Name(b"new"), 0o100640, CALLER)
    assert world.fs.node(b"/new").mode & 0o777 == 0o640


async def create(world: World) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    files, where = world.mount.tree.files, (world.home, Name(b"new"))
    opened, _ = await files.create(where, flags, 0o640, CALLER)
    await files.write(opened.fh, 0, b"text")
    await files.flush(opened.fh)
    assert world.fs.node(b"/new").content == b"text"


async def link(world: World) -> None:
    ino = (await world.mount.look(HOME + b"/old")).ino
    await world.mount.tree.directories.link(ino, world.home, Name(b"new"), CALLER)
    assert world.fs.node(b"/new") is world.fs.node(b"/old")


async def unlink(world: World) -> None:
    await world.mount.tree.directories.unlink(world.home, Name(b"old"), CALLER)


async def rmdir(world: World) -> None:
    await world.mount.tree.directories.rmdir(world.home, Name(b"empty"), CALLER)


async def rename(world: World) -> None:
    old, new = (world.home, Name(b"old")), (world.home, Name(b"new"))
    await world.mount.tree.directories.rename(old, new, CALLER, replace=True)
    assert world.fs.node(b"/new").content == b"content"


MAKES = [mkdir, symlink, mknod, create, link]
REMOVES = [unlink, rmdir]


@pytest.mark.parametrize("when", ["before", "behind"])
@pytest.mark.parametrize("change", [*MAKES, *REMOVES, rename])
async def test_a_change_is_done_once(
    change: Callable[[World], Awaitable[None]], when: str, autojump_clock: MockClock
) -> None:
    world = await World(when).ready()
    await change(world)
    expected = {"_enter": change not in REMOVES, "_leave": change not in MAKES}
    assert {name: world.done[name] for name in expected} == expected
    assert world.mount.source.logins[WEB01] == 2


@pytest.mark.parametrize("when", ["before", "behind"])
async def test_attributes_are_set_again(when: str, autojump_clock: MockClock) -> None:
    world = await World(when).ready()
    ino = (await world.mount.look(HOME + b"/old")).ino
    node = await world.mount.tree.nodes.setattr(ino, AttrChange(mode=0o600), CALLER)
    assert node.attrs.mode & 0o777 == 0o600
    assert world.fs.node(b"/old").mode & 0o777 == 0o600


async def test_what_another_client_made_meanwhile_is_not_claimed(
    autojump_clock: MockClock,
) -> None:
    world = await World("before").ready()

    async def made_meanwhile() -> None:
        await trio.sleep(0.1)  # while the change is looked at for the first time
        world.fs.put(b"/new", b"theirs")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(made_meanwhile)
        with pytest.raises(RemoteError) as caught:
            await create(world)
    assert caught.value.code == errno.EEXIST
    assert world.fs.node(b"/new").content == b"theirs"


async def test_a_request_that_the_lost_session_still_carries_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    world = await World("before").ready()

    async def late() -> None:
        await trio.sleep(0.1)
        world.fs.mkdir(b"/new", 0o750)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(late)
        await mkdir(world)
    assert world.done["_enter"] == 1


async def test_a_file_that_another_client_put_in_place_of_a_removed_one_stays(
    autojump_clock: MockClock,
) -> None:
    world = await World("behind").ready()
    tree = world.mount.source.tree(WEB01)
    assert isinstance(tree, Cut)
    lost = tree.unlink

    async def replaced(path: RemotePath) -> None:
        try:
            await lost(path)
        finally:
            world.fs.put(b"/old", b"the lock of another client")

    setattr(tree, "unlink", replaced)  # noqa: B010 - one instance
    await unlink(world)
    assert world.fs.node(b"/old").content == b"the lock of another client"


async def test_what_was_not_known_before_is_not_removed_a_second_time(
    autojump_clock: MockClock,
) -> None:
    world = await World("before").ready()
    await trio.sleep(60)  # past every TTL
    world.fs.put(b"/old", b"another file")
    with pytest.raises(RemoteError) as caught:
        await unlink(world)
    assert caught.value.code == errno.EIO
    assert world.fs.node(b"/old").content == b"another file"


class InSteps(FakeTree):
    """Has no posix-rename; loses its session at its request number ``cut_at``."""

    cut_at = 0
    is_done = False

    async def rename(self, old: RemotePath, new: RemotePath, *, replace: bool) -> None:
        if replace:
            await rename_over(self, self._to_new, old, new)
        else:
            await self._cut(super().rename(old, new, replace=False))

    async def _to_new(self, old: RemotePath, new: RemotePath) -> None:
        await self.rename(old, new, replace=False)

    async def unlink(self, path: RemotePath) -> None:
        await self._cut(super().unlink(path))

    async def _cut(self, request: Coroutine[object, object, None]) -> None:
        self.cut_at -= 1
        if self.cut_at == 0 and not self.is_done:
            self.lose()
        try:
            await request
        finally:
            if self.cut_at == 0:
                self.lose()
                self.check_alive()


async def two_files() -> tuple[Mounted, InSteps, Ino]:
    """Return a mount with ``old`` and ``new``, and its device and folder."""
    mount = mounted(make=InSteps)
    mount.fs.put(b"/old", b"content")
    mount.fs.put(b"/new", b"replaced")
    home = (await mount.look(HOME)).ino
    for name in (b"/old", b"/new"):
        await mount.look(HOME + name)
    tree = mount.source.tree(WEB01)
    assert isinstance(tree, InSteps)
    return mount, tree, home


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("cut_at", [1, 2, 3, 4])
async def test_a_rename_in_steps_leaves_no_file_aside(
    cut_at: int, is_done: bool, autojump_clock: MockClock
) -> None:
    mount, tree, home = await two_files()
    tree.cut_at, tree.is_done = cut_at, is_done
    old, new = (home, Name(b"old")), (home, Name(b"new"))
    await mount.tree.directories.rename(old, new, CALLER, replace=True)
    assert sorted(mount.fs.node(b"/").entries) == [b"new"]
    assert mount.fs.node(b"/new").content == b"content"


async def test_a_rename_in_steps_that_is_refused_later_is_undone(
    autojump_clock: MockClock,
) -> None:
    mount, tree, home = await two_files()
    tree.cut_at = 3  # the replaced file is aside, the new one not in place

    async def replaced_meanwhile() -> None:
        await trio.sleep(0.1)
        mount.fs.put(b"/old", b"of another client")

    old, new = (home, Name(b"old")), (home, Name(b"new"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(replaced_meanwhile)
        with pytest.raises(RemoteError):
            await mount.tree.directories.rename(old, new, CALLER, replace=True)
    assert sorted(mount.fs.node(b"/").entries) == [b"new", b"old"]
    assert mount.fs.node(b"/new").content == b"replaced"


async def test_where_a_replaced_file_is_left_is_logged(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("root@web01/new: the file to be replaced may be at")
    mount = mounted(make=InSteps)
    mount.fs.put(b"/old", b"content")
    mount.fs.put(b"/new", b"replaced")
    home = (await mount.look(HOME)).ino
    await mount.look(HOME + b"/new")
    tree = mount.source.tree(WEB01)
    assert isinstance(tree, InSteps)
    tree.cut_at = 3
    mount.source.refusal = LoginRefusedError("no")
    old, new = (home, Name(b"old")), (home, Name(b"new"))
    with pytest.raises(LoginRefusedError):
        await mount.tree.directories.rename(old, new, CALLER, replace=True)


async def test_what_no_session_has_seen_is_never_said_to_be_removed(
    autojump_clock: MockClock,
) -> None:
    """Found by the model of the stack: success, and the file was there."""
    world = await World("before").ready()
    world.mount.tree.session_closed(WEB01)  # takes what was seen of the names
    with pytest.raises(RemoteError) as caught:
        await world.mount.tree.directories.unlink(world.home, Name(b"old"), CALLER)
    assert caught.value.code == errno.EIO
    assert world.fs.node(b"/old").content == b"content"
