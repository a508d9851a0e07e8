"""The whole stack in process, for the model of it: tree, pool, sessions, a device.

Real are ``vfs`` and ``sessions``, tied together as ``app.mount`` does; faked are the
login, the wire (``tests.fakes.cuts``) and the device's file system. ``Kernel`` asks the
tree as the kernel does: it looks each component up, holds what is open, and walks a
path once more after ESTALE.
"""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from errno import EEXIST, ENOENT, ESTALE
from pathlib import Path
from typing import TypeVar

import trio

from pamfs.config import Config
from pamfs.errors import LoginRefusedError, PamfsError, UnreachableError
from pamfs.model import AttrChange, Caller, FileHandle, Ino, Name
from pamfs.sessions.account.turn import Account
from pamfs.sessions.attempt import Attempt, Link
from pamfs.sessions.pool import Pool
from pamfs.vfs.background import Background, Budget
from pamfs.vfs.names.inodes import ROOT_INO
from pamfs.vfs.names.namespace import Namespace
from pamfs.vfs.tree import Tree
from tests.fakes.cuts import CutTree, Fault, Request
from tests.fakes.dialer import FakeDialer, FakeLink, FakeLogin
from tests.fakes.memory import MemoryFs, Node
from tests.fakes.mounted import ME, tenant
from tests.fakes.remote import EVERYTHING, SECOND_NS, Device
from tests.fakes.tenants import changed

V = TypeVar("V")

# Small, so that a few hundred bytes are several writes on their way.
STEP = 512
NOBODY = Caller(pid=1, uid=1000, gid=1000)
DEVICE = Device(
    capabilities=replace(EVERYTHING, max_read_bytes=STEP, max_write_bytes=STEP),
    latency_s=0.02,
)
_LATE_NS = 1_700_000_000 * SECOND_NS


class CountingFs(MemoryFs):
    """Counts the changes of names that were done, by kind and path."""

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        super().__init__(clock_ns)
        self.done: Counter[tuple[str, bytes]] = Counter()

    def mkdir(self, path: bytes, mode: int) -> None:
        super().mkdir(path, mode)
        self.done["mkdir", path] += 1

    def rmdir(self, path: bytes) -> None:
        super().rmdir(path)
        self.done["rmdir", path] += 1

    def unlink(self, path: bytes) -> None:
        super().unlink(path)
        self.done["unlink", path] += 1

    def rename(self, old: bytes, new: bytes, *, replace: bool) -> None:
        super().rename(old, new, replace=replace)
        self.done["rename", old] += 1

    def found(self, path: bytes) -> Node | None:
        """Return what is at ``path`` now."""
        try:
            return self.node(path)
        except OSError:
            return None


@dataclass
class Chaos:
    """When sessions are lost, and how: drawn from ``random``.

    ``rate`` is for each request. After a loss comes a pause: with ``is_gentle`` so long
    that each loss can be got over, and then no program may see an error.
    """

    random: random.Random
    rate: float
    is_gentle: bool
    faults: tuple[Fault, ...] = tuple(Fault)
    left: int = 8
    calm_until: float = 0.0
    cuts: Counter[str] = field(default_factory=Counter)
    on_cut: Callable[[Request], object] = lambda _: None

    def fault(self, request: Request) -> Fault | None:
        if not self.left or trio.current_time() < self.calm_until:
            return None
        if self.random.random() >= self.rate:
            return None
        self.left -= 1
        pause_s = 60.0 if self.is_gentle else self.random.choice([0.0, 0.1, 5.0])
        self.calm_until = trio.current_time() + pause_s
        fault = self.random.choice(self.faults)
        if fault is Fault.SILENCE:
            self.calm_until += 40.0
        self.cuts[f"{fault.name} {request.name}"] += 1
        return fault

    def done_of(self, waiting: int) -> int:
        return self.random.randint(0, waiting)

    def late_s(self) -> float:
        return self.random.uniform(0.0, 0.15)

    def was_cut(self, request: Request) -> None:
        self.on_cut(request)


def _no_tree() -> CutTree:
    raise AssertionError("the world gives it")


@dataclass
class CutDialer(FakeDialer):
    """Opens sessions that ``plan`` cuts."""

    make: Callable[[], CutTree] = field(default=_no_tree)

    def begin(self, attempt: Attempt, account: Account | None = None) -> FakeLogin:
        login = CutLogin(self, attempt)
        self.logins.append(login)
        return login


