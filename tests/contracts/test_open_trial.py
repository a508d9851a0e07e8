"""Servers whose open does more than it was asked for lose nothing of a user's."""

from __future__ import annotations

import errno
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.constants import (
    FX_BAD_MESSAGE,
    FX_FAILURE,
    FX_OP_UNSUPPORTED,
    FXF_CREAT,
    FXF_WRITE,
)

from pamfs.model import RemotePath
from pamfs.transport.base import OpenMode
from tests.conftest import LogLedger
from tests.contracts.implementations import (
    Sftp,
    sftp_over_asyncssh,
    sftp_over_openssh,
    tree_on,
)
from tests.contracts.long_files import content_at
from tests.contracts.promise import (
    NEW,
    READ,
    WRITE,
    content_of,
    names_in,
    opened,
    refused,
    store,
    under,
)
from tests.contracts.promises_files import FILES
from tests.fakes.far import FarAway
from tests.fakes.servers import (
    EmptiesAndTellsNothing,
    EmptiesForWriting,
    EmptiesForWritingAlone,
    EmptiesNothing,
    EmptiesOnlyOthers,
    GoesByNames,
    IgnoresExclusive,
    IgnoresTruncate,
    IgnoresTruncateAndTellsNoSize,
    Opens,
    OpensOnlyNewFiles,
    RefusesFstat,
    RefusesSizes,
)

APPEND = WRITE | OpenMode.APPEND
BOTH = READ | WRITE
EMPTY = WRITE | OpenMode.TRUNCATE
REFUSED = "appending and changing in place are refused"


def remove(path: RemotePath) -> None:
    Path(path.decode()).unlink()


def counted(server: type[Opens]) -> type[Opens]:
    return type(server.__name__, (server,), {"opens": Counter()})


def with_file(sftp: Sftp, content: bytes = b"kept") -> tuple[RemotePath, RemotePath]:
    here = sftp.new_folder("here")
    path = under(here, b"f")
    Path(path.decode()).write_bytes(content)
    return here, path


@pytest.mark.parametrize("mode", [WRITE, BOTH, APPEND])
async def test_a_server_that_empties_what_it_opens_gets_nothing_to_empty(
    tmp_path: Path, expect_log: LogLedger, mode: OpenMode
) -> None:
    expect_log(f"acme/root@web01: .*{REFUSED}")
    server = counted(EmptiesForWriting)
    with sftp_over_asyncssh(tmp_path, server) as sftp:
        here, path = with_file(sftp)
        async with tree_on(sftp) as tree:
            for _ in range(2):
                with refused(errno.EOPNOTSUPP):
                    await tree.open(path, mode)
            assert await content_of(tree, path) == b"kept"
            assert await names_in(tree, here) == {b"f"}
            # What is to be emptied, or is empty, opens.
            async with opened(tree, path, EMPTY) as file:
                await file.write_at(0, b"new")
            await store(tree, under(here, b"g"), b"another")
            assert await content_of(tree, path) == b"new"
    assert expect_log.count(REFUSED) == 1


@pytest.mark.parametrize("mode", [WRITE, BOTH, APPEND])
async def test_read_beside_write_keeps_the_content_where_that_is_what_it_takes(
    tmp_path: Path, mode: OpenMode
) -> None:
    server = counted(EmptiesForWritingAlone)
    with sftp_over_asyncssh(tmp_path, server) as sftp:
        here, path = with_file(sftp)
        async with tree_on(sftp) as tree:
            for n in range(3):
                async with opened(tree, path, mode) as file:
                    await file.write_at(4 + n, b"!")
            assert await content_of(tree, path) == b"kept!!!"
            assert await names_in(tree, here) == {b"f"}
    assert FXF_WRITE not in server.opens
    # Tried once: what is made for it, and opened again.
    assert sum(server.opens.values()) == 5


async def test_nothing_is_opened_where_nothing_can_be_tried(
    tmp_path: Path, expect_log: LogLedger
) -> None:
    class MakesNothing(EmptiesForWriting):
        """Lets nobody make a file."""

        def flags(self, path: bytes, pflags: int) -> int:
            if pflags & FXF_CREAT:
                raise asyncssh.SFTPPermissionDenied("no")
            return super().flags(path, pflags)

    expect_log(f"acme/root@web01: .* could not be tried .*{REFUSED}")
    with sftp_over_asyncssh(tmp_path, MakesNothing) as sftp:
        _, path = with_file(sftp)
        async with tree_on(sftp) as tree:
            with refused(errno.EOPNOTSUPP):
                await tree.open(path, APPEND)
            assert await content_of(tree, path) == b"kept"


