"""What was seen long ago is not told as new, whatever is done with it since."""

from __future__ import annotations

import os

import trio
from trio.testing import MockClock

from tests.fakes.mounted import CALLER, mounted

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
