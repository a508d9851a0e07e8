"""Servers that give one handle twice: no file is ever taken for another."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import trio

from pamfs.model import RemotePath
from pamfs.transport.base import RemoteFile
from pamfs.transport.sftp import handles
from pamfs.transport.sftp.tree import SftpTree
from tests.conftest import LogLedger
from tests.contracts.implementations import Sftp, sftp_over_asyncssh, tree_on
from tests.contracts.promise import (
    NEW,
    READ,
    WRITE,
    content_of,
    names_in,
    refused,
    under,
)
from tests.fakes.packets import (
    AnswersNoClose,
    GivesTwo,
    IsBusyOnce,
    NumbersAsErlang,
    NumbersSoLater,
)
from tests.fakes.servers import IgnoresExclusive

TWO = "acme/root@web01: the server gives no more than 2 handles that are distinct"
DOUBLED = "acme/root@web01: the server gave handle b'1' while another"
NAMES = [b"a", b"b", b"c"]


@contextmanager
def server_that(
    numbers: type[NumbersAsErlang],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: type[asyncssh.SFTPServer] = asyncssh.SFTPServer,
) -> Iterator[tuple[Sftp, RemotePath]]:
    """Serve a folder with three files that hold their names."""
    monkeypatch.setattr(asyncssh.sftp, "SFTPServerHandler", numbers)
    with sftp_over_asyncssh(folder, server) as sftp:
        here = sftp.new_folder("here")
        for name in NAMES:
            Path(under(here, name).decode()).write_bytes(name * 3)
        yield sftp, here


async def open_all(
    tree: SftpTree, here: RemotePath, names: Sequence[bytes]
) -> list[RemoteFile]:
    return [(await tree.open(under(here, name), READ | WRITE))[0] for name in names]


async def test_no_more_handles_are_held_than_are_distinct(
    tmp_path: Path, expect_log: LogLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect_log(TWO)
    monkeypatch.setattr(handles, "PATIENCE_S", 0.1)
    with server_that(NumbersAsErlang, tmp_path, monkeypatch) as (sftp, here):
        async with tree_on(sftp) as tree:
            assert tree.capabilities.max_open_handles == 2
            one, other = await open_all(tree, here, [b"a", b"b"])
            with refused(errno.EMFILE):
                await tree.open(under(here, b"c"), READ)
            with refused(errno.EMFILE):
                await tree.list_dir(here)
            assert await one.read_at(0, 9) == b"aaa"
            assert await other.read_at(0, 9) == b"bbb"
            await one.close()
            assert await names_in(tree, here) == set(NAMES)
            assert await content_of(tree, under(here, b"c")) == b"ccc"
            await other.write_at(3, b"!")
            await other.close()
            assert await content_of(tree, under(here, b"b")) == b"bbb!"


async def test_an_open_waits_for_a_handle_that_is_given_back(
    tmp_path: Path, expect_log: LogLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect_log(TWO)
    found: dict[bytes, bytes] = {}
    with server_that(NumbersAsErlang, tmp_path, monkeypatch) as (sftp, here):
        async with tree_on(sftp) as tree:

            async def read(name: bytes) -> None:
                found[name] = bytes(await content_of(tree, under(here, name)))

            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    for name in NAMES:
                        nursery.start_soon(read, name)
                    nursery.start_soon(tree.list_dir, here)
            assert found == {name: name * 3 for name in NAMES}


async def test_whoever_leaves_while_it_waits_takes_no_handle_along(
    tmp_path: Path, expect_log: LogLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect_log(TWO)
    with server_that(NumbersAsErlang, tmp_path, monkeypatch) as (sftp, here):
        async with tree_on(sftp) as tree:
            held = await open_all(tree, here, [b"a", b"b"])
            with trio.move_on_after(0.05) as scope:
                await tree.list_dir(here)
            assert scope.cancelled_caught
            for file in held:
                await file.close()
            for file in await open_all(tree, here, [b"a", b"c"]):
                await file.close()


async def test_a_file_whose_handle_is_given_again_is_used_no_more(
    tmp_path: Path, expect_log: LogLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect_log(DOUBLED)
    expect_log(TWO)
    with server_that(NumbersSoLater, tmp_path, monkeypatch) as (sftp, here):
        async with tree_on(sftp) as tree:
            assert tree.capabilities.max_open_handles == 0
            one, other = await open_all(tree, here, [b"a", b"b"])
            with refused(errno.EIO):
                await tree.open(under(here, b"c"), READ)
            with refused(errno.ESTALE):
                await other.read_at(0, 9)
            with refused(errno.ESTALE):
                await other.write_at(0, b"x")
            with refused(errno.ESTALE):
                await other.stat()
            with refused(errno.ESTALE):
                await other.fsync()
            assert await one.read_at(0, 9) == b"aaa"
            await one.close()
            with pytest.raises(Exception, match="close"):
                await other.close()  # the server closed it with the third
            # What was seen counts.
            assert tree.capabilities.max_open_handles == 2
            for name in NAMES:
                assert await content_of(tree, under(here, name)) == name * 3


async def test_a_listing_whose_handle_is_given_twice_shows_nothing(
    tmp_path: Path, expect_log: LogLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect_log(DOUBLED)
    with server_that(NumbersSoLater, tmp_path, monkeypatch) as (sftp, here):
        async with tree_on(sftp) as tree:
            one, other = await open_all(tree, here, [b"a", b"b"])
            with refused(errno.EIO):
                await tree.list_dir(here)
            with refused(errno.ESTALE):
                await other.read_at(0, 9)
            await one.close()
            assert await names_in(tree, here) == set(NAMES)


async def test_a_handle_counts_as_held_until_its_close_is_answered(
    tmp_path: Path, expect_log: LogLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a close that nothing waits for: the server may read it behind an open."""
    expect_log("acme/root@web01: the server gave handle b'0' while another")
    with server_that(AnswersNoClose, tmp_path, monkeypatch) as (sftp, here):
        async with tree_on(sftp) as tree:
            assert await names_in(tree, here) == set(NAMES)
            with refused(errno.EIO):
                await tree.open(under(here, b"a"), READ)


