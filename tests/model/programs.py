"""Programs on a mount whose sessions are cut, and what they know of their files.

A program has a folder of its own and does one thing after the other, so what it
believes is one state: the names, and for each file what it wrote. What the device has
is looked at directly. The laws:

* a read gives what was written, whole, or an error: never another byte, never a false
  end of file;
* after a success of fsync or close the device has all that was written through that
  handle, and later nothing of it is missing unless it was overwritten;
* each byte on the device was written there by a program;
* a change of a name is done once if it succeeds, and at most once if it fails;
* nothing is written to a file that another client put in the place of an open one;
* if each loss of a session can be got over (``Chaos.is_gentle``), there is no error.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from errno import EACCES, EHOSTUNREACH, EIO, ENOENT, ESTALE, ETIMEDOUT
from typing import Final

import trio

from pamfs.errors import PamfsError
from pamfs.model import Extent
from tests.fakes.memory import Node
from tests.fakes.mounted import WEB01
from tests.model.file_model import BrokenLawError, FileModel, Handle, Write
from tests.model.world import Kernel, Opened, World

# What a fault may make of a request; anything else is a wrong answer.
FAILURES: Final = frozenset({EIO, ETIMEDOUT, ESTALE, EACCES, EHOSTUNREACH})
# What came late is done by then, and what was known of names is out of date.
SETTLED_S: Final = 5.0
MOST_HANDLES: Final = 2
# How often a program is interrupted in a request.
KILLED: Final = 0.05
LONGEST: Final = 6000


Entry = FileModel | Node  # a directory is its node


class Program:
    """Does ``steps`` random things in its folder."""

    def __init__(self, world: World, number: int, chance: random.Random) -> None:
        self._world = world
        self._kernel = Kernel(world)
        self._random = chance
        self.home = b"/p%d" % number
        world.fs.make_dirs(self.home)
        self._known: dict[bytes, Entry] = {}
        self._handles: list[Handle] = []
        self._foreign: dict[bytes, tuple[Node, bytes] | None] = {}
        self._calls: Counter[tuple[str, bytes]] = Counter()
        self.errors: Counter[str] = Counter()
        self._marks = 0

    async def run(self, steps: int) -> None:
        ways = [self.opens] * 5 + [self.writes] * 8 + [self.reads] * 4
        ways += [self.syncs] * 2 + [self.closes] * 2 + [self.truncates, self.makes]
        ways += [self.removes, self.renames, self.lists, self.looks, self.waits]
        if not self._world.chaos.is_gentle:
            ways += [self.is_disturbed, self.is_disturbed, self.is_locked]
        for _ in range(steps):
            await self._random.choice(ways)()
        await self._ends()

    # -- what it knows -----------------------------------------------------------

    def _name(self) -> bytes:
        name = self._random.choice([b"a", b"b", b"c", b"d", b"d/a", b"e"])
        return self.home + b"/" + name

    def _is_reachable(self, path: bytes) -> bool:
        """Whether its folder is there and no other client changed it."""
        above = path.rpartition(b"/")[0]
        if path in self._foreign or above in self._foreign:
            return False
        return above == self.home or isinstance(self._known.get(above), Node)

    def _below(self, path: bytes) -> list[bytes]:
        return [known for known in self._known if known.startswith(path + b"/")]

    def _some_handle(self) -> Handle | None:
        return self._random.choice(self._handles) if self._handles else None

    # -- how it asks -------------------------------------------------------------

    async def _fails(self, what: str, ask: Callable[[], Awaitable[object]]) -> bool:
        """Whether ``ask`` failed; raise if it may not fail, or not so.

        Now and then the program is killed in the middle of it.
        """
        note = self._world.note
        note(f"{self.home.decode()} {what}")
        with trio.CancelScope() as scope:
            if not self._world.chaos.is_gentle and self._random.random() < KILLED:
                scope.deadline = trio.current_time() + self._random.uniform(0.0, 0.2)
            try:
                await ask()
            except (PamfsError, trio.TooSlowError) as exc:
                code = exc.code if isinstance(exc, PamfsError) else ETIMEDOUT
                self.errors[f"{what}: {exc}"] += 1
                note(f"{self.home.decode()} {what} failed: {exc!r}")
                if code not in FAILURES:
                    raise BrokenLawError(f"{what} says {exc}") from exc
                return True
            note(f"{self.home.decode()} {what} succeeded")
            return False
        note(f"{self.home.decode()} {what} was interrupted")
        return True

    def _may_fail(self, what: str, *, is_allowed: bool = False) -> None:
        if self._world.chaos.is_gentle and not is_allowed:
            raise BrokenLawError(f"{what} failed: {list(self.errors)[-1]}")

    async def _changes(
        self, kind: str, path: bytes, ask: Callable[[], Awaitable[object]]
    ) -> bool:
        """Whether a change of a name succeeded, which is done then; once at most."""
        key = kind, path
        self._calls[key] += 1
        before = self._world.fs.done[key]
        has_failed = await self._fails(f"{kind} {path!r}", ask)
        if has_failed:
            self._may_fail(kind)
            await trio.sleep(SETTLED_S)
        times = self._world.fs.done[key] - before
        if times > 1 or (times != 1 and not has_failed):
            raise BrokenLawError(f"{kind} of {path!r} was done {times} times")
        return times == 1

    # -- open files --------------------------------------------------------------

    async def opens(self) -> None:
        path = self._name()
        known = self._known.get(path)
        if not self._is_reachable(path) or isinstance(known, Node):
            return
        if known is not None and (
            known.is_damaged or len(known.handles) >= MOST_HANDLES
        ):
            return
        flags = os.O_RDWR | self._random.choice([0, os.O_APPEND])
        if known is None:
            flags |= os.O_CREAT | self._random.choice([0, os.O_EXCL])
        flags |= self._random.choice([0, 0, os.O_TRUNC])
        found: list[Opened] = []

        async def ask() -> None:
            found.append(await self._kernel.open(path, flags))

        if await self._fails(f"open {path!r} {flags:o}", ask):
            self._may_fail("open")
            await self._was_not_opened(path, flags)
            return
        file = self._opened(path, flags)
        handle = Handle(found[0], file, bool(flags & os.O_APPEND))
        file.handles.append(handle)
        self._handles.append(handle)
        self._world.note(f"{path!r} is {handle.opened}")

    def _opened(self, path: bytes, flags: int) -> FileModel:
        node = self._world.fs.found(path)
        known = self._known.get(path)
        if node is None:
            raise BrokenLawError(f"{path!r} was opened and is not there")
        if not isinstance(known, FileModel):
            known = self._known[path] = FileModel(node, b"")
        if known.node is not node:
            raise BrokenLawError(f"another file was opened at {path!r}")
        if flags & os.O_TRUNC:
            known.change(Write(0, None, None))
        return known

    async def _was_not_opened(self, path: bytes, flags: int) -> None:
        await trio.sleep(SETTLED_S)
        node, known = self._world.fs.found(path), self._known.get(path)
        if isinstance(known, FileModel):
            if flags & os.O_TRUNC:
                known.change(Write(0, None, None))
                known.damage()
            return
        if node is not None:
            if node.content or not flags & os.O_CREAT:
                raise BrokenLawError(f"{path!r} was made, and not empty")
            self._known[path] = FileModel(node, b"")

    async def writes(self) -> None:
        handle = self._some_handle()
        if handle is None or len(handle.file.content) > LONGEST:
            return
        file = handle.file
        end = len(file.content)
        start = self._random.choice([0, end, end, self._random.randrange(end + 9)])
        if handle.is_append:
            start = end
        write = Write(start, self._data(), handle)
        assert write.data is not None
        data = write.data

        async def ask() -> None:
            await self._world.tree.files.write(handle.opened.fh, start, data)

        has_failed = await self._fails(
            f"write {len(data)} at {start} {handle.opened.fh}", ask
        )
        file.change(write)
        if has_failed:
            self._failed(handle, "write")

    def _data(self) -> bytes:
        self._marks += 1
        mark = b"%s.%d|" % (self.home, self._marks)
        size = self._random.choice([1, 40, 700, 2500])
        return (mark * (size // len(mark) + 1))[:size]

    def _failed(self, handle: Handle, what: str) -> None:
        is_gone = all(known is not handle.file for known in self._known.values())
        self._may_fail(what, is_allowed=is_gone)
        handle.owes = ""
        handle.file.damage()

    async def reads(self) -> None:
        handle = self._some_handle()
        if handle is None:
            return
        file = handle.file
        start = self._random.randrange(len(file.content) + 1)
        found: list[bytes] = []

        async def ask() -> None:
            read = await self._world.tree.files.read(handle.opened.fh, start, 2000)
            found.append(bytes(read))

        if await self._fails(f"read at {start} {handle.opened.fh}", ask):
            is_gone = all(known is not file for known in self._known.values())
            self._may_fail("read", is_allowed=is_gone)
        elif not file.is_damaged:
            file.check_read(found[0], Extent(start, start + 2000), handle)

    async def syncs(self) -> None:
        handle = self._some_handle()
        if handle is not None:
            fh = handle.opened.fh
            await self._stores("fsync", handle, self._world.tree.files.fsync(fh))

    async def closes(self) -> None:
        handle = self._some_handle()
        if handle is not None:
            await self._closes(handle)

    async def _closes(self, handle: Handle) -> None:
        self._handles.remove(handle)
        await self._stores("close", handle, self._kernel.close(handle.opened))
        handle.file.handles.remove(handle)
        if handle.file.is_damaged and not handle.file.handles:
            await self._resynced(handle.file)

    async def _stores(
        self, what: str, handle: Handle, asked: Awaitable[object]
    ) -> None:
        """Wait for ``asked``: if it succeeds, what ``handle`` wrote is stored."""

        async def ask() -> None:
            await asked

        if await self._fails(f"{what} {handle.opened.fh}", ask):
            self._failed(handle, what)
            return
        if handle.owes:
            raise BrokenLawError(f"{what} succeeds, but {handle.owes}")
        file = handle.file
        if file.is_damaged:
            file.check_possible()
            return
        file.check_stored(handle)

    async def _resynced(self, file: FileModel) -> None:
        """Take a file that lost data as the device has it."""
        await trio.sleep(SETTLED_S)
        file.check_possible()
        for path, known in self._known.items():
            if known is file:
                self._known[path] = FileModel(file.node, bytes(file.node.content))
                return

    async def truncates(self) -> None:
        path = self._name()
        file = self._known.get(path)
        if not isinstance(file, FileModel) or not self._is_reachable(path):
            return
        if file.is_damaged:
            return
        size = self._random.choice([0, len(file.content) // 2, len(file.content) + 99])

        async def ask() -> None:
            await self._kernel.truncate(path, size)

        has_failed = await self._fails(f"truncate {path!r} {size}", ask)
        file.change(Write(size, None, None))
        if has_failed:
            self._may_fail("truncate")
            file.damage()
            if not file.handles:
                await self._resynced(file)

    # -- names -------------------------------------------------------------------

    async def makes(self) -> None:
        path = self.home + self._random.choice([b"/d", b"/e"])
        if path in self._known or not self._is_reachable(path):
            return
        if await self._changes("mkdir", path, lambda: self._kernel.mkdir(path)):
            self._known[path] = self._world.fs.node(path)

    async def removes(self) -> None:
        path = self._name()
        known = self._known.get(path)
        if known is None or not self._is_reachable(path) or self._below(path):
            return
        is_dir = isinstance(known, Node)
        kind = "rmdir" if is_dir else "unlink"
        removed = await self._changes(
            kind, path, lambda: self._kernel.remove(path, is_dir=is_dir)
        )
        if removed:
            del self._known[path]

    async def renames(self) -> None:
        old, new = self._name(), self._name()
        known, over = self._known.get(old), self._known.get(new)
        if known is None or old == new or new.startswith(old + b"/"):
            return
        if not (self._is_reachable(old) and self._is_reachable(new)):
            return
        is_alike = over is None or isinstance(over, Node) == isinstance(known, Node)
        if not is_alike or self._below(new) or self._is_barred_below(old):
            return
        if await self._changes("rename", old, lambda: self._kernel.rename(old, new)):
            moved = [old, *self._below(old)]
            for path in moved:
                self._known[new + path[len(old) :]] = self._known.pop(path)

    def _is_barred_below(self, path: bytes) -> bool:
        return any(name.startswith(path + b"/") for name in self._foreign)

    async def lists(self) -> None:
        if self._foreign:
            return
        found: list[set[bytes]] = []

        async def ask() -> None:
            found.append(await self._kernel.names(self.home))

        if await self._fails("readdir", ask):
            self._may_fail("readdir")
            return
        tops = {path[len(self.home) + 1 :] for path in self._known}
        expected = {name for name in tops if b"/" not in name}
        if found[0] != expected:
            raise BrokenLawError(f"{found[0]} is listed, not {expected}")

    async def looks(self) -> None:
        path = self._name()
        known = self._known.get(path)
        if not self._is_reachable(path):
            return
        sizes: list[int | None] = []

        async def ask() -> None:
            try:
                sizes.append(await self._kernel.stat_size(path))
            except PamfsError as exc:
                if exc.code != ENOENT:
                    raise
                sizes.append(None)

        if await self._fails(f"stat {path!r}", ask):
            self._may_fail("stat")
            return
        if (sizes[0] is None) != (known is None):
            raise BrokenLawError(f"stat of {path!r} says {sizes[0]}")
        if isinstance(known, FileModel) and not known.is_damaged:
            self._check_size(known, sizes[0])

    @staticmethod
    def _check_size(file: FileModel, size: int | None) -> None:
        if size == len(file.content):
            return
        writers = [write.writer for write in file.since if write.writer]
        if not writers:
            raise BrokenLawError(f"a size of {size}, not {len(file.content)}")
        writers[-1].owes = f"the size is {size}"
        file.damage()

    # -- what others do ----------------------------------------------------------

    async def waits(self) -> None:
        await trio.sleep(self._random.choice([0.01, 1.0, 10.0]))
        if self._foreign and not any(
            handle.file.is_damaged for handle in self._handles
        ):
            await self._adopts()

    async def is_disturbed(self) -> None:
        """Another client replaces a file, or removes it."""
        path = self._name()
        file = self._known.get(path)
        if not isinstance(file, FileModel) or not self._is_reachable(path):
            return
        self._world.note(f"another takes {path!r}")
        least = min(file.least, len(file.node.content))
        if not least:
            return
        self._world.fs.unlink(path)
        self._world.fs.done["unlink", path] -= 1
        del self._known[path]
        if self._random.random() < 0.5:
            self._foreign[path] = None
            return
        content = b"another's"[: least - 1]
        self._foreign[path] = self._world.fs.put(path, content), content

    async def is_locked(self) -> None:
        """An operator closes the session, or logins fail for a while."""
        kind = self._random.randrange(3)
        self._world.note(f"is locked: {kind}")
        if kind == 0:
            await self._world.pool.end(WEB01)
        else:
            self._world.refuse_logins(self._random.randint(1, 4), is_final=kind == 1)

    async def _adopts(self) -> None:
        """Take what another client did as known."""
        await trio.sleep(SETTLED_S)
        for path, left in self._foreign.items():
            node = self._world.fs.found(path)
            if left is None and node is not None:
                raise BrokenLawError(f"{path!r} was removed, and is there again")
            if left is not None:
                if node is not left[0] or bytes(node.content) != left[1]:
                    raise BrokenLawError(f"another's file {path!r} was changed")
                self._known[path] = FileModel(node, left[1])
        self._foreign.clear()

    async def _ends(self) -> None:
        for handle in list(self._handles):
            await self._closes(handle)
        await self._adopts()
        for path, known in self._known.items():
            if isinstance(known, FileModel):
                if self._world.fs.found(path) is not known.node:
                    raise BrokenLawError(f"{path!r} is not there")
                known.check_possible()
        for key, times in self._world.fs.done.items():
            if key[1].startswith(self.home + b"/") and times > self._calls[key]:
                raise BrokenLawError(f"{key} was done {times} times")
