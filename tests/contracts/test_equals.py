"""What a server leaves out is done by its equal, and only to the same file."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from asyncssh.constants import FX_FAILURE, FX_OP_UNSUPPORTED, FX_PERMISSION_DENIED

from pamfs.model import AttrChange, RemotePath
from pamfs.transport.base import OpenMode
from tests.contracts.implementations import (
    Sftp,
    sftp_over_asyncssh,
    sftp_over_openssh,
    tree_on,
)
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
from tests.contracts.promises_files import FILES
from tests.contracts.promises_names import NAMES
from tests.fakes.openssh import SFTP_SERVER
from tests.fakes.servers import LeavesOut, MakesBareFolders

BOTH = READ | WRITE
NANOS = 1_000_000_000
OWNED = AttrChange(mode=0o640, atime_ns=5 * NANOS, mtime_ns=7 * NANOS)

# What needs a handle once the name is gone has no equal by path.
NEEDS_HANDLE = {"an_open_file_survives_its_last_name"}
SLOW = {"a_listing_is_whole"}  # and nothing in it is left out
LEFT_OUT = ("fsetstat", "fstat", "fstat,fsetstat", "setstat", "setstat,lsetstat")


@pytest.fixture(scope="module", params=LEFT_OUT)
def openssh(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sftp]:
    folder = tmp_path_factory.mktemp("openssh")
    with sftp_over_openssh(folder, f"{SFTP_SERVER} -P {request.param}") as sftp:
        yield sftp


@pytest.mark.parametrize("name", sorted((FILES | NAMES).keys() - NEEDS_HANDLE - SLOW))
async def test_openssh_that_leaves_a_request_out_keeps_its_promise(
    openssh: Sftp, name: str, folder_name: str
) -> None:
    async with tree_on(openssh) as tree:
        await (FILES | NAMES)[name](tree, openssh.new_folder(folder_name))


def leaves_out(*requests: str, code: int = FX_OP_UNSUPPORTED) -> type[LeavesOut]:
    facts = {"left_out": frozenset(requests), "code": code, "refusals": Counter()}
    return type("LeavesOutSome", (LeavesOut,), facts)


CODES = [FX_OP_UNSUPPORTED, FX_PERMISSION_DENIED, FX_FAILURE]


@pytest.mark.parametrize("code", CODES)
async def test_the_equal_is_tried_once_and_remembered(
    tmp_path: Path, code: int
) -> None:
    server = leaves_out("fstat", "fsetstat", "posix_rename", code=code)
    with sftp_over_asyncssh(tmp_path, server) as sftp:
        here = sftp.new_folder("here")
        async with tree_on(sftp) as tree:
            for n in range(3):
                path, other = under(here, b"f%d" % n), under(here, b"g%d" % n)
                await store(tree, other, b"other")
                async with opened(tree, path, NEW, 0o600) as file:
                    await file.write_at(0, b"123456")
                    assert (await file.set_attrs(AttrChange(size=3))).size == 3
                    assert stat.S_IMODE((await file.set_attrs(OWNED)).mode) == 0o640
                    assert (await file.stat()).mtime_ns == 7 * NANOS
                await tree.rename(path, other, replace=True)
                assert await content_of(tree, other) == b"123"
    assert server.refusals == {"fstat": 1, "fsetstat": 1, "posix_rename": 1}


async def test_an_fsync_that_is_announced_and_refused_is_asked_for_once(
    tmp_path: Path,
) -> None:
    server = leaves_out("fsync")
    with sftp_over_asyncssh(tmp_path, server) as sftp:
        here = sftp.new_folder("here")
        async with (
            tree_on(sftp) as tree,
            opened(tree, under(here, b"f"), NEW, 0o600) as file,
        ):
            await file.write_at(0, b"x")
            await file.fsync()
            await file.fsync()
    assert server.refusals == {"fsync": 1}


async def test_an_fsync_that_is_refused_after_one_that_worked_is_an_error(
    tmp_path: Path,
) -> None:
    server = leaves_out()
    with sftp_over_asyncssh(tmp_path, server) as sftp:
        here = sftp.new_folder("here")
        async with (
            tree_on(sftp) as tree,
            opened(tree, under(here, b"f"), NEW, 0o600) as file,
        ):
            await file.fsync()
            server.left_out = frozenset({"fsync"})
            for _ in range(2):
                with refused(errno.EOPNOTSUPP):
                    await file.fsync()
    assert server.refusals == {"fsync": 2}


@pytest.mark.parametrize("code", [FX_FAILURE, FX_OP_UNSUPPORTED])
async def test_a_folder_that_is_refused_with_its_mode_is_made_without(
    tmp_path: Path, code: int
) -> None:
    class Bare(MakesBareFolders):
        """Says so with one status."""

    Bare.code = code
    with sftp_over_asyncssh(tmp_path, Bare) as sftp:
        here = sftp.new_folder("here")
        async with tree_on(sftp) as tree:
            for name in (b"one", b"two"):
                made = await tree.mkdir(under(here, name), 0o710)
                assert stat.S_IMODE(made.mode) == 0o710
            with refused(errno.EEXIST):
                await tree.mkdir(under(here, b"one"), 0o710)
    assert Bare.refusals == 1


async def test_a_refusal_where_the_request_has_worked_means_what_it_says(
    tmp_path: Path,
) -> None:
    server = leaves_out(code=FX_PERMISSION_DENIED)
    with sftp_over_asyncssh(tmp_path, server) as sftp:
        here = sftp.new_folder("here")
        async with (
            tree_on(sftp) as tree,
            opened(tree, under(here, b"f"), NEW, 0o600) as file,
        ):
            await file.set_attrs(AttrChange(mode=0o640))
            server.left_out = frozenset({"fsetstat"})
            with refused(errno.EPERM):
                await file.set_attrs(AttrChange(mode=0o600))
            with refused(errno.EACCES):
                await file.set_attrs(AttrChange(size=7))
            attrs = await tree.lstat(under(here, b"f"))
            assert stat.S_IMODE(attrs.mode) == 0o640


REPLACED = ["by another", "removed here", "replaced here"]


@pytest.mark.parametrize("how", REPLACED)
async def test_a_file_that_took_the_name_is_not_changed_instead(
    tmp_path: Path, how: str
) -> None:
    with sftp_over_asyncssh(tmp_path, leaves_out("fsetstat")) as sftp:
        here = sftp.new_folder("here")
        path, other = under(here, b"f"), under(here, b"other")
        async with tree_on(sftp) as tree:
            await store(tree, path, b"mine")
            await store(tree, other, b"not mine at all")
            async with opened(tree, path, BOTH) as file:
                if how == "by another":
                    os.replace(other, path)
                elif how == "removed here":
                    await tree.unlink(path)
                    os.rename(other, path)
                else:
                    await tree.rename(other, path, replace=True)
                with refused(errno.EOPNOTSUPP):
                    await file.set_attrs(AttrChange(size=0))
                with refused(errno.EOPNOTSUPP):
                    await file.set_attrs(AttrChange(mode=0o604))
            assert await content_of(tree, path) == b"not mine at all"
            assert stat.S_IMODE((await tree.lstat(path)).mode) == 0o644


@pytest.mark.parametrize("left_out", [("fsetstat",), ("fsetstat", "fstat")])
async def test_a_file_that_was_renamed_here_is_found_by_its_new_name(
    tmp_path: Path, left_out: tuple[str, ...]
) -> None:
    with sftp_over_asyncssh(tmp_path, leaves_out(*left_out)) as sftp:
        here = sftp.new_folder("here")
        async with tree_on(sftp) as tree:
            await tree.mkdir(under(here, b"d"), 0o755)
            await store(tree, under(here, b"d/f"), b"123456")
            async with opened(tree, under(here, b"d/f"), BOTH) as file:
                await tree.rename(under(here, b"d"), under(here, b"e"), replace=True)
                await tree.rename(under(here, b"e/f"), under(here, b"g"), replace=False)
                assert (await file.set_attrs(AttrChange(size=2))).size == 2
            assert await content_of(tree, under(here, b"g")) == b"12"


async def test_an_append_needs_no_fstat(tmp_path: Path) -> None:
    with sftp_over_asyncssh(tmp_path, leaves_out("fstat")) as sftp:
        here = sftp.new_folder("here")
        async with tree_on(sftp) as tree:
            await store(tree, under(here, b"f"), b"one ")
            mode = WRITE | OpenMode.APPEND
            async with opened(tree, under(here, b"f"), mode) as file:
                await file.write_at(0, b"two ")
                await file.write_at(0, b"three")
            assert await content_of(tree, under(here, b"f")) == b"one two three"


async def test_paths_are_no_equal_of_a_name_that_a_session_lost(
    tmp_path: Path,
) -> None:
    with sftp_over_asyncssh(tmp_path, leaves_out("fstat")) as sftp:
        here = sftp.new_folder("here")
        path = RemotePath(under(here, b"f"))
        async with tree_on(sftp) as tree:
            await store(tree, path, b"x")
            async with opened(tree, path, READ) as file:
                await tree.unlink(path)
                await store(tree, path, b"another")
                with refused(errno.EOPNOTSUPP):
                    await file.stat()
