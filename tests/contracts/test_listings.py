"""Listings by servers that are odd in one way each (tests/fakes/names.py)."""

from __future__ import annotations

import errno
import stat
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import outcome
import pytest
import trio
from asyncssh import constants

from pamfs.errors import RemoteError
from pamfs.model import Attrs, RemotePath
from pamfs.transport.base import RemoteTree
from tests.conftest import LogLedger
from tests.fakes.names import (
    FILE,
    FOLDER,
    LINK,
    NO_ATTRS,
    BeginsAgainAfterTheEnd,
    EndsWithNoNames,
    FailsAfterTheEnd,
    FailsInTheMiddle,
    HasNoHandle,
    Names,
    Shown,
    attrs,
    serving,
)
from tests.limits import HANG_S

V = TypeVar("V")
ROOT = RemotePath(b"/")
A_FILE = Attrs(stat.S_IFREG | 0o640, 5)
A_FOLDER = Attrs(stat.S_IFDIR | 0o750, 4096)
TWO = (Shown(b"a", FILE), Shown(b"b", FOLDER))


async def listed(tree: RemoteTree) -> Mapping[bytes, Attrs]:
    found = await tree.list_dir(ROOT)
    shown = {bytes(entry.name): entry.attrs for entry in found}
    assert len(shown) == len(found)
    return shown


async def asked(
    server: Names, folder: Path, ask: Callable[[RemoteTree], Awaitable[V]]
) -> V:
    """Return what ``ask`` does, or raise what it raises."""
    with serving(server, folder) as sftp, trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            answer = await outcome.acapture(ask, sftp.new_tree(nursery))
    return answer.unwrap()


async def listing_of(server: Names, folder: Path) -> Mapping[bytes, Attrs]:
    return await asked(server, folder, listed)


class Listed(Names):
    """Can be listed more than once: each OPENDIR begins anew."""

    def opendir(self, path: bytes) -> tuple[int, bytes]:
        self.asked[constants.FXP_READDIR] = 0
        return super().opendir(path)


async def attrs_of(server: Names, folder: Path, name: bytes) -> Attrs:
    path = RemotePath(b"/" + name)
    return await asked(server, folder, lambda tree: tree.lstat(path))


class TestTheEnd:
    @pytest.mark.parametrize(
        "server",
        [FailsAfterTheEnd(TWO), EndsWithNoNames(TWO), Names(TWO)],
        ids=lambda server: type(server).__name__,
    )
    async def test_what_comes_behind_it_is_ignored(
        self, server: Names, tmp_path: Path
    ) -> None:
        assert await listing_of(server, tmp_path) == {b"a": A_FILE, b"b": A_FOLDER}
        assert server.asked[constants.FXP_READDIR] <= 6

    async def test_names_behind_it_are_ignored(self, tmp_path: Path) -> None:
        assert await listing_of(BeginsAgainAfterTheEnd(TWO), tmp_path) == {}

    async def test_a_failure_before_it_is_no_end(self, tmp_path: Path) -> None:
        with pytest.raises(RemoteError) as caught:
            await listing_of(FailsInTheMiddle(TWO), tmp_path)
        assert caught.value.code == errno.EIO


