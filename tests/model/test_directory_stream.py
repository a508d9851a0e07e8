"""An open directory is read as one of a local disk is, whatever changes meanwhile.

A story is a list of steps: programs open, read, rewind and seek, make, remove and
rename through the mount; others make and remove on the device. The law is POSIX's: what
is there from the start of a pass to its end is read once in it; what was removed
here is not read any more; a position leads to the entry that it led to.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pamfs.errors import PamfsError
from pamfs.model import Entry, FileHandle, Ino, Name, RemotePath
from pamfs.vfs.names.attributes import Node
from tests.fakes.mounted import CALLER, Mounted, mounted
from tests.fakes.remote import FakeTree

HOME = b"acme/root@web01"
NAMES = [Name(b"%d" % n) for n in range(9)]
LIFE_S = 3.0
ALL = 1 << 20
DOTS = {b".", b".."}


class ListsEarly(FakeTree):
    """Looks at a directory when it is asked, and answers later."""

    async def list_dir(self, path: RemotePath) -> list[Entry]:
        entries = await super().list_dir(path)
        await trio.sleep(0.1)
        return entries


@dataclass
class Reader:
    """One open directory, and what its program has seen."""

    fh: FileHandle
    position: int = 0
    is_read: bool = False
    # Of this pass: what must be read, what may be, what was; None after a seek.
    must: set[Name] = field(default_factory=set)
    may: set[Name] = field(default_factory=set)
    seen: list[Name] | None = field(default_factory=list)
    # The entry behind each position that was read from, while nothing touched it.
    behind: dict[int, Name] = field(default_factory=dict)
    never: set[Name] = field(default_factory=set)

    def touched(self, name: Name, *, is_gone: bool, by_us: bool) -> None:
        self.must.discard(name)
        self.may.add(name)
        self.never.discard(name)
        if is_gone and by_us:
            self.never.add(name)
        self.behind = {at: n for at, n in self.behind.items() if n != name}


class Story:
    def __init__(self, mount: Mounted) -> None:
        self.mount = mount
        self.directories = mount.tree.directories
        self.folder = mount.fs.make_dirs(b"/d")
        self.ino = Ino(0)
        self.readers: list[Reader] = []
        # When others last made or removed a name.
        self.others: dict[Name, float] = {}

    @property
    def names(self) -> set[Name]:
        return {Name(name) for name in self.folder.entries}

    def touched(self, name: Name, *, is_gone: bool, by_us: bool = True) -> None:
        for reader in self.readers:
            reader.touched(name, is_gone=is_gone, by_us=by_us)

    # -- programs that read ------------------------------------------------

    async def open(self, _n: int) -> None:
        if len(self.readers) < 3:
            fh = await self.directories.open(self.ino, CALLER)
            self.readers.append(Reader(fh))

    async def close(self, n: int) -> None:
        if self.readers:
            self.directories.close(self.readers.pop(n % len(self.readers)).fh)

    def reader(self, n: int) -> Reader | None:
        return self.readers[n % len(self.readers)] if self.readers else None

    async def read(self, n: int) -> None:
        reader = self.reader(n)
        if reader is not None:
            await self.read_some(reader, 1 + n % 5)

    async def read_all(self, n: int) -> None:
        reader = self.reader(n)
        while reader is not None and await self.read_some(reader, 3 + n % 20):
            pass

    async def rewind(self, n: int) -> None:
        reader = self.reader(n)
        if reader is not None:
            reader.position = 0

    async def seek(self, n: int) -> None:
        reader = self.reader(n)
        if reader is not None and reader.behind:
            reader.position = sorted(reader.behind)[n % len(reader.behind)]
            reader.seen = None

    def begin_pass(self, reader: Reader) -> None:
        lately = set()
        if not reader.is_read:
            # What others did is seen within the lifetime.
            now = trio.current_time()
            lately = {n for n, at in self.others.items() if now - at <= LIFE_S}
        reader.must = self.names - lately
        reader.may = self.names | lately
        reader.never = reader.never - self.names
        reader.behind = {at: n for at, n in reader.behind.items() if n in self.names}
        reader.seen = []
        reader.is_read = True

    async def read_some(self, reader: Reader, room: int) -> bool:
        """Read as many entries as fit; return whether there were any."""
        got: list[tuple[Name, int]] = []
        if reader.position == 0:
            self.begin_pass(reader)

        def reply(name: Name, node: Node, number: int) -> bool:
            if len(got) == room:
                return False
            assert node.ino
            got.append((name, number))
            return True

        await self.directories.read(reader.fh, reader.position, reply)
        for name, number in got:
            if name not in DOTS:
                self.check(reader, name)
                reader.behind.setdefault(reader.position, name)
            reader.position = number
        if not got and reader.seen is not None:
            assert reader.must <= set(reader.seen)
        return bool(got)

    def check(self, reader: Reader, name: Name) -> None:
        expected = reader.behind.get(reader.position)
        assert expected in {None, name}
        assert name not in reader.never
        if reader.seen is not None:
            assert name not in reader.seen
            assert name in reader.may
            reader.seen.append(name)

    # -- what is changed here, and by others -----------------------------------

    async def make(self, n: int) -> None:
        name = NAMES[n % len(NAMES)]
        make = self.directories.mkdir if n % 2 else self.directories.mknod
        mode = 0o755 if n % 2 else 0o100644
        if await self.answered(make(self.ino, name, mode, CALLER)) is None:
            self.touched(name, is_gone=False)

    async def remove(self, n: int) -> None:
        name = NAMES[n % len(NAMES)]
        if name in self.names:
            is_dir = self.folder.entries[name].is_dir
            remove = self.directories.rmdir if is_dir else self.directories.unlink
            if await self.answered(remove(self.ino, name, CALLER)) is None:
                self.touched(name, is_gone=True)

    async def rename(self, n: int) -> None:
        old, new = NAMES[n % len(NAMES)], NAMES[n // 3 % len(NAMES)]
        if old != new and old in self.names:
            source, dest = (self.ino, old), (self.ino, new)
            move = self.directories.rename(source, dest, CALLER, replace=True)
            if await self.answered(move) is None:
                self.touched(old, is_gone=True)
                self.touched(new, is_gone=False)

    async def look(self, n: int) -> None:
        """Look a name up: what it answers is what there is, or was within the life."""
        name = NAMES[n % len(NAMES)]
        code = await self.answered(self.mount.look(HOME + b"/d/" + name))
        if trio.current_time() - self.others.get(name, -LIFE_S) > LIFE_S:
            assert code == (None if name in self.names else errno.ENOENT)

    async def answered(self, work: Awaitable[object]) -> int | None:
        """Return the errno that ``work`` fails with, if it does."""
        try:
            await work
        except PamfsError as exc:
            return exc.code
        return None

    async def others_make(self, n: int) -> None:
        name = NAMES[n % len(NAMES)]
        if name not in self.names:
            self.mount.fs.put(b"/d/" + name)
            self.others[name] = trio.current_time()
            self.touched(name, is_gone=False, by_us=False)

    async def others_remove(self, n: int) -> None:
        name = NAMES[n % len(NAMES)]
        if name in self.names and not self.folder.entries[name].is_dir:
            self.mount.fs.unlink(b"/d/" + name)
            self.others[name] = trio.current_time()
            self.touched(name, is_gone=True, by_us=False)

    async def wait(self, n: int) -> None:
        await trio.sleep([0.01, 0.5, 4.0][n % 3])

    async def change_while_it_is_listed(self, n: int) -> None:
        """Have one program rewind while another changes a name."""
        reader = self.reader(n)
        if reader is None:
            return
        reader.position = 0
        change = [self.make, self.remove, self.rename][n % 3]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.read_some, reader, ALL)
            await trio.sleep(0.05)
            await change(n)
        await self.read_some(reader, ALL)


Step = tuple[Callable[[Story, int], Awaitable[None]], int]
STEPS = [
    Story.open,
    Story.close,
    Story.read,
    Story.read,
    Story.read_all,
    Story.rewind,
    Story.seek,
    Story.make,
    Story.make,
    Story.remove,
    Story.rename,
    Story.look,
    Story.others_make,
    Story.others_remove,
    Story.wait,
    Story.change_while_it_is_listed,
]


async def play(steps: list[Step]) -> None:
    mount = mounted(make=ListsEarly)
    story = Story(mount)
    for name in NAMES[:5]:
        mount.fs.put(b"/d/" + name)
    story.ino = (await mount.look(HOME + b"/d")).ino
    for step, n in steps:
        await step(story, n)
    for reader in story.readers:
        while await story.read_some(reader, 3):
            pass
        reader.position = 0
        while await story.read_some(reader, ALL):
            pass
        assert reader.seen is not None
        assert set(reader.seen) == story.names
        story.directories.close(reader.fh)
    assert mount.tree.coherence._streams == {}


@settings(max_examples=400)
@given(
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 60)), max_size=40)
)
@example(steps=[(Story.open, 0), (Story.make, 7), (Story.read_all, 0)])
@example(
    steps=[(Story.open, 0), (Story.read, 1), (Story.remove, 4), (Story.read_all, 0)]
)
@example(steps=[(Story.open, 0), (Story.remove, 0), (Story.others_make, 0)])
@example(
    steps=[
        (Story.open, 0),
        (Story.read, 0),
        (Story.make, 16),
        (Story.others_make, 5),
        (Story.change_while_it_is_listed, 25),
        (Story.make, 7),
    ]
)
@example(
    steps=[(Story.open, 0), (Story.remove, 0), (Story.read_all, 0), (Story.make, 0)]
)
def test_a_directory_is_read_as_posix_says(steps: list[Step]) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(play, steps, clock=clock)