@dataclass
class CutLogin(FakeLogin):
    async def dial(self) -> Link:
        link = await super().dial()
        assert isinstance(link, FakeLink)
        assert isinstance(self.dialer, CutDialer)
        tree = self.dialer.make()
        link.tree, tree.on_lost = tree, link.lose

        async def end() -> None:
            tree.end()
            await trio.lowlevel.checkpoint()

        link.on_close(end)
        return link


class World:
    """One mount with one target, and the device behind it."""

    def __init__(self, nursery: trio.Nursery, chaos: Chaos) -> None:
        acme = changed(tenant(), reconnect_s=60.0, cooldown_s=10.0)
        self.nursery = nursery
        self.chaos = chaos
        self.fs = CountingFs(lambda: _LATE_NS + int(trio.current_time() * SECOND_NS))
        self.dialer = CutDialer(takes_s=0.1, make=self._make_tree)
        self.pool = Pool(nursery, {"acme": acme}, self.dialer, now=trio.current_time)
        self.budget = Budget(1 << 20)
        namespace = Namespace(Config(path=Path("test.toml"), tenants={"acme": acme}))
        background = Background(spawn=nursery.start_soon, budget=self.budget)
        self.tree = Tree(namespace, self.pool, ME, background=background)
        self.pool.on_open(self.tree.session_opened)
        self.pool.on_revoke(self.tree.session_revoked)
        self.pool.on_forget(self.tree.session_closed)
        self.pool.on_drain(self.tree.files.writes.stored)
        self.trees: list[CutTree] = []
        self.story: list[str] = []
        chaos.on_cut = lambda request: self.note(f"cut at {request.name}")

    def note(self, text: str) -> None:
        """Keep what happens, for a schedule that fails."""
        self.story.append(f"{trio.current_time():9.3f} {text}")

    def _make_tree(self) -> CutTree:
        made = CutTree(self.fs, DEVICE, self.chaos, self.nursery)
        self.trees.append(made)
        return made

    def refuse_logins(self, count: int, *, is_final: bool) -> None:
        """Have the next logins fail: refused for good, or the proxy is away."""
        error = LoginRefusedError if is_final else UnreachableError
        self.dialer.failures.extend(error("no") for _ in range(count))

    async def unmount(self) -> None:
        """Take it down as ``app.mount`` does; nothing may be left over."""
        assert not self.tree.handles.files()
        await self.tree.files.writes.stored()
        await trio.sleep(120)  # what was read ahead has ended, or was dropped
        alive = [tree for tree in self.trees if not tree.is_lost]
        assert len(alive) <= 1
        assert [tree.open_files for tree in alive] in ([], [0]), "a handle is left"
        assert await self.pool.close(60) == ()
        assert self.budget.held_bytes == 0, "memory is held for nothing"
        assert self.pool.statistics().callers == 0
        assert self.dialer.open_links == []
        assert self.dialer.open_logins == []


@asynccontextmanager
async def world_of(chaos: Chaos) -> AsyncIterator[World]:
    """Run a world and take it down; every task of it has ended then."""
    async with trio.open_nursery() as nursery:
        world = World(nursery, chaos)
        yield world
        await world.unmount()


