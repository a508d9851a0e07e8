"""A silent target holds few requests, and only while it is silent."""

from __future__ import annotations

import contextlib
import errno
import os
from collections import Counter

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pamfs.errors import RemoteError, SessionLostError
from pamfs.fuse.replies import errno_of
from pamfs.model import FileHandle, Name, Target
from pamfs.vfs.files import Files
from pamfs.vfs.stall import SPARED, STALL_S, SilentTargets, StalledError, plan_given_up
from tests.fakes.faults import FallsSilent
from tests.fakes.mounted import CALLER, DB01, WEB01, Mounted, mounted

HOME = b"acme/root@web01"
READERS = 14
ALL = list(range(READERS))


@pytest.mark.parametrize(
    ("waiting", "silent_s", "given_up"),
    [
        (ALL, STALL_S - 0.1, []),
        (ALL, STALL_S, ALL[SPARED:]),
        (ALL[:SPARED], 60, []),
        ([], 60, []),
    ],
)
def test_all_but_the_first_are_given_up_after_a_silence(
    waiting: list[int], silent_s: float, given_up: list[int]
) -> None:
    assert list(plan_given_up(waiting, silent_s)) == given_up


def test_a_program_is_told_of_a_timeout() -> None:
    assert errno_of(StalledError()) == errno.ETIMEDOUT


class Crowd:
    """Requests of one target; each waits until it is answered."""

    def __init__(self, stalls: SilentTargets, target: Target = WEB01) -> None:
        self.stalls, self.target = stalls, target
        self.answer = trio.Event()
        self.ends: Counter[str] = Counter()
        self.ended_at: list[float] = []

    async def ask(self, *, login_s: float = 0, leeway_s: float = 0) -> None:
        try:
            with self.stalls.waiting(self.target, leeway_s) as waiting:
                await trio.sleep(login_s)
                with waiting.asked():
                    await self.answer.wait()
        except StalledError:
            self.ends["given up"] += 1
        else:
            self.ends["answered"] += 1
        self.ended_at.append(trio.current_time())


class TestSilence:
    async def test_it_ends_all_but_a_few_and_whoever_comes_then(
        self, autojump_clock: MockClock, nursery: trio.Nursery
    ) -> None:
        crowd = Crowd(SilentTargets())
        nursery.start_soon(crowd.stalls.watch)
        for _ in ALL:
            nursery.start_soon(crowd.ask)
        await trio.sleep(STALL_S + 1.1)  # between two looks of the watch
        assert crowd.ends == {"given up": READERS - SPARED}
        began_at = trio.current_time()
        await crowd.ask()
        assert trio.current_time() == began_at
        crowd.answer.set()
        await trio.testing.wait_all_tasks_blocked()
        assert crowd.ends["answered"] == SPARED

    async def test_it_is_over_with_the_first_answer(
        self, autojump_clock: MockClock, nursery: trio.Nursery
    ) -> None:
        stalls = SilentTargets()
        silent, first = Crowd(stalls), Crowd(stalls)
        nursery.start_soon(stalls.watch)
        nursery.start_soon(first.ask)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(SPARED):
            nursery.start_soon(silent.ask)
        await trio.sleep(2 * STALL_S)
        assert silent.ends == {"given up": 1}  # the fourth, with ``first``
        first.answer.set()
        await trio.testing.wait_all_tasks_blocked()
        for _ in ALL:
            nursery.start_soon(silent.ask)
        await trio.sleep(STALL_S - 1)
        assert silent.ends == {"given up": 1}
        silent.answer.set()

    @pytest.mark.parametrize("error", [RemoteError(errno.EIO, "read"), None])
    async def test_a_refusal_is_an_answer_too(
        self,
        autojump_clock: MockClock,
        nursery: trio.Nursery,
        error: RemoteError | None,
    ) -> None:
        crowd = Crowd(SilentTargets())
        nursery.start_soon(crowd.stalls.watch)
        for _ in ALL:
            nursery.start_soon(crowd.ask)
        for _ in range(5):
            await trio.sleep(STALL_S - 1)
            self.answered(crowd.stalls, error)
        assert not crowd.ends
        crowd.answer.set()

    @staticmethod
    def answered(stalls: SilentTargets, error: RemoteError | None) -> None:
        try:
            with stalls.waiting(WEB01) as waiting, waiting.asked():
                if error:
                    raise error
        except RemoteError:
            pass

    async def test_it_is_one_targets_own(
        self, autojump_clock: MockClock, nursery: trio.Nursery
    ) -> None:
        stalls = SilentTargets()
        silent, other = Crowd(stalls), Crowd(stalls, DB01)
        nursery.start_soon(stalls.watch)
        for _ in ALL:
            nursery.start_soon(silent.ask)
        await trio.sleep(STALL_S)
        for _ in ALL:
            nursery.start_soon(other.ask)
        await trio.sleep(STALL_S - 1)
        assert silent.ends
        assert not other.ends
        other.answer.set()
        silent.answer.set()

    async def test_nothing_stays_when_nobody_waits(
        self, autojump_clock: MockClock
    ) -> None:
        crowd = Crowd(SilentTargets())
        with trio.move_on_after(60):
            await crowd.ask()
        async with trio.open_nursery() as nursery:
            for _ in ALL:
                nursery.start_soon(crowd.ask)
            await trio.testing.wait_all_tasks_blocked()
            assert not crowd.ends
            crowd.answer.set()


