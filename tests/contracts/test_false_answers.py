"""Servers that say OK and do something else, or nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from pamfs.model import AttrChange, RemotePath
from pamfs.transport.sftp.tree import SftpTree
from tests.conftest import LogLedger
from tests.contracts.implementations import sftp_over_asyncssh, tree_on
from tests.contracts.promise import (
    NEW,
    READ,
    WRITE,
    content_of,
    opened,
    refused,
    store,
    under,
)
from tests.fakes.servers import (
    EmptiesToResize,
    LinksKeepTheirMode,
    RefusesToRename,
    RenameReplaces,
    SetstatDoesNothing,
    ShowsWhatIsClosed,
    WritesBehindTruncate,
)
from tests.limits import HANG_S

BOTH = READ | WRITE
NANOS = 1_000_000_000


async def test_a_size_that_is_there_already_is_not_set_where_that_loses_content(
    tmp_path: Path, expect_log: LogLedger
) -> None:
    """``rsync --append`` and a longer ``--inplace`` end with such an ftruncate."""
    expect_log("acme/root@web01: a file whose size is changed loses what it holds")
    with sftp_over_asyncssh(tmp_path, EmptiesToResize) as sftp:
        path = under(sftp.new_folder("here"), b"f")
        change = AttrChange(size=6, mode=0o604)
        async with tree_on(sftp) as tree:
            await store(tree, path, b"123456")
            async with opened(tree, path, BOTH) as file:
                assert (await file.set_attrs(AttrChange(size=6))).size == 6
                assert await file.read_at(0, 9) == b"123456"
            attrs = await tree.set_attrs(path, change)
            assert (attrs.size, stat.S_IMODE(attrs.mode)) == (6, 0o604)
            assert await content_of(tree, path) == b"123456"


@pytest.mark.parametrize("size", [2, 9])
async def test_a_change_of_size_that_would_lose_content_is_refused(
    tmp_path: Path, size: int, expect_log: LogLedger
) -> None:
    expect_log("acme/root@web01: a file whose size is changed loses what it holds")
    with sftp_over_asyncssh(tmp_path, EmptiesToResize) as sftp:
        folder = sftp.new_folder("here")
        path = under(folder, b"f")
        async with tree_on(sftp) as tree:
            await store(tree, path, b"123456")
            with refused(errno.EOPNOTSUPP):
                await tree.set_attrs(path, AttrChange(size=size))
            async with opened(tree, path, BOTH) as file:
                with refused(errno.EOPNOTSUPP):
                    await file.set_attrs(AttrChange(size=size))
            assert await content_of(tree, path) == b"123456"
            # Nothing is lost by these, and nothing is left of the trial.
            assert (await tree.set_attrs(path, AttrChange(size=0))).size == 0
            assert (await tree.set_attrs(path, AttrChange(size=4))).size == 4
            assert os.listdir(folder) == [b"f"]


async def test_a_mode_that_a_link_does_not_take_is_refused(tmp_path: Path) -> None:
    with sftp_over_asyncssh(tmp_path, LinksKeepTheirMode) as sftp:
        path = under(sftp.new_folder("here"), b"link")
        async with tree_on(sftp) as tree:
            await tree.symlink(b"f", path)
            with refused(errno.EOPNOTSUPP):
                await tree.set_attrs(path, AttrChange(mode=0o600))
            # The mode that it has, and the times, are no reason to refuse.
            change = AttrChange(mode=0o777, atime_ns=5 * NANOS, mtime_ns=6 * NANOS)
            assert (await tree.set_attrs(path, change)).mtime_ns == 6 * NANOS


async def test_a_log_that_is_written_to_can_be_cut(tmp_path: Path) -> None:
    with sftp_over_asyncssh(tmp_path, WritesBehindTruncate) as sftp:
        path = under(sftp.new_folder("here"), b"f")
        async with tree_on(sftp) as tree:
            await store(tree, path, b"123456")
            WritesBehindTruncate.lines = 2
            assert (await tree.set_attrs(path, AttrChange(size=0))).size == 0
            async with opened(tree, path, BOTH) as file:
                WritesBehindTruncate.lines = 2
                assert (await file.set_attrs(AttrChange(size=3))).size == 3


async def test_a_size_that_was_not_set_is_an_error_and_told_once(
    tmp_path: Path, expect_log: LogLedger
) -> None:
    expect_log(r"acme/root@web01: the server says OK to F?SETSTAT and leaves the size")
    with sftp_over_asyncssh(tmp_path, SetstatDoesNothing) as sftp:
        path = under(sftp.new_folder("here"), b"f")
        async with tree_on(sftp) as tree:
            await store(tree, path, b"123456")
            for size in (2, 0, 9):
                with refused(errno.EIO):
                    await tree.set_attrs(path, AttrChange(size=size))
                async with opened(tree, path, BOTH) as file:
                    with refused(errno.EIO):
                        await file.set_attrs(AttrChange(size=size))
            # What is so already is no lie.
            assert (await tree.set_attrs(path, AttrChange(size=6))).size == 6
            assert await content_of(tree, path) == b"123456"
    assert expect_log.count("leaves the size") == 1


async def test_mode_owner_and_times_that_were_not_set_are_shown_as_they_are(
    tmp_path: Path,
) -> None:
    change = AttrChange(mode=0o604, atime_ns=5 * NANOS, mtime_ns=7 * NANOS)
    with sftp_over_asyncssh(tmp_path, SetstatDoesNothing) as sftp:
        path = under(sftp.new_folder("here"), b"f")
        async with tree_on(sftp) as tree:
            async with opened(tree, path, NEW, 0o640) as file:
                await file.write_at(0, b"123456")
                assert await file.set_attrs(change) == await file.stat()
            attrs = await tree.set_attrs(path, change)
            assert attrs == await tree.lstat(path)
            assert stat.S_IMODE(attrs.mode) == 0o640


async def test_a_rename_that_must_not_replace_does_not(tmp_path: Path) -> None:
    with sftp_over_asyncssh(tmp_path, RenameReplaces) as sftp:
        here = sftp.new_folder("here")
        old, new = under(here, b"old"), under(here, b"new")
        async with tree_on(sftp) as tree:
            await store(tree, old, b"old")
            await store(tree, new, b"new")
            with refused(errno.EEXIST):
                await tree.rename(old, new, replace=False)
            assert await content_of(tree, new) == b"new"
            await tree.rename(old, under(here, b"other"), replace=False)
            assert await content_of(tree, under(here, b"other")) == b"old"


async def test_a_file_that_shows_only_when_it_is_closed_is_reached_by_its_handle(
    tmp_path: Path,
) -> None:
    change = AttrChange(mode=0o604, atime_ns=5 * NANOS, mtime_ns=7 * NANOS)
    with sftp_over_asyncssh(tmp_path, ShowsWhatIsClosed) as sftp:
        here = sftp.new_folder("here")
        path, new = under(here, b"f"), under(here, b"new")
        async with tree_on(sftp) as tree:
            file, made = await tree.open(path, NEW, 0o640)
            assert stat.S_IMODE(made.mode) == 0o640
            await file.write_at(0, b"123456")
            assert (await tree.lstat(path)).size == 6
            assert stat.S_IMODE((await file.set_attrs(change)).mode) == 0o604
            async with trio.open_nursery() as nursery:
                # As after close(2): the kernel gives the handle back behind it.
                nursery.start_soon(rename, tree, path, new)
                await trio.testing.wait_all_tasks_blocked()
                await file.close()
            assert await content_of(tree, new) == b"123456"
            assert stat.S_IMODE((await tree.lstat(new)).mode) == 0o604
            with refused(errno.ENOENT):
                await tree.lstat(path)


async def test_a_file_that_shows_before_the_refusal_is_understood_is_asked_for_again(
    tmp_path: Path,
) -> None:
    RefusesToRename.asked = threading.Event()
    RefusesToRename.may_refuse = asyncio.Event()
    with sftp_over_asyncssh(tmp_path, RefusesToRename) as sftp:
        here = sftp.new_folder("here")
        path, new = under(here, b"f"), under(here, b"new")
        async with tree_on(sftp) as tree:
            file, _ = await tree.open(path, NEW, 0o640)
            await file.write_at(0, b"123456")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rename, tree, path, new)
                await trio.to_thread.run_sync(RefusesToRename.asked.wait, HANG_S)
                nursery.start_soon(file.close)
                await trio.testing.wait_all_tasks_blocked()
                # The close is answered right behind the refusal.
                sftp.soon(RefusesToRename.may_refuse.set)
            assert await content_of(tree, new) == b"123456"


async def rename(tree: SftpTree, old: RemotePath, new: RemotePath) -> None:
    await tree.rename(old, new, replace=True)
