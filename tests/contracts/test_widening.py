"""A file gets further ways only if it is proved to be one file, and keeps its times."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import asyncssh
import pytest
import trio

from pamfs.transport import widening
from pamfs.transport.sftp_file import SftpFile
from tests.contracts.implementations import sftp_over_asyncssh
from tests.contracts.long_files import (
    CONTENT,
    content_at,
    make_far,
    widened,
    write_all,
)
from tests.contracts.promise import NEW, under


@pytest.fixture(autouse=True)
def everything_is_far(monkeypatch: pytest.MonkeyPatch) -> None:
    make_far(monkeypatch)


class Timeless(asyncssh.SFTPServer):
    """A server that tells no times, and sets those that it is told."""

    def fstat(self, file_obj: object) -> asyncssh.SFTPAttrs:
        found = super().fstat(file_obj)
        assert isinstance(found, os.stat_result)
        return asyncssh.SFTPAttrs(permissions=found.st_mode, size=found.st_size)


async def test_times_that_are_not_told_are_not_set(tmp_path: Path) -> None:
    with sftp_over_asyncssh(tmp_path, Timeless) as device, trio.fail_after(60):
        path = under(device.new_folder("f"), b"f")
        async with trio.open_nursery() as nursery:
            tree, _ = device.wide_tree(nursery, 4)
            file, _ = await tree.open(path, NEW, 0o600)
            before = await trio.Path(path.decode()).stat()
            await write_all(file)
            assert await widened(file) == 1
            await file.close()
            after = await trio.Path(path.decode()).stat()
    assert after.st_atime_ns == before.st_atime_ns
    assert after.st_mtime_ns >= before.st_mtime_ns
    assert content_at(path) == CONTENT


class Silent(asyncssh.SFTPServer):
    """A server that does not answer who looks at a marked file; not at all then."""

    count = looks = 0
    over: threading.Event
    answers_first = True

    def __init__(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        super().__init__(chan)
        type(self).count += 1
        self._answers = self.answers_first and self.count == 1

    async def fstat(self, file_obj: object) -> os.stat_result:
        found = super().fstat(file_obj)
        assert isinstance(found, os.stat_result)
        if found.st_atime < 2 * widening._MARKS and not self._answers:
            type(self).looks += 1
            await asyncio.to_thread(self.over.wait, 20)
        return found


@pytest.mark.parametrize("answers_first", [True, False])
async def test_a_file_that_cannot_be_looked_at_keeps_one_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, answers_first: bool
) -> None:
    monkeypatch.setattr(widening, "_LOOK_S", 2.0)
    monkeypatch.setattr(widening, "_BACK_S", 2.0)

    class Server(Silent):
        over = threading.Event()

    Server.answers_first = answers_first
    with sftp_over_asyncssh(tmp_path, Server) as device, trio.fail_after(30):
        path = under(device.new_folder("f"), b"f")
        async with trio.open_nursery() as nursery:
            tree, further = device.wide_tree(nursery, 4)
            file, _ = await tree.open(path, NEW, 0o600)
            before = await trio.Path(path.decode()).stat()
            async with trio.open_nursery() as writing:
                writing.start_soon(write_all, file)
                while not isinstance(file, SftpFile) or file._widened is None:
                    await trio.lowlevel.checkpoint()
                count = await widened(file)
                Server.over.set()
            await file.close()
            after = await trio.Path(path.decode()).stat()
    assert count == 1
    assert Server.looks >= 1
    assert not further.refused
    assert (after.st_atime == int(before.st_atime)) is answers_first
    assert after.st_mtime >= int(before.st_mtime)
    assert content_at(path) == CONTENT
