"""Listing ahead: who walks is not kept waiting, and nobody else is listed for."""

from __future__ import annotations

from dataclasses import replace

import trio
import trio.testing
from trio.testing import MockClock

from pamfs.config import Ahead
from pamfs.model import Caller, Ino, Name
from pamfs.vfs.prefetch.listings import OUTSTANDING
from tests.fakes.heard import Heard
from tests.fakes.memory import MemoryFs
from tests.fakes.mounted import ME, WEB01, Mounted, mounted, tenant
from tests.fakes.remote import Device, FakeTree

HOME = b"acme/root@web01"
FIND = Caller(pid=7, uid=1000, gid=1000)
OTHER = Caller(pid=8, uid=1000, gid=1000)
STRANGER = Caller(pid=9, uid=2000, gid=2000)
SHARED = replace(ME, checks_modes=True)
RTT_S = 0.1


class Slow(FakeTree):
    """A device that is far away, and counts what it is asked for at once."""

    def __init__(self, fs: MemoryFs) -> None:
        super().__init__(fs, Device(latency_s=RTT_S))
        self.at_once = self.most_at_once = 0

    async def round_trip(self, name: str) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await super().round_trip(name)
        finally:
            self.at_once -= 1


async def visit(mount: Mounted, ino: Ino, caller: Caller) -> list[tuple[Name, Ino]]:
    """List a directory as ``ls`` does; return the folders in it."""
    directories = mount.tree.directories
    fh = await directories.open(ino, caller)
    entries = await directories.entries(fh, 0)
    nodes = [(entry.name, directories.listed(fh, entry)) for entry in entries]
    directories.close(fh)
    return [(name, node.ino) for name, node in nodes if node.attrs.mode & 0o040000]


async def walk(mount: Mounted, ino: Ino, caller: Caller) -> int:
    """Walk the tree below a directory as ``find`` does; return how many it has."""
    count = 1
    for _, child in await visit(mount, ino, caller):
        count += await walk(mount, child, caller)
    return count


async def begin_walk(mount: Mounted, caller: Caller = FIND) -> Ino:
    """List the home and the first folder in it: a walk is clear then."""
    home = (await mount.look(HOME)).ino
    ((_, child), *_) = await visit(mount, home, caller)
    await visit(mount, child, caller)
    return home


def make_folders(mount: Mounted, width: int = 10) -> int:
    for outer in range(width):
        for inner in range(width):
            mount.fs.make_dirs(b"/%d/%d" % (outer, inner))
    return 1 + width + width * width


def listings(mount: Mounted) -> int:
    tree = mount.source.tree(WEB01)
    assert tree is not None
    return tree.calls["list_dir"]


class TestAWalk:
    async def test_takes_a_fraction_of_its_round_trips(
        self, autojump_clock: MockClock
    ) -> None:
        mount = mounted(make=Slow)
        count = make_folders(mount)
        home = (await mount.look(HOME)).ino
        start = trio.current_time()
        assert await walk(mount, home, FIND) == count
        took = (trio.current_time() - start) / RTT_S
        assert took < count / 5
        # Nothing was listed twice, and nothing that was not walked.
        assert listings(mount) == count

    async def test_has_a_bounded_number_of_requests_under_way(
        self, autojump_clock: MockClock
    ) -> None:
        mount = mounted(make=Slow)
        make_folders(mount, 20)
        home = (await mount.look(HOME)).ino
        await walk(mount, home, FIND)
        tree = mount.source.tree(WEB01)
        assert isinstance(tree, Slow)
        assert 8 < tree.most_at_once <= 33

    async def test_is_of_one_program(self, autojump_clock: MockClock) -> None:
        mount = mounted(make=Slow)
        make_folders(mount)
        home = (await mount.look(HOME)).ino
        ((_, child), *_) = await visit(mount, home, FIND)
        await visit(mount, child, OTHER)
        await trio.sleep(1)
        assert listings(mount) == 2

    async def test_that_stops_is_not_gone_ahead_of(
        self, autojump_clock: MockClock
    ) -> None:
        mount = mounted(make=Slow)
        make_folders(mount)
        await begin_walk(mount)
        await trio.sleep(60)
        assert 2 < listings(mount) <= 2 + 8
        # Nobody came, and still it is forgotten.
        assert not mount.tree._walks._walks

    async def test_ahead_is_off_when_it_is_off(self, autojump_clock: MockClock) -> None:
        mount = mounted(tenant(ahead=Ahead.OFF), make=Slow)
        make_folders(mount)
        await begin_walk(mount)
        await trio.sleep(1)
        assert listings(mount) == 2

    async def test_of_a_session_that_closes_leaves_nothing(
        self, autojump_clock: MockClock
    ) -> None:
        mount = mounted(make=Slow)
        make_folders(mount)
        await begin_walk(mount)
        tree = mount.source.tree(WEB01)
        assert tree is not None
        tree.lose()
        mount.tree.session_closed(WEB01)
        await trio.sleep(1)
        assert mount.tree.coherence.known.count == 0
        assert mount.source.logins[WEB01] == 1


