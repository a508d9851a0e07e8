"""A read sees what was written, or changed before the last open, and nothing older."""

from __future__ import annotations

import os

import pytest
import trio
from trio.testing import MockClock

from tests.fakes.memory import MemoryFs
from tests.fakes.mounted import CALLER, mounted
from tests.fakes.remote import Device, FakeTree

KIB = 1 << 10
SIZE = 8 << 20
PIECE = 100
WRITTEN = (7 << 20, (7 << 20) + 5000, *range(300 * KIB, 4 << 20, 200_001))


class Far(FakeTree):
    """A device a tenth of a second away."""

    def __init__(self, fs: MemoryFs | None = None) -> None:
        super().__init__(fs, Device(latency_s=0.1))


@pytest.mark.parametrize("delay_s", [0.05, 0.13, 0.17, 0.25, 0.41])
async def test_two_reads_at_once_fetch_nothing_older_than_a_write(
    autojump_clock: MockClock, delay_s: float
) -> None:
    mount = mounted(make=Far)
    mount.fs.put(b"/f", b"o" * SIZE)
    files = mount.tree.files
    ino = (await mount.look(b"acme/root@web01/f")).ino
    reader = (await files.open(ino, os.O_RDONLY, CALLER)).fh
    writer = (await files.open(ino, os.O_RDWR, CALLER)).fh
    answered: set[int] = set()
    old: list[int] = []

    async def write() -> None:
        await trio.sleep(delay_s)
        for offset in WRITTEN:
            await files.write(writer, offset, b"N" * PIECE)
            answered.add(offset)

    async def read(start: int) -> None:
        stop = start + 128 * KIB
        known = {n for n in answered if start <= n <= stop - PIECE}
        data = bytes(await files.read(reader, start, stop - start))
        new = b"N" * PIECE
        old.extend(n for n in known if data[n - start : n - start + PIECE] != new)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        for start in range(0, SIZE, 128 * KIB):
            # The kernel asks for the next piece before it has this one.
            nursery.start_soon(read, start + 128 * KIB)
            await read(start)
            await trio.sleep(0.01)
    assert answered == set(WRITTEN)
    assert old == []


async def test_an_open_leaves_no_older_bytes_to_another_reader(
    autojump_clock: MockClock,
) -> None:
    mount = mounted(make=Far)
    mount.fs.put(b"/f", b"o" * SIZE)
    files = mount.tree.files
    ino = (await mount.look(b"acme/root@web01/f")).ino
    reader = (await files.open(ino, os.O_RDONLY, CALLER)).fh
    await files.read(reader, 0, 128 * KIB)
    await trio.sleep(0.2)
    # Another machine writes within the second: neither size nor time tell of it.
    mount.fs.node(b"/f").content[:] = b"N" * SIZE
    opened = await files.open(ino, os.O_RDONLY, CALLER)
    assert not opened.keep_cache
    # The kernel has one set of pages for both.
    assert bytes(await files.read(reader, 128 * KIB, KIB)) == b"N" * KIB
