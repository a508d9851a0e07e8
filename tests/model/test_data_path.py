"""Whatever runs side by side, a program reads what it has written, and it is stored."""

from __future__ import annotations

import os
import random

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from pamfs.model import AttrChange, Data, FileHandle, Ino
from pamfs.vfs.background import Budget
from tests.fakes.faults import WithFiles
from tests.fakes.mounted import CALLER, WEB01, Mounted, mounted
from tests.fakes.remote import EVERYTHING, Device, FakeFile, FakeTree

KIB = 1 << 10
LONG = 700 * KIB
HOME = b"acme/root@web01"


class AnswersInAnyOrder(WithFiles):
    """Takes its own time for every read and write of a file."""

    chance = random.Random(0)

    class file_type(FakeFile):  # noqa: N801 - it fills the attribute of that name
        async def read_at(self, offset: int, size: int) -> Data:
            data = await super().read_at(offset, size)
            await trio.sleep(AnswersInAnyOrder.chance.random())
            return data

        async def write_at(self, offset: int, data: Data) -> None:
            await trio.sleep(AnswersInAnyOrder.chance.random())
            await super().write_at(offset, data)


class Program:
    """One program with two handles of one file, and what it knows of the file."""

    def __init__(self, seed: int, mount: Mounted) -> None:
        self.random = AnswersInAnyOrder.chance = random.Random(seed)
        self.mount = mount
        self.files = mount.tree.files
        self.known = bytearray(self.random.randbytes(LONG))
        self.position = 0
        self.ino = Ino(0)
        self.handles: list[FileHandle] = []

    async def run(self, steps: int) -> None:
        self.mount.fs.put(b"/f", bytes(self.known))
        self.ino = (await self.mount.look(HOME + b"/f")).ino
        for _ in range(2):
            await self.opens()
        ways = [self.reads_on] * 6 + [self.reads, self.writes, self.writes_on]
        ways += [self.truncates, self.flushes, self.leaves, self.looks, self.reopens]
        for _ in range(steps):
            await self.random.choice(ways)()
        for fh in self.handles:
            await self.files.release(fh)

    async def opens(self) -> None:
        opened = await self.files.open(self.ino, os.O_RDWR, CALLER)
        self.handles.append(opened.fh)

    def handle(self) -> FileHandle:
        return self.random.choice(self.handles)

    async def reads(self) -> None:
        self.position = self.random.randrange(LONG)
        await self.reads_on()

    async def reads_on(self) -> None:
        size = self.random.choice([4 * KIB, 128 * KIB])
        data = await self.files.read(self.handles[0], self.position, size)
        assert bytes(data) == self.known[self.position : self.position + size]
        self.position += size
        if self.position >= len(self.known):
            self.position = 0

    async def writes(self, at: int | None = None) -> None:
        at = self.random.randrange(LONG) if at is None else at
        data = self.random.randbytes(self.random.choice([1, 4 * KIB, 300 * KIB]))
        await self.files.write(self.handle(), at, data)
        self.known.extend(bytes(max(0, at - len(self.known))))
        self.known[at : at + len(data)] = data

    async def writes_on(self) -> None:
        await self.writes(len(self.known))

    async def truncates(self) -> None:
        size = self.random.randrange(LONG)
        change = AttrChange(size=size)
        await self.mount.tree.nodes.setattr(self.ino, change, CALLER)
        del self.known[size:]
        self.known.extend(bytes(size - len(self.known)))

    async def flushes(self) -> None:
        await self.files.fsync(self.handle())
        assert self.mount.fs.node(b"/f").content == self.known

    async def leaves(self) -> None:
        with trio.move_on_after(self.random.random()):
            await self.files.read(self.handles[0], self.position, 128 * KIB)

    async def looks(self) -> None:
        node = await self.mount.tree.nodes.getattr(self.ino, CALLER)
        assert node.attrs.size == len(self.known)

    async def reopens(self) -> None:
        await self.files.release(self.handles.pop())
        await self.opens()


async def play(seed: int, budget_bytes: int) -> None:
    budget = Budget(budget_bytes)
    mount = mounted(make=AnswersInAnyOrder, budget=budget)
    program = Program(seed, mount)
    await program.run(120)
    tree = mount.source.tree(WEB01)
    assert isinstance(tree, FakeTree)
    assert tree.capabilities == EVERYTHING == Device().capabilities
    assert mount.fs.node(b"/f").content == program.known
    await trio.sleep(60)
    assert budget.held_bytes == 0
    assert tree.open_files == 0


@settings(max_examples=100)
@given(
    seed=st.integers(0, 1 << 30),
    budget_bytes=st.sampled_from([0, 400 * KIB, 128 << 20]),
)
def test_a_program_reads_what_it_wrote(seed: int, budget_bytes: int) -> None:
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(play, seed, budget_bytes, clock=clock)