@pytest.mark.parametrize("server", [GivesTwo, IsBusyOnce])
async def test_a_refusal_in_the_trial_is_no_limit(
    server: type[NumbersAsErlang], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server_that(server, tmp_path, monkeypatch) as (sftp, here):
        async with tree_on(sftp) as tree:
            assert tree.capabilities.max_open_handles == 0
            assert await names_in(tree, here) == set(NAMES)


async def test_a_server_that_lists_no_home_is_used_without_a_limit(
    tmp_path: Path,
) -> None:
    class ListsNoHome(asyncssh.SFTPServer):
        """Refuses to list the folder that a session begins in."""

        def scandir(self, path: bytes) -> Any:
            if path == b".":
                raise asyncssh.SFTPPermissionDenied("no")
            return super().scandir(path)

    with sftp_over_asyncssh(tmp_path, ListsNoHome) as sftp:
        here = sftp.new_folder("here")
        async with tree_on(sftp) as tree:
            assert tree.capabilities.max_open_handles == 0
            assert await names_in(tree, here) == set()


async def test_an_exclusive_open_of_what_is_there_keeps_no_handle_where_few_are(
    tmp_path: Path, expect_log: LogLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Erlang ignores EXCL: a handle that is left open was one of two."""
    expect_log(TWO)
    monkeypatch.setattr(handles, "PATIENCE_S", 0.1)
    site = server_that(NumbersAsErlang, tmp_path, monkeypatch, IgnoresExclusive)
    with site as (sftp, here):
        os.mknod(under(here, b"empty"))
        os.symlink(b"nowhere", under(here, b"link"))
        for name in (b"a", b"empty", b"link"):
            async with tree_on(sftp) as tree:
                with refused(errno.EEXIST):
                    await tree.open(under(here, name), NEW, 0o600)
                one, other = await open_all(tree, here, [b"b", b"c"])
                await one.close()
                await other.close()
                assert await content_of(tree, under(here, b"a")) == b"aaa"
