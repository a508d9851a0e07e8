"""What was seen long ago is not told as new, whatever is done with it since."""

from __future__ import annotations

import os

import trio
from trio.testing import MockClock

from pamfs.model import Attrs, Name, RemotePath
from tests.fakes.mounted import CALLER, WEB01, mounted
from tests.fakes.remote import Device, FakeTree

HOME = b"acme/root@web01"


async def test_a_close_does_not_bring_back_what_was_seen_at_the_open(
    autojump_clock: MockClock,
) -> None:
    mount = mounted()
    mount.fs.put(b"/f", b"old")
    ino = (await mount.look(HOME + b"/f")).ino
    home = (await mount.look(HOME)).ino
    fh = (await mount.tree.files.open(ino, os.O_RDWR, CALLER)).fh
    await trio.sleep(60)
    mount.fs.put(b"/f", b"changed by another")
    await mount.tree.directories.open(home, CALLER)
    await mount.tree.files.release(fh)
    assert (await mount.look(HOME + b"/f")).attrs.size == len(b"changed by another")


class AnswersLate(FakeTree):
    """Its answer to ``link`` takes longer than that to a write after it."""

    async def link(self, old: RemotePath, new: RemotePath) -> Attrs:
        attrs = await super().link(old, new)
        await trio.sleep(5)
        return attrs


async def test_a_file_does_not_shrink_when_it_is_written_while_it_is_linked(
    autojump_clock: MockClock,
) -> None:
    mount = mounted(make=AnswersLate)
    mount.fs.put(b"/f")
    ino = (await mount.look(HOME + b"/f")).ino
    home = (await mount.look(HOME)).ino
    files, tree = mount.tree.files, mount.source.tree(WEB01)
    assert isinstance(tree, FakeTree)
    tree.device = Device(latency_s=1)
    fh = (await files.open(ino, os.O_RDWR, CALLER)).fh

    async with trio.open_nursery() as nursery:
        nursery.start_soon(mount.tree.directories.link, ino, home, Name(b"g"), CALLER)
        await trio.sleep(2)
        await files.write(fh, 0, b"data")
        await files.flush(fh)
    assert (await mount.tree.nodes.getattr(ino, CALLER)).attrs.size == 4