async def test_a_file_that_was_emptied_after_all_is_an_error_and_the_last_one(
    tmp_path: Path, expect_log: LogLedger
) -> None:
    expect_log("acme/root@web01: the server emptied .*/here/f")
    with sftp_over_asyncssh(tmp_path, EmptiesOnlyOthers) as sftp:
        here, path = with_file(sftp)
        other = under(here, b"other")
        async with tree_on(sftp) as tree:
            await store(tree, other, b"kept")
            with refused(errno.EIO):
                await tree.open(path, APPEND)
            with refused(errno.EOPNOTSUPP):
                await tree.open(other, APPEND)
            assert await content_of(tree, other) == b"kept"


async def test_a_handle_is_closed_when_the_look_behind_its_open_fails(
    tmp_path: Path,
) -> None:
    with sftp_over_asyncssh(tmp_path, EmptiesAndTellsNothing) as sftp:
        _, path = with_file(sftp)
        async with tree_on(sftp) as tree:
            with refused(errno.EIO):
                await tree.open(path, BOTH)
            # Not only with the session.
            assert EmptiesAndTellsNothing.emptied
            assert set(EmptiesAndTellsNothing.closed) == EmptiesAndTellsNothing.emptied


async def test_what_is_there_is_not_made_anew_though_exclusive_is_ignored(
    tmp_path: Path,
) -> None:
    with sftp_over_asyncssh(tmp_path, IgnoresExclusive) as sftp:
        here, path = with_file(sftp)
        async with tree_on(sftp) as tree:
            for _ in range(2):
                with refused(errno.EEXIST):
                    await tree.open(path, NEW, 0o600)
            async with opened(tree, under(here, b"g"), NEW, 0o600) as file:
                await file.write_at(0, b"new")
            assert await content_of(tree, path) == b"kept"


async def test_a_file_that_opens_only_anew_is_appended_to_and_replaced(
    tmp_path: Path, expect_log: LogLedger
) -> None:
    expect_log(REFUSED)
    with sftp_over_asyncssh(tmp_path, OpensOnlyNewFiles) as sftp:
        _, path = with_file(sftp)
        async with tree_on(sftp) as tree:
            with refused(errno.EOPNOTSUPP):
                await tree.open(path, WRITE)
            async with opened(tree, path, APPEND) as file:
                await file.write_at(0, b"!")
            assert await content_of(tree, path) == b"kept!"
            async with opened(tree, path, EMPTY) as file:
                await file.write_at(0, b"new")
            assert await content_of(tree, path) == b"new"


async def test_a_file_that_was_not_emptied_is_emptied_then(tmp_path: Path) -> None:
    with sftp_over_asyncssh(tmp_path, IgnoresTruncate) as sftp:
        _, path = with_file(sftp)
        async with tree_on(sftp) as tree:
            file, attrs = await tree.open(path, EMPTY)
            assert attrs.size == 0
            await file.write_at(0, b"x")
            await file.close()
            assert await content_of(tree, path) == b"x"


async def test_a_file_that_was_not_emptied_is_emptied_whatever_its_size_is_said_to_be(
    tmp_path: Path,
) -> None:
    with sftp_over_asyncssh(tmp_path, IgnoresTruncateAndTellsNoSize) as sftp:
        _, path = with_file(sftp, b"the old end")
        async with tree_on(sftp) as tree:
            file, _ = await tree.open(path, EMPTY)
            await file.write_at(0, b"x")
            await file.close()
        assert content_at(path) == b"x"


@pytest.mark.parametrize("server", [EmptiesNothing, RefusesSizes])
async def test_a_file_that_cannot_be_emptied_does_not_open_to_be_emptied(
    tmp_path: Path, server: type[Opens]
) -> None:
    with sftp_over_asyncssh(tmp_path, server) as sftp:
        here, path = with_file(sftp, b"the old end")
        async with tree_on(sftp) as tree:
            for _ in range(2):
                with refused(errno.EIO):
                    await tree.open(path, EMPTY)
            # A new file is as good as anywhere.
            async with opened(tree, under(here, b"new"), NEW, 0o600) as file:
                await file.write_at(0, b"new")
            assert await names_in(tree, here) == {b"f", b"new"}
        assert content_at(under(here, b"new")) == b"new"
        assert content_at(path) == b"the old end"


async def test_emptying_is_tried_once_a_session(tmp_path: Path) -> None:
    server = counted(Opens)
    with sftp_over_asyncssh(tmp_path, server) as sftp:
        here, path = with_file(sftp)
        async with tree_on(sftp) as tree:
            for _ in range(3):
                async with opened(tree, path, EMPTY) as file:
                    await file.write_at(0, b"new")
            assert await names_in(tree, here) == {b"f"}
            assert await content_of(tree, path) == b"new"
    # The trial makes a file and empties it.
    assert sum(server.opens.values()) == 2 + 3


