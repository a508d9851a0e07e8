"""What is read or listed ahead is recorded, however that ends."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import trio
from trio.testing import MockClock

from pamfs.model import Name
from pamfs.vfs.audit_records import AuditRecorder
from pamfs.vfs.names.inodes import InodeTable
from tests.fakes.heard import Heard
from tests.fakes.memory import MemoryFs
from tests.fakes.mounted import CALLER, WEB01, mounted
from tests.fakes.remote import Device, FakeTree

HOME = b"acme/root@web01"
RTT_S = 0.1


class Far(FakeTree):
    def __init__(self, fs: MemoryFs) -> None:
        super().__init__(fs, Device(latency_s=RTT_S))


async def test_a_session_that_is_lost_is_recorded_for_each_file(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()
    mount = mounted(make=Far, audit=heard)
    for number in range(20):
        mount.fs.put(b"/%02d" % number, b"content")
    home = (await mount.look(HOME)).ino
    directories, files = mount.tree.directories, mount.tree.files
    folder = await directories.open(home, CALLER)
    for entry in await directories.entries(folder, 0):
        directories.listed(folder, entry)
    for number in range(3):
        node = await mount.tree.nodes.lookup(home, Name(b"%02d" % number), CALLER)
        fh = (await files.open(node.ino, os.O_RDONLY, CALLER)).fh
        await files.read(fh, 0, 100)
        await files.flush(fh)
    device = mount.source.tree(WEB01)
    assert device is not None
    await trio.sleep(1.5 * RTT_S)  # they are open, and the content is on its way
    assert device.calls["read_at"] == 3 + 8
    device.lose()
    await trio.sleep(1)
    told = [one for one in heard.records if one["event"] == "read_ahead"]
    assert [one.get("error") for one in told] == ["EIO"] * 8
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


def reading(
    recorder: AuditRecorder, inodes: InodeTable
) -> AbstractContextManager[None]:
    return recorder.reading_ahead(CALLER, inodes.root, 5)


def listing(
    recorder: AuditRecorder, inodes: InodeTable
) -> AbstractContextManager[None]:
    return recorder.listing_ahead(CALLER, inodes.root, [Name(b"d")])


@pytest.mark.parametrize("what", [reading, listing])
async def test_what_is_cut_short_is_recorded(
    what: Callable[[AuditRecorder, InodeTable], AbstractContextManager[None]],
) -> None:
    heard, inodes = Heard(), InodeTable()
    with trio.CancelScope() as scope, what(AuditRecorder(heard, inodes), inodes):
        scope.cancel()
        await trio.lowlevel.checkpoint()
    (record,) = heard.records
    assert record["error"] == "Cancelled"
