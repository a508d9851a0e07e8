"""A second open for writing happens only where the server is known to keep content."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import trio

from pamfs.config import Quirk
from pamfs.errors import RemoteError
from pamfs.model import AttrChange
from pamfs.transport.base import OpenMode
from pamfs.transport.sftp import striping
from pamfs.transport.sftp.server import extensions_of, keeps_shared_writes
from tests.contracts.implementations import sftp_over_asyncssh, sftp_over_openssh
from tests.contracts.long_files import (
    CONTENT,
    content_at,
    grow,
    handles_of,
    long_content,
    make_far,
    write_all,
)
from tests.contracts.promise import NEW, WRITE, under
from tests.fakes.openssh import SFTP_SERVER
from tests.fakes.servers import AnswersOneOpen, EmptiesForWriting
from tests.limits import HANG_S

SHARED = frozenset({Quirk.SHARED_WRITES})


@pytest.fixture(autouse=True)
def everything_is_far(monkeypatch: pytest.MonkeyPatch) -> None:
    make_far(monkeypatch)


async def test_a_server_that_empties_files_gets_one_open(tmp_path: Path) -> None:
    with (
        sftp_over_asyncssh(tmp_path, EmptiesForWriting) as device,
        trio.fail_after(HANG_S),
    ):
        path = under(device.new_folder("f"), b"f")
        async with trio.open_nursery() as nursery:
            tree, _ = device.wide_tree(nursery, 4)
            file, _ = await tree.open(path, NEW, 0o600)
            await write_all(file)
            await file.close()
        assert content_at(path) == CONTENT
        assert device.asked == 0


async def test_a_handle_that_came_is_closed_if_another_open_is_given_up(
    tmp_path: Path, expect_log: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(expect_log)
    expect_log("opening it a second time for writing may have changed it")
    monkeypatch.setattr(striping, "_LOOK_S", 1.0)
    monkeypatch.setattr(striping, "_NEXT_S", HANG_S)
    with (
        sftp_over_asyncssh(tmp_path, AnswersOneOpen) as device,
        trio.fail_after(HANG_S),
    ):
        path = under(device.new_folder("f"), b"f")
        async with trio.open_nursery() as nursery:
            tree, _ = device.wide_tree(nursery, 3, SHARED)
            file, _ = await tree.open(path, NEW, 0o600)
            with pytest.raises(BaseExceptionGroup):
                await grow(file)
            await file.close()
            assert AnswersOneOpen.further == 2
            await trio.to_thread.run_sync(AnswersOneOpen.all_closed.wait, HANG_S)
            assert not AnswersOneOpen.held


async def test_a_wrong_quirk_is_an_error_and_no_success(
    tmp_path: Path, expect_log: object
) -> None:
    assert callable(expect_log)
    expect_log("opening it a second time for writing changed it")
    with (
        sftp_over_asyncssh(tmp_path, EmptiesForWriting) as device,
        trio.fail_after(HANG_S),
    ):
        path = under(device.new_folder("f"), b"f")
        async with trio.open_nursery() as nursery:
            tree, _ = device.wide_tree(nursery, 4, SHARED)
            file, _ = await tree.open(path, NEW, 0o600)
            with pytest.raises(BaseExceptionGroup) as caught:
                await grow(file)
            refused, others = caught.value.split(RemoteError)
            assert refused is not None
            assert others is None
            with pytest.raises(RemoteError) as later:
                await file.write_at(0, b"more")
            assert later.value.code == errno.EIO
            await file.close()


async def test_a_quirk_lets_a_server_that_keeps_content_be_shared(
    tmp_path: Path,
) -> None:
    with sftp_over_asyncssh(tmp_path) as device, trio.fail_after(HANG_S):
        path = under(device.new_folder("f"), b"f")
        async with trio.open_nursery() as nursery:
            tree, _ = device.wide_tree(nursery, 4, SHARED)
            file, _ = await tree.open(path, NEW, 0o600)
            end = await grow(file)
            assert handles_of(file) == 4
            await write_all(file, end, end + len(CONTENT))
            await file.close()
        assert content_at(path) == long_content(end + len(CONTENT))


async def test_a_file_that_does_not_grow_is_opened_once(tmp_path: Path) -> None:
    with sftp_over_openssh(tmp_path) as device, trio.fail_after(HANG_S):
        path = under(device.new_folder("f"), b"f")
        async with trio.open_nursery() as nursery:
            tree, _ = device.wide_tree(nursery, 4)
            file, _ = await tree.open(path, WRITE | OpenMode.CREATE, 0o600)
            await file.set_attrs(AttrChange(size=1 << 40))
            await grow(file)
            assert handles_of(file) == 1
            sent = [client._handler._next_pktid for client in device.opened]
            await file.close()
    # The limits alone: no file was opened there.
    assert sent == [1, 1, 1]


def knows(folder: Path, command: str) -> bool:
    folder.mkdir()
    with sftp_over_openssh(folder, command) as device:
        assert extensions_of(device.client)
        return keeps_shared_writes(device.client, frozenset())


def test_openssh_is_known_by_all_its_extensions(tmp_path: Path) -> None:
    assert knows(tmp_path / "whole", SFTP_SERVER)
    assert not knows(tmp_path / "some", f"{SFTP_SERVER} -P lsetstat")


def test_asyncssh_is_not_taken_for_openssh(tmp_path: Path) -> None:
    with sftp_over_asyncssh(tmp_path) as device:
        names = {name for name, _ in extensions_of(device.client)}
        assert b"limits@openssh.com" in names
        assert not keeps_shared_writes(device.client, frozenset())
        assert keeps_shared_writes(device.client, SHARED)