@pytest.mark.parametrize("server", [GoesByNames, RefusesFstat])
async def test_an_open_file_without_a_name_is_stale_and_not_missing(
    tmp_path: Path, server: type[asyncssh.SFTPServer]
) -> None:
    with sftp_over_asyncssh(tmp_path, server) as sftp:
        _, path = with_file(sftp)
        async with tree_on(sftp) as tree:
            file, _ = await tree.open(path, BOTH)
            remove(path)  # by another program of the device
            with refused(errno.ESTALE):
                await file.stat()
            assert await file.read_at(0, 4) == b"kept"
            await file.close()


async def test_a_file_that_is_shown_as_it_was_until_its_close_is_replaced(
    tmp_path: Path,
) -> None:
    class ShowsTheOldOne(asyncssh.SFTPServer):
        """Tells of a file that is being replaced what it was (rclone's default)."""

        def fstat(self, file_obj: object) -> Any:
            del file_obj
            return asyncssh.SFTPAttrs(size=4, permissions=stat.S_IFREG | 0o644)

        def lstat(self, path: bytes) -> Any:
            return self.fstat(path)

        def fsetstat(self, file_obj: object, attrs: asyncssh.SFTPAttrs) -> None:
            """Do nothing."""

    with sftp_over_asyncssh(tmp_path, ShowsTheOldOne) as sftp:
        _, path = with_file(sftp)
        async with tree_on(sftp) as tree:
            async with opened(tree, path, EMPTY) as file:
                await file.write_at(0, b"new content")
            assert await content_of(tree, path) == b"new content"


@pytest.mark.parametrize("code", [FX_OP_UNSUPPORTED, FX_FAILURE, FX_BAD_MESSAGE])
async def test_an_open_with_attributes_that_is_refused_is_done_without(
    tmp_path: Path, code: int
) -> None:
    refusals: list[bytes] = []

    class TakesNoAttributes(asyncssh.SFTPServer):
        """Refuses an OPEN that says which mode a new file should have."""

        def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> Any:
            if attrs.permissions is not None:
                refusals.append(path)
                raise asyncssh.SFTPError(code, "no attributes here")
            return super().open(path, pflags, attrs)

    with sftp_over_asyncssh(tmp_path, TakesNoAttributes) as sftp:
        here = sftp.new_folder("here")
        async with tree_on(sftp) as tree:
            for n in range(3):
                file, attrs = await tree.open(under(here, b"f%d" % n), NEW, 0o600)
                assert stat.S_IMODE(attrs.mode) == 0o600
                await file.close()
            with refused(errno.EEXIST):
                await tree.open(under(here, b"f1"), NEW, 0o600)
    assert len(refusals) == 1


@pytest.mark.parametrize(
    "name",
    [
        "an_append_goes_to_the_end_there_is_now",
        "create_leaves_what_is_there",
        "exclusive_means_that_it_was_not_there",
        "truncate_empties_at_the_open",
        "what_is_not_there_does_not_open",
        "a_directory_does_not_open_to_write",
        "an_open_tells_what_it_opened",
    ],
)
@pytest.mark.parametrize("server", [Opens, EmptiesForWritingAlone, IgnoresTruncate])
async def test_opens_keep_their_promises_on_servers_that_are_not_known(
    tmp_path: Path, server: type[Opens], name: str
) -> None:
    with sftp_over_asyncssh(tmp_path, server) as sftp:
        async with tree_on(sftp) as tree:
            await FILES[name](tree, sftp.new_folder("here"))


async def test_a_server_that_is_not_known_costs_one_trial_and_no_round_trip_more(
    tmp_path: Path,
) -> None:
    with sftp_over_asyncssh(tmp_path, counted(Opens)) as sftp:
        _, path = with_file(sftp)
        async with tree_on(sftp) as tree:
            costs = []
            for _ in range(3):
                far = FarAway(sftp.client)
                try:
                    file, _ = await tree.open(path, APPEND)
                finally:
                    far.bring_back()
                costs.append((far.round_trips, far.requests))
                await file.close()
    # OPEN, WRITE, CLOSE, OPEN, FSTAT, CLOSE, LSTAT, REMOVE, and a look before each.
    assert costs == [(10, 13), (1, 3), (1, 3)]


async def test_openssh_is_not_tried(tmp_path: Path) -> None:
    with sftp_over_openssh(tmp_path) as sftp:
        _, path = with_file(sftp)
        async with tree_on(sftp) as tree:
            far = FarAway(sftp.client)
            try:
                file, _ = await tree.open(path, APPEND)
            finally:
                far.bring_back()
            await file.close()
            assert await content_of(tree, path) == b"kept"
    assert (far.round_trips, far.requests) == (1, 2)
