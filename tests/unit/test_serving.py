"""What a request of the kernel takes of trio, on a real mount of a few lines."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyfuse3
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pamfs.fuse import serving
from pamfs.fuse.serving import Workers, serve_with
from tests.limits import HANG_S

ROOT = Path(__file__).parents[2]
HAS_FUSE = os.access("/dev/fuse", os.R_OK | os.W_OK) and shutil.which("fusermount3")
needs_fuse = pytest.mark.skipif(not HAS_FUSE, reason="needs /dev/fuse and fusermount3")
# Asks for one attribute so many times, and prints the errnos that it got.
ASK = """\
import os, sys
failed = set()
for _ in range(int(sys.argv[3])):
    try:
        os.getxattr(sys.argv[1], sys.argv[2])
    except OSError as exc:
        failed.add(exc.errno)
print(*failed)
"""
TIMES = 200
FD = 7


class Served:
    """A mount, and what it said when it had ended."""

    def __init__(self, point: Path) -> None:
        self.point = point
        self.counts: dict[str, int] = {}

    def begin(self, name: str, times: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", ASK, str(self.point), name, str(times)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def ask(self, name: str, times: int = TIMES) -> str:
        return self.end(self.begin(name, times))

    def end(self, asking: subprocess.Popen[str]) -> str:
        with asking:
            return asking.communicate(timeout=HANG_S)[0].strip()


@contextmanager
def served(folder: Path, *options: str) -> Iterator[Served]:
    point = folder / "mount"
    point.mkdir()
    command = [sys.executable, "-m", "tests.unit.serving_run", str(point), *options]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as daemon:
        try:
            assert daemon.stdout is not None
            assert daemon.stdout.readline() == "ready\n"
            found = Served(point)
            yield found
            unmount = ["fusermount3", "-u", str(point)]
            subprocess.run(unmount, check=True, timeout=HANG_S)
            found.counts = json.loads(daemon.communicate(timeout=HANG_S)[0])
        finally:
            lazily = ["fusermount3", "-u", "-z", "-q", str(point)]
            subprocess.run(lazily, check=False, timeout=HANG_S)
            daemon.kill()


@needs_fuse
def test_what_waits_for_nothing_takes_no_turn_of_trio(tmp_path: Path) -> None:
    with served(tmp_path) as mount:
        assert mount.ask("user.now") == ""
    assert mount.counts["steps"] < TIMES / 10
    assert mount.counts["tasks"] < TIMES / 10


@needs_fuse
def test_what_waits_takes_two_turns_and_seldom_a_new_task(tmp_path: Path) -> None:
    with served(tmp_path) as mount:
        assert mount.ask("user.waits") == ""
    assert mount.counts["tasks"] < TIMES / 10
    assert mount.counts["steps"] < TIMES * 2.1
    assert mount.counts["answered"] >= TIMES


@needs_fuse
def test_many_that_wait_do_not_wait_for_one_another(tmp_path: Path) -> None:
    with served(tmp_path) as mount:
        hanging = [mount.begin("user.hangs", 3) for _ in range(12)]
        assert mount.ask("user.waits", 20) == ""
        assert [mount.end(asking) for asking in hanging] == [""] * 12
    assert mount.counts["answered"] >= 12 * 3 + 20


@needs_fuse
def test_an_error_of_what_waits_reaches_the_program(tmp_path: Path) -> None:
    with served(tmp_path) as mount:
        assert mount.ask("user.fails", 2) == str(errno.EXDEV)
        assert mount.ask("user.now", 2) == ""


@needs_fuse
def test_a_bug_in_what_does_not_wait_is_an_errno_and_no_end(tmp_path: Path) -> None:
    with served(tmp_path) as mount:
        with pytest.raises(OSError, match="Input/output"):
            os.listxattr(mount.point)
        assert mount.ask("user.now", 2) == ""


@needs_fuse
def test_without_workers_pyfuse3_serves_as_by_itself(tmp_path: Path) -> None:
    with served(tmp_path, "plain") as mount:
        assert mount.ask("user.now", 5) == ""
        assert mount.ask("user.waits", 5) == ""
        assert mount.ask("user.fails", 2) == str(errno.EXDEV)


def test_a_pyfuse3_that_was_not_tried_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = vars(pyfuse3)["trio"]
    monkeypatch.setattr(serving, "TRIED", ((1, 0), (2, 0)))
    assert not serve_with(Workers(Loop()))
    assert vars(pyfuse3)["trio"] is before


def test_a_pyfuse3_without_the_attribute_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(pyfuse3, "trio")
    assert not serve_with(Workers(Loop()))
    assert "trio" not in vars(pyfuse3)
    assert "has no pyfuse3.trio" in serving.strange()


class Loop:
    """A host loop of one descriptor, which the test says is readable."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        assert fd not in self.readers
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        del self.readers[fd]

    def readable(self) -> None:
        self.readers[FD]()


