"""Lost data is told of to people, not only to the program that may not look."""

from __future__ import annotations

import errno
import os

import pytest
import trio
from trio.testing import MockClock

from pamfs.errors import LoginRefusedError, RemoteError
from pamfs.model import FileHandle, Target
from pamfs.vfs.lost_data import KEPT, QUIET_S
from tests.conftest import LogLedger
from tests.fakes.faults import FullDisk
from tests.fakes.heard import Heard
from tests.fakes.mounted import CALLER, WEB01, Mounted, mounted
from tests.fakes.remote import Device, FakeTree

HOME = b"acme/root@web01"
LOST = LoginRefusedError("the account is locked")


class Told:
    """A mount whose notices and audit are kept."""

    def __init__(self, make: type[FakeTree] = FakeTree) -> None:
        self.audit, self.notices = Heard(), list[str]()
        self.mount: Mounted = mounted(make=make, audit=self.audit)
        self.tree = self.mount.tree
        self.tree.lost.tell_with(self._told)

    def _told(self, target: Target, text: str) -> None:
        self.notices.append(f"{target}: {text}")

    @property
    def records(self) -> list[dict[str, object]]:
        return [r for r in self.audit.records if r["event"] == "data_lost"]

    async def opened(self, name: bytes) -> FileHandle:
        self.mount.fs.put(b"/" + name)
        ino = (await self.mount.look(HOME + b"/" + name)).ino
        return (await self.tree.files.open(ino, os.O_RDWR, CALLER)).fh

    async def written(self, *names: bytes, data: bytes = b"data") -> FileHandle:
        """Write to files, which is not yet stored; return the last of them."""
        files = [await self.opened(name) for name in names]
        device = self.mount.source.tree(WEB01)
        assert isinstance(device, FakeTree)
        device.device = Device(latency_s=1)
        for fh in files:
            await self.tree.files.write(fh, 0, data)
        device.device = Device()
        return files[-1]

    async def ended(self, fh: FileHandle) -> int | None:
        """Close the file; return what the close reported."""
        try:
            await self.tree.files.flush(fh)
        except RemoteError as exc:
            return exc.code
        except LoginRefusedError as exc:
            return exc.code
        finally:
            await self.tree.files.release(fh)
        return None


async def test_data_of_a_session_that_cannot_be_had_again_is_told_to_people(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("acme/root@web01/f: data was not stored: the account is locked")
    told = Told()
    fh = await told.written(b"f", data=b"x" * 1000)
    told.tree.files.writes.abandon(LOST, WEB01)
    (notice,) = told.notices
    assert notice == (
        "acme/root@web01: data that a program has written is not stored (the account"
        " is locked); pamfs status names the files"
    )
    (record,) = told.records
    assert (record["path"], record["bytes_lost"]) == ("acme/root@web01/f", 1000)
    assert record["error"] == "EACCES"
    # Also when the program was told: it may not have looked, or be a memory map.
    assert await told.ended(fh) == errno.EACCES
    (lost,) = told.tree.lost.unread()
    assert str(lost) == "acme/root@web01/f: 1000 bytes: the account is locked"
    assert (lost.pid, lost.uid) == (CALLER.pid, CALLER.uid)
    assert told.tree.unstored() == [str(lost)]
    assert len(told.records) == len(told.notices) == 1


async def test_what_was_read_is_not_shown_again_and_what_came_after_is(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("data was not stored")
    told = Told()
    first = await told.written(b"f")
    told.tree.files.writes.abandon(LOST)
    (seen,) = told.tree.lost.unread()
    second = await told.written(b"g")
    told.tree.files.writes.abandon(LOST)
    told.tree.lost.was_read(seen.number)
    assert [lost.path for lost in told.tree.lost.unread()] == ["acme/root@web01/g"]
    await told.ended(first)
    await told.ended(second)
    assert len(told.tree.unstored()) == 1


async def test_many_files_are_one_notice_a_minute(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("data was not stored")
    told = Told()
    await told.written(*(b"f%d" % number for number in range(10)))
    told.tree.files.writes.abandon(LOST)
    assert len(told.notices) == 1
    assert len(told.records) == len(told.tree.lost.unread()) == 10
    await trio.sleep(QUIET_S)
    await told.written(b"later")
    told.tree.files.writes.abandon(LOST)
    assert len(told.notices) == 2


async def test_what_a_device_refuses_is_told_by_the_close_alone(
    expect_log: LogLedger,
) -> None:
    expect_log("data was not stored: write_at: ENOSPC")
    told = Told(FullDisk)
    fh = await told.written(b"f")
    assert await told.ended(fh) == errno.ENOSPC
    assert not told.notices + told.records + list(told.tree.unstored())


async def test_what_nobody_asked_about_is_told_to_people(
    expect_log: LogLedger,
) -> None:
    """A program that is killed closes without a flush that anybody waits for."""
    expect_log("data was not stored: write_at: ENOSPC")
    told = Told(FullDisk)
    fh = await told.written(b"f")
    await told.tree.files.release(fh)
    assert len(told.notices) == len(told.records) == len(told.tree.unstored()) == 1


@pytest.mark.parametrize("count", [KEPT, KEPT + 7])
async def test_the_list_has_an_end(count: int) -> None:
    told = Told()
    lost = told.tree.lost
    fh = await told.opened(b"f")
    file = told.tree.handles.file(fh)
    told.tree.coherence.write_lost(file.inode, LOST)
    for number in range(count):
        file.inode.former_path, file.is_noted = f"acme/root@web01/{number}", False
        lost.note(file, LOST)
    assert len(lost.unread()) == KEPT
    assert lost.more == count - KEPT
    lines = told.tree.unstored()
    assert lines[-1].startswith("and 7 more") is (count > KEPT)
