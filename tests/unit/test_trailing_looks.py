"""The looks at what became of writes: each waits for its own, and no longer."""

from __future__ import annotations

import errno
import os

import pytest
import trio
from trio.testing import MockClock

from pamfs.errors import RemoteError
from pamfs.model import AttrChange, Name
from tests.conftest import LogLedger
from tests.fakes.faults import KeepsModes
from tests.fakes.mounted import CALLER, WEB01, Mounted, mounted
from tests.fakes.remote import Device, FakeTree

HOME = b"acme/root@web01"


async def ready(
    latency_s: float = 1, make: type[FakeTree] = FakeTree
) -> tuple[Mounted, FakeTree]:
    mount = mounted(make=make)
    mount.fs.put(b"/f", b"none")
    await mount.look(HOME + b"/f")
    tree = mount.source.tree(WEB01)
    assert isinstance(tree, FakeTree)
    tree.device = Device(latency_s=latency_s)
    return mount, tree


async def test_a_flush_waits_for_no_looks_of_others(autojump_clock: MockClock) -> None:
    mount, _ = await ready()
    files = mount.tree.files
    ino = (await mount.look(HOME + b"/f")).ino
    fh = (await files.open(ino, os.O_RDWR, CALLER)).fh
    took: list[float] = []

    async def store(number: int) -> None:
        began = trio.current_time()
        await files.write(fh, number * 4, b"data")
        await files.flush(fh)
        took.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(store, number)
            await trio.sleep(0.4)
    # At most a look that is on its way already, and one of its own.
    assert max(took) <= 2.1


async def test_nothing_is_settled_while_somebody_wants_a_look(
    autojump_clock: MockClock,
) -> None:
    mount, tree = await ready()
    files = mount.tree.files
    ino = (await mount.look(HOME + b"/f")).ino
    fh = (await files.open(ino, os.O_RDWR, CALLER)).fh
    inode = mount.tree.inodes.get(ino)
    await files.write(fh, 0, b"data")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(files.flush, fh)
        await trio.sleep(0.5)
        nursery.start_soon(files.flush, fh)
        await trio.sleep(1)
        assert tree.calls["fstat"] == 2
        assert inode.unstored is not None
    assert inode.unstored is None


async def test_what_a_look_says_is_as_old_as_its_question(
    autojump_clock: MockClock,
) -> None:
    mount, _ = await ready()
    files = mount.tree.files
    ino = (await mount.look(HOME + b"/f")).ino
    fh = (await files.open(ino, os.O_RDWR, CALLER)).fh
    await files.write(fh, 0, b"data")
    began = trio.current_time()
    await files.flush(fh)
    inode = mount.tree.inodes.get(ino)
    assert not inode.is_stale
    assert inode.seen_at == began < trio.current_time()


async def test_a_change_that_a_revocation_cut_off_is_stale(
    autojump_clock: MockClock, expect_log: object
) -> None:
    assert callable(expect_log)
    expect_log("acme/root@web01/g: data was not stored")
    mount, tree = await ready()
    files = mount.tree.files
    home = (await mount.look(HOME)).ino
    where = (home, Name(b"g"))
    opened, node = await files.create(where, os.O_WRONLY, 0o600, CALLER)
    await files.write(opened.fh, 0, b"data")
    await mount.tree.nodes.setattr(node.ino, AttrChange(mode=0o640), CALLER)
    await trio.sleep(1.5)  # the write is stored, the change is on its way
    mount.tree.session_revoked(WEB01)
    tree.lose()
    with pytest.raises(RemoteError) as caught:
        await files.flush(opened.fh)
    assert caught.value.code == errno.ESTALE


async def test_a_mode_that_the_device_refuses_is_not_told_as_lost_data(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("acme/root@web01/g: its mode and times were not set: fsetstat: EPERM")
    mount, _ = await ready(make=KeepsModes)
    files = mount.tree.files
    home = (await mount.look(HOME)).ino
    opened, node = await files.create((home, Name(b"g")), os.O_WRONLY, 0o600, CALLER)
    await files.write(opened.fh, 0, b"data")
    await mount.tree.nodes.setattr(node.ino, AttrChange(mode=0o640), CALLER)
    with pytest.raises(RemoteError) as caught:
        await files.flush(opened.fh)
    assert caught.value.code == errno.EPERM