class TestWhatIsNotTold:
    @pytest.mark.parametrize(
        "listed_as",
        [NO_ATTRS, attrs(size=5), attrs(mode=0o750), attrs(mode=0o750, size=4096)],
        ids=["nothing", "size alone", "mode without type", "no type"],
    )
    async def test_is_looked_at(self, listed_as: bytes, tmp_path: Path) -> None:
        entries = [
            Shown(b"folder", listed_as, FOLDER),
            Shown(b"file", listed_as, FILE),
            Shown(b"link", listed_as, LINK),
            Shown(b"told", FILE),
        ]
        server = Names(entries)
        assert await listing_of(server, tmp_path) == {
            b"folder": A_FOLDER,
            b"file": A_FILE,
            b"link": Attrs(stat.S_IFLNK | 0o777, 3),
            b"told": A_FILE,
        }
        assert server.asked[constants.FXP_LSTAT] == 3

    async def test_a_file_without_a_size_is_looked_at(self, tmp_path: Path) -> None:
        server = Names([Shown(b"f", attrs(mode=stat.S_IFREG | 0o600), FILE)])
        assert await listing_of(server, tmp_path) == {b"f": A_FILE}

    async def test_a_folder_needs_no_size(self, tmp_path: Path) -> None:
        server = Names([Shown(b"d", attrs(mode=stat.S_IFDIR | 0o700))])
        assert await listing_of(server, tmp_path) == {b"d": Attrs(stat.S_IFDIR | 0o700)}
        assert server.asked[constants.FXP_LSTAT] == 0

    async def test_a_thousand_are_all_looked_at(self, tmp_path: Path) -> None:
        server = Names([Shown(b"%d" % n, NO_ATTRS, FILE) for n in range(1000)])
        found = await listing_of(server, tmp_path)
        assert len(found) == 1000
        assert set(found.values()) == {A_FILE}
        assert server.asked[constants.FXP_LSTAT] == 1000

    async def test_what_is_gone_meanwhile_is_not_shown(self, tmp_path: Path) -> None:
        server = Names([Shown(b"gone", NO_ATTRS, None), Shown(b"a", FILE)])
        assert await listing_of(server, tmp_path) == {b"a": A_FILE}

    async def test_the_type_is_the_longnames_where_nothing_else_tells_it(
        self, tmp_path: Path
    ) -> None:
        bare = attrs(mode=0o750, size=5)
        entries = [
            Shown(b"d", bare, bare, b"drwxr-x---   1 x x  5 Jan  1 00:00 d"),
            Shown(b"f", bare, bare, b"-rwxr-x---   1 x x  5 Jan  1 00:00 f"),
            Shown(b"l", bare, bare, b"lrwxr-x---   1 x x  5 Jan  1 00:00 l"),
        ]
        found = await listing_of(Names(entries), tmp_path)
        assert {name: a.mode for name, a in found.items()} == {
            b"d": stat.S_IFDIR | 0o750,
            b"f": stat.S_IFREG | 0o750,
            b"l": stat.S_IFLNK | 0o750,
        }

    async def test_a_longname_that_lies_is_not_read(self, tmp_path: Path) -> None:
        entries = [
            Shown(b"a", FILE, None, b"drwxr-xr-x 9 x x 77 Jan  1 00:00 other"),
            Shown(b"b", NO_ATTRS, FILE, b"drwxr-xr-x 9 x x 77 Jan  1 00:00 other"),
        ]
        found = await listing_of(Names(entries), tmp_path)
        assert found == {b"a": A_FILE, b"b": A_FILE}

    async def test_what_cannot_be_told_is_left_out_and_said(
        self, tmp_path: Path, expect_log: LogLedger
    ) -> None:
        expect_log("1 of 2 entries of a listing")
        server = Listed([Shown(b"?", NO_ATTRS, NO_ATTRS), Shown(b"a", FILE)])

        async def twice(tree: RemoteTree) -> Mapping[bytes, Attrs]:
            await listed(tree)
            return await listed(tree)

        assert await asked(server, tmp_path, twice) == {b"a": A_FILE}
        assert expect_log.count("1 of 2 entries of a listing") == 1

    async def test_a_name_that_is_looked_up_has_its_type_found_out(
        self, tmp_path: Path
    ) -> None:
        bare = attrs(mode=0o750, size=5)
        entries = [Shown(b"d", bare, bare, b"d"), Shown(b"f", bare, bare, b"-")]
        found = await attrs_of(Names(entries), tmp_path, b"d")
        assert found.mode == stat.S_IFDIR | 0o750
        found = await attrs_of(Names(entries), tmp_path, b"f")
        assert found == Attrs(stat.S_IFREG | 0o750, 5)

    async def test_a_folder_that_cannot_be_opened_just_now_is_no_file(
        self, tmp_path: Path
    ) -> None:
        bare = attrs(mode=0o750, size=5)
        server = HasNoHandle([Shown(b"d", bare, bare, b"d")])
        with pytest.raises(RemoteError) as caught:
            await attrs_of(server, tmp_path, b"d")
        assert caught.value.code == errno.EIO

    async def test_a_file_whose_size_nobody_tells_is_an_error(
        self, tmp_path: Path
    ) -> None:
        told = attrs(mode=stat.S_IFREG | 0o600)
        with pytest.raises(RemoteError) as caught:
            await attrs_of(Names([Shown(b"f", told, told)]), tmp_path, b"f")
        assert caught.value.code == errno.EIO


class TestNames:
    async def test_that_no_file_can_have_are_left_out_and_said_once(
        self, tmp_path: Path, expect_log: LogLedger
    ) -> None:
        expect_log("5 of 7 entries of a listing")
        names = [b"", b".", b"..", b"a/b", b"\0", b"n" * 256, b"/", b"good", b"other"]
        found = await listing_of(Names([Shown(n, FILE) for n in names]), tmp_path)
        assert found == {b"good": A_FILE, b"other": A_FILE}

    async def test_dots_are_no_news(self, tmp_path: Path) -> None:
        names: Sequence[bytes] = [b".", b"..", b"good"]
        found = await listing_of(Names([Shown(n, FOLDER) for n in names]), tmp_path)
        assert found == {b"good": A_FOLDER}

    async def test_fifty_thousand_fit_into_one_packet(self, tmp_path: Path) -> None:
        server = Names([Shown(b"file %05d" % n, FILE) for n in range(50_000)])
        found = await listing_of(server, tmp_path)
        assert len(found) == 50_000
        assert set(found.values()) == {A_FILE}


async def test_a_size_beyond_what_a_file_can_have_is_the_most_it_can_have(
    tmp_path: Path,
) -> None:
    mode = stat.S_IFREG | 0o600
    sizes = {b"most": (1 << 63) - 1, b"more": 1 << 63, b"all": (1 << 64) - 1}
    server = Names([Shown(name, attrs(mode, size)) for name, size in sizes.items()])
    found = await listing_of(server, tmp_path)
    assert {a.size for a in found.values()} == {(1 << 63) - 1}