class Pyfuse3:
    """Its workers, as they use trio; handlers stand for requests of the kernel."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.workers = Workers(self.loop)
        self.handlers: list[Callable[[], Awaitable[object]]] = []
        self.answers: list[object] = []
        self.left: list[str] = []
        self.is_running = trio.Event()

    async def main(self) -> None:
        async with self.workers.open_nursery() as nursery:
            for name in ("one", "two"):
                nursery.start_soon(self.work, name, name=name)
            self.is_running.set()

    async def work(self, name: str) -> None:
        try:
            while True:
                async with self.workers.lock():
                    await self.workers.wait_readable(FD)
                answer = await self.workers.in_trio(self.handlers.pop())
                self.answers.append(answer)
        except trio.ClosedResourceError:
            return
        finally:
            self.left.append(name)

    def ask(self, handler: Callable[[], Awaitable[object]]) -> None:
        self.handlers.append(handler)
        self.loop.readable()


class AskedError(Exception):
    """What a handler of these tests raises."""


async def test_while_one_request_waits_the_next_is_answered(
    autojump_clock: MockClock,
) -> None:
    kernel, goes_on = Pyfuse3(), trio.Event()

    async def slow() -> str:
        await goes_on.wait()
        return "slow"

    async def quick() -> str:
        return "quick"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel.main)
        await kernel.is_running.wait()
        kernel.ask(slow)
        kernel.ask(quick)
        await wait_all_tasks_blocked()
        assert kernel.answers == ["quick"]
        goes_on.set()
        await wait_all_tasks_blocked()
        assert kernel.answers == ["quick", "slow"]
        for _ in range(2):  # the second has taken the turn of the first
            kernel.workers.notify_closing(FD)
    assert sorted(kernel.left) == ["one", "two"]
    assert not kernel.loop.readers


async def test_no_request_is_read_while_all_workers_wait(
    autojump_clock: MockClock,
) -> None:
    kernel = Pyfuse3()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel.main)
        await kernel.is_running.wait()
        kernel.ask(trio.sleep_forever)
        kernel.ask(trio.sleep_forever)
        kernel.loop.readable()
        assert not kernel.loop.readers
        nursery.cancel_scope.cancel()


async def test_a_cancelled_mount_closes_the_workers_of_requests_in_flight(
    autojump_clock: MockClock,
) -> None:
    kernel, cancelled = Pyfuse3(), []

    async def slow() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.append("slow")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel.main)
        await kernel.is_running.wait()
        kernel.ask(slow)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert cancelled == ["slow"]
    assert kernel.answers == []
    assert sorted(kernel.left) == ["one", "two"]
    assert not kernel.loop.readers


async def test_what_a_worker_raises_ends_the_mount(autojump_clock: MockClock) -> None:
    kernel = Pyfuse3()

    async def fails() -> None:
        raise AskedError

    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            await kernel.is_running.wait()
            kernel.ask(trio.sleep_forever)
            kernel.ask(fails)

        nursery.start_soon(ask)
        with pytest.raises(ExceptionGroup) as failed:
            await kernel.main()
    assert failed.group_contains(AskedError)
    assert sorted(kernel.left) == ["one", "two"]
    assert not kernel.loop.readers


async def test_idle_tasks_hold_no_request(autojump_clock: MockClock) -> None:
    kernel = Pyfuse3()

    class Handler:
        """Refers to the data of a write."""

        async def __call__(self) -> None:
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel.main)
        await kernel.is_running.wait()
        handler = Handler()
        held = weakref.ref(handler)
        kernel.ask(handler)
        del handler
        await wait_all_tasks_blocked()
        assert kernel.answers == [None]
        assert held() is None
        nursery.cancel_scope.cancel()