class Errors(logging.Handler):
    """Collects what was logged as an error: a fault of pamfs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


@contextmanager
def no_errors_logged() -> Iterator[None]:
    """Fail on what is logged as an error; warnings are what these stories are of."""
    errors, logger = Errors(), logging.getLogger("pamfs")
    before, was_on = list(logger.handlers), logger.propagate
    logger.handlers, logger.propagate = [errors], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before, was_on
    assert not errors.found, errors.found[0]


@dataclass
class Opened:
    """What the kernel holds of one open."""

    fh: FileHandle
    ino: Ino


class Kernel:
    """Asks as the kernel does for one program, which does one thing at a time."""

    def __init__(self, world: World) -> None:
        self._tree = world.tree
        self._files = world.tree.files

    async def by_path(self, path: bytes, ask: Callable[[Ino], Awaitable[V]]) -> V:
        """Return ``ask(ino)`` of what is at ``path``; once more after ESTALE."""
        try:
            return await self._walked(path, ask)
        except PamfsError as exc:
            if exc.code != ESTALE:
                raise
        return await self._walked(path, ask)

    async def _walked(self, path: bytes, ask: Callable[[Ino], Awaitable[V]]) -> V:
        held: list[Ino] = []
        ino = ROOT_INO
        try:
            for part in (b"acme", b"root@web01", *path.strip(b"/").split(b"/")):
                node = await self._tree.nodes.lookup(ino, Name(part), NOBODY)
                held.append(node.ino)
                ino = node.ino
            return await ask(ino)
        finally:
            for number in held:
                self._tree.inodes.forget(number, 1)

    async def in_folder(
        self, path: bytes, ask: Callable[[Ino, Name], Awaitable[V]]
    ) -> V:
        """Return ``ask(parent, name)`` for the last name of ``path``."""
        above, _, last = path.rpartition(b"/")
        return await self.by_path(above, lambda ino: ask(ino, Name(last)))

    async def exists(self, path: bytes) -> bool:
        try:
            await self.by_path(path, self._nothing)
        except PamfsError as exc:
            if exc.code != ENOENT:
                raise
            return False
        return True

    async def _nothing(self, _: Ino) -> None:
        await trio.lowlevel.checkpoint()

    async def open(self, path: bytes, flags: int) -> Opened:
        """Open, and create if asked; the kernel looks the name up before."""
        if flags & os.O_CREAT and not await self.exists(path):
            return await self.in_folder(path, lambda i, n: self._create(i, n, flags))
        if flags & os.O_EXCL:
            raise OSError(EEXIST, "the kernel says so")
        return await self.by_path(path, lambda ino: self._open(ino, flags))

    async def _create(self, parent: Ino, name: Name, flags: int) -> Opened:
        where = parent, name
        reply, node = await self._files.create(where, flags, 0o644, NOBODY)
        return Opened(reply.fh, node.ino)

    async def _open(self, ino: Ino, flags: int) -> Opened:
        reply = await self._files.open(ino, flags, NOBODY)
        inode = self._tree.inodes.get(ino)
        inode.lookups += 1  # an open file is held
        return Opened(reply.fh, ino)

    async def close(self, opened: Opened) -> None:
        """Flush, and release in any case: close(2)."""
        try:
            await self._files.flush(opened.fh)
        finally:
            with trio.CancelScope(shield=True):
                await self._files.release(opened.fh)
            self._tree.inodes.forget(opened.ino, 1)

    async def mkdir(self, path: bytes) -> None:
        async def make(ino: Ino, name: Name) -> None:
            made = await self._tree.directories.mkdir(ino, name, 0o755, NOBODY)
            self._tree.inodes.forget(made.ino, 1)

        if await self.exists(path):
            raise OSError(EEXIST, "the kernel says so")
        await self.in_folder(path, make)

    async def remove(self, path: bytes, *, is_dir: bool) -> None:
        directories = self._tree.directories
        way = directories.rmdir if is_dir else directories.unlink

        async def do(_: Ino) -> None:
            await self.in_folder(path, lambda ino, name: way(ino, name, NOBODY))

        await self.by_path(path, do)  # what it removes is held meanwhile

    async def rename(self, old: bytes, new: bytes) -> None:
        async def to(old_ino: Ino, old_name: Name) -> None:
            async def move(new_ino: Ino, new_name: Name) -> None:
                source, dest = (old_ino, old_name), (new_ino, new_name)
                directories = self._tree.directories
                await directories.rename(source, dest, NOBODY, replace=True)

            await self.in_folder(new, move)

        async def do(_: Ino) -> None:
            await self.exists(new)
            await self.in_folder(old, to)

        await self.by_path(old, do)

    async def stat_size(self, path: bytes) -> int:
        async def size(ino: Ino) -> int:
            return (await self._tree.nodes.getattr(ino, NOBODY)).attrs.size

        return await self.by_path(path, size)

    async def truncate(self, path: bytes, size: int) -> None:
        async def cut(ino: Ino) -> None:
            await self._tree.nodes.setattr(ino, AttrChange(size=size), NOBODY)

        await self.by_path(path, cut)

    async def names(self, path: bytes) -> set[bytes]:
        """Return what readdir(3) shows."""

        async def read(ino: Ino) -> set[bytes]:
            directories = self._tree.directories
            fh = await directories.open(ino, NOBODY)
            found: set[bytes] = set()
            try:
                for item in await directories.entries(fh, 0):
                    node = directories.listed(fh, item)
                    self._tree.inodes.forget(node.ino, 1)
                    found.add(item.name)
            finally:
                directories.close(fh)
            return found

        return await self.by_path(path, read)