class TestALogin:
    async def test_however_long_it_takes_it_is_no_silence(
        self, autojump_clock: MockClock, nursery: trio.Nursery
    ) -> None:
        crowd = Crowd(SilentTargets())
        nursery.start_soon(crowd.stalls.watch)
        for _ in ALL:
            nursery.start_soon(lambda: crowd.ask(login_s=120))
        await trio.sleep(120 + STALL_S - 1)
        assert not crowd.ends
        crowd.answer.set()

    async def test_after_a_lost_session_its_readers_wait_for_the_next(
        self, autojump_clock: MockClock, nursery: trio.Nursery
    ) -> None:
        stalls = SilentTargets()
        lost, again = trio.Event(), trio.Event()
        nursery.start_soon(stalls.watch)

        async def ask() -> None:
            await lost.wait()
            raise SessionLostError("gone")

        async def read() -> None:
            with stalls.waiting(WEB01) as waiting:
                with pytest.raises(SessionLostError), waiting.asked():
                    await ask()
                await again.wait()

        async with trio.open_nursery() as readers:
            for _ in ALL:
                readers.start_soon(read)
            await trio.sleep(1)
            lost.set()
            await trio.sleep(10 * STALL_S)
            again.set()

    async def test_that_silence_cost_is_silence_still(
        self, autojump_clock: MockClock, nursery: trio.Nursery
    ) -> None:
        crowd = Crowd(SilentTargets())
        for _ in range(SPARED):
            nursery.start_soon(crowd.ask)
        await trio.sleep(STALL_S + 1)
        began_at = trio.current_time()
        lost = SessionLostError("no keepalive was answered")
        with pytest.raises(SessionLostError):
            await self.lose(crowd.stalls, lost)
        await crowd.ask()
        assert crowd.ends == {"given up": 1}
        assert trio.current_time() == began_at
        crowd.answer.set()

    @staticmethod
    async def lose(stalls: SilentTargets, lost: SessionLostError) -> None:
        with stalls.waiting(WEB01, 60) as waiting, waiting.asked():
            raise lost