async def test_many_names_of_one_folder_are_listed_once(
    autojump_clock: MockClock,
) -> None:
    mount = mounted(make=Slow)
    for number in range(50):
        mount.fs.put(b"/%d" % number)
    await mount.look(HOME + b"/0")
    for number in range(1, 50):
        await mount.look(HOME + b"/%d" % number)
    tree = mount.source.tree(WEB01)
    assert tree is not None
    assert tree.calls["list_dir"] == 1
    assert tree.calls["lstat"] <= 5


class TestOthers:
    """What the shown mode denies a program is not fetched in its name."""

    async def test_folders_that_are_not_his_are_not_listed_for_a_stranger(
        self, autojump_clock: MockClock
    ) -> None:
        heard = Heard()
        mount = mounted(make=Slow, audit=heard, me=SHARED)
        for number, mode in enumerate([0o755, 0o700, 0o755, 0o750, 0o744]):
            mount.fs.make_dirs(b"/%d" % number, mode)
        home = (await mount.look(HOME)).ino
        ((_, child), *_) = await visit(mount, home, STRANGER)
        await visit(mount, child, STRANGER)
        await trio.sleep(1)
        assert listed_ahead(heard) == [("2", "2000")]

    async def test_his_own_are_listed_for_the_owner(
        self, autojump_clock: MockClock
    ) -> None:
        heard = Heard()
        mount = mounted(make=Slow, audit=heard, me=SHARED)
        for number in range(3):
            mount.fs.make_dirs(b"/%d" % number, 0o700)
        await begin_walk(mount)
        await trio.sleep(1)
        assert listed_ahead(heard) == [("1", "1000"), ("2", "1000")]

    async def test_nothing_below_a_folder_that_he_may_not_enter(
        self, autojump_clock: MockClock
    ) -> None:
        heard = Heard()
        mount = mounted(make=Slow, audit=heard, me=SHARED)
        mount.fs.make_dirs(b"/0/below")
        mount.fs.node(b"/0").mode = 0o40744
        home = (await mount.look(HOME)).ino
        ((_, child), *_) = await visit(mount, home, STRANGER)
        await visit(mount, child, STRANGER)
        await trio.sleep(1)
        assert listed_ahead(heard) == []

    async def test_the_walk_of_another_user_is_not_gone_on_with(
        self, autojump_clock: MockClock
    ) -> None:
        heard = Heard()
        mount = mounted(make=Slow, audit=heard, me=SHARED)
        for number in range(40):
            mount.fs.make_dirs(b"/%d" % number, 0o700)
        mount.fs.node(b"/2").mode = 0o40755
        await begin_walk(mount)
        await trio.sleep(1)
        # It was listed for the one, and is of use to the other.
        await visit(mount, (await mount.look(HOME + b"/2")).ino, STRANGER)
        await trio.sleep(1)
        assert {uid for _, uid in listed_ahead(heard)} == {"1000"}

    async def test_a_folder_that_he_may_only_enter_is_not_listed(
        self, autojump_clock: MockClock
    ) -> None:
        mount = mounted(make=Slow, me=SHARED)
        folder = mount.fs.make_dirs(b"/d", 0o711)
        for number in range(10):
            mount.fs.put(b"/d/%d" % number)
        ino = (await mount.look(HOME + b"/d")).ino
        assert folder.mode & 0o777 == 0o711
        for number in range(10):
            name = Name(b"%d" % number)
            await mount.tree.nodes.lookup(ino, name, STRANGER)
        await trio.sleep(1)
        assert listings(mount) == 0


def listed_ahead(heard: Heard) -> list[tuple[str, str]]:
    told = [record for record in heard.records if record["event"] == "list_ahead"]
    return sorted((str(one["path"]).split("/")[-1], str(one["uid"])) for one in told)


async def test_folders_in_which_names_are_looked_up_are_listed_a_few_at_once(
    autojump_clock: MockClock,
) -> None:
    mount = mounted(make=Slow)
    for folder in range(60):
        for name in range(3):
            mount.fs.make_dirs(b"/%d" % folder)
            mount.fs.put(b"/%d/%d" % (folder, name))
    homes = [(await mount.look(HOME + b"/%d" % folder)).ino for folder in range(60)]
    # The listing of all of them is here now; what they hold is not.
    before = listings(mount)

    async def look(ino: Ino) -> None:
        for name in range(3):
            await mount.tree.nodes.lookup(ino, Name(b"%d" % name), OTHER)

    async with trio.open_nursery() as nursery:
        for ino in homes:
            nursery.start_soon(look, ino)
    await trio.sleep(1)
    assert listings(mount) - before == OUTSTANDING