async def test_a_close_is_left_the_time_to_be_sent(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    crowd = Crowd(SilentTargets())
    nursery.start_soon(crowd.stalls.watch)
    for _ in ALL[:SPARED]:
        nursery.start_soon(crowd.ask)
    await trio.sleep(STALL_S)
    began_at = trio.current_time()
    await crowd.ask(leeway_s=0.25)
    assert trio.current_time() == began_at + 0.25
    crowd.answer.set()


class TestFiles:
    async def opened(self, mount: Mounted) -> FileHandle:
        mount.fs.put(b"/f", b"hello")
        ino = (await mount.look(HOME + b"/f")).ino
        return (await mount.tree.files.open(ino, os.O_RDONLY, CALLER)).fh

    def silenced(self, mount: Mounted) -> FallsSilent:
        tree = mount.source.tree(WEB01)
        assert isinstance(tree, FallsSilent)
        tree.is_silent = True
        return tree

    async def test_reads_of_a_silent_target_time_out_once(
        self, autojump_clock: MockClock, nursery: trio.Nursery
    ) -> None:
        mount = mounted(make=FallsSilent)
        fh = await self.opened(mount)
        tree = self.silenced(mount)
        files = mount.tree.files
        nursery.start_soon(files.stalls.watch)
        ended: Counter[type[Exception]] = Counter()
        began_at = trio.current_time()
        async with trio.open_nursery() as readers:
            for _ in ALL:
                readers.start_soon(self.read, files, fh, ended)
        request_timeout_s = mount.tree.remote.view(WEB01).request_timeout_s
        assert ended == {StalledError: READERS - SPARED, trio.TooSlowError: SPARED}
        # Neither is tried once more: that would double the wait.
        assert trio.current_time() == began_at + request_timeout_s
        assert tree.calls["read_at"] == READERS

    @staticmethod
    async def read(
        files: Files, fh: FileHandle, ended: Counter[type[Exception]]
    ) -> None:
        try:
            await files.read(fh, 0, 5)
        except (StalledError, trio.TooSlowError) as exc:
            ended[type(exc)] += 1

    async def test_without_a_mount_no_close_of_a_silent_target_is_waited_for(
        self, autojump_clock: MockClock, nursery: trio.Nursery
    ) -> None:
        mount = mounted(make=FallsSilent)
        fh = await self.opened(mount)
        self.silenced(mount)
        began_at = trio.current_time()
        async with trio.open_nursery() as closing:
            closing.start_soon(mount.tree.files.release, fh)
            await trio.testing.wait_all_tasks_blocked()
            mount.tree.files.stop_closing()
        assert trio.current_time() == began_at

    async def test_closing_files_of_a_silent_target_holds_few(
        self,
        autojump_clock: MockClock,
        nursery: trio.Nursery,
        expect_log: object,
    ) -> None:
        assert callable(expect_log)
        expect_log("closing a file")
        mount = mounted(make=FallsSilent)
        handles = [await self.opened(mount) for _ in ALL]
        self.silenced(mount)
        files = mount.tree.files
        nursery.start_soon(files.stalls.watch)
        released: list[FileHandle] = []

        async def release(fh: FileHandle) -> None:
            await files.release(fh)
            released.append(fh)

        for fh in handles:
            nursery.start_soon(release, fh)
        await trio.sleep(STALL_S + 2)
        assert len(released) == READERS - SPARED

    async def test_a_target_that_speaks_again_is_read_again(
        self, autojump_clock: MockClock
    ) -> None:
        mount = mounted(make=FallsSilent)
        fh = await self.opened(mount)
        self.silenced(mount)
        with trio.move_on_after(STALL_S):
            await mount.tree.files.read(fh, 0, 5)
        tree = mount.source.tree(WEB01)
        assert isinstance(tree, FallsSilent)
        tree.is_silent = False
        assert await mount.tree.files.read(fh, 0, 5) == b"hello"


async def test_with_one_target_of_ten_dead_the_others_take_no_time(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Readers, a listing and more writes than the budget holds wait at the dead one."""
    mount = mounted(make=FallsSilent)
    tree, names = mount.tree, [f"root@d{number}".encode() for number in range(10)]
    mount.fs.put(b"/f", b"hello")
    for name in names:
        await mount.look(b"acme/" + name + b"/f")
    dead = mount.source.tree(Target("acme", "root", "d0"))
    assert isinstance(dead, FallsSilent)
    ino = (await mount.look(b"acme/root@d0/f")).ino
    home = (await mount.look(b"acme/root@d0")).ino
    opened = [(await tree.files.open(ino, os.O_RDWR, CALLER)).fh for _ in ALL]
    dead.is_silent = True

    async def wait_there(number: int, fh: FileHandle) -> None:
        with contextlib.suppress(Exception):
            await tree.files.read(fh, 0, 5)
        with contextlib.suppress(Exception):
            for piece in range(64):
                await tree.files.write(fh, number << 30 | piece << 20, bytes(1 << 20))

    for number, fh in enumerate(opened):
        nursery.start_soon(wait_there, number, fh)
        nursery.start_soon(wait_there, number + len(opened), fh)
    nursery.start_soon(tree.directories.open, home, CALLER)
    await trio.testing.wait_all_tasks_blocked()
    began_at = trio.current_time()
    for name in names[1:]:
        await use(mount, b"acme/" + name)
    assert trio.current_time() == began_at
    nursery.cancel_scope.cancel()


async def use(mount: Mounted, home: bytes) -> None:
    """Make, write, read, list, rename and remove a file of this target."""
    tree, parent = mount.tree, (await mount.look(home)).ino
    first, second = Name(b"new"), Name(b"newer")
    made, _ = await tree.files.create((parent, first), os.O_RDWR, 0o644, CALLER)
    fh = made.fh
    await tree.files.write(fh, 0, bytes(1 << 20))
    await tree.files.fsync(fh)
    assert len(await tree.files.read(fh, 0, 100)) == 100
    await tree.files.flush(fh)
    await tree.files.release(fh)
    listing = await tree.directories.open(parent, CALLER)
    assert list(await tree.directories.entries(listing, 0))
    tree.directories.close(listing)
    renamed = (parent, first), (parent, second)
    await tree.directories.rename(*renamed, CALLER, replace=True)
    await tree.directories.unlink(parent, second, CALLER)
