from __future__ import annotations

import errno

import pytest
import trio
from trio.testing import MockClock

from pamfs.errors import CutRenameError, PamfsError, RemoteError, SessionLostError
from pamfs.model import RemotePath
from pamfs.transport.rename_over import rename_over
from tests.conftest import LogLedger
from tests.fakes.faults import KeepsNames
from tests.fakes.memory import MemoryFs
from tests.fakes.remote import FakeTree

OLD, NEW = RemotePath(b"/d/old"), RemotePath(b"/d/new")


class Renames:
    """A server's own RENAME; one call may fail, or (``None``) never be answered."""

    def __init__(
        self,
        tree: FakeTree,
        refused: int = 0,
        error: PamfsError | None = RemoteError(errno.EIO, "rename"),  # noqa: B008
    ) -> None:
        self.tree = tree
        self.refused = refused
        self.error = error
        self.count = 0

    async def __call__(self, old: RemotePath, new: RemotePath) -> None:
        self.count += 1
        if self.count == self.refused:
            if self.error is None:
                await trio.sleep_forever()
            else:
                raise self.error
        await self.tree.rename(old, new, replace=False)


def device() -> tuple[FakeTree, MemoryFs]:
    fs = MemoryFs()
    fs.put(b"/d/old", b"old")
    return FakeTree(fs), fs


async def test_a_free_name_costs_one_rename() -> None:
    tree, fs = device()
    renames = Renames(tree)
    await rename_over(tree, renames, OLD, NEW)
    assert renames.count == 1
    assert bytes(fs.node(b"/d/new").content) == b"old"


async def test_what_was_there_is_replaced_and_nothing_is_left_over() -> None:
    tree, fs = device()
    fs.put(b"/d/new", b"new")
    await rename_over(tree, Renames(tree), OLD, NEW)
    assert bytes(fs.node(b"/d/new").content) == b"old"
    assert list(fs.node(b"/d").entries) == [b"new"]


async def test_an_empty_folder_is_replaced_by_a_folder() -> None:
    tree, fs = device()
    fs.make_dirs(b"/d/one")
    fs.make_dirs(b"/d/other")
    one, other = RemotePath(b"/d/one"), RemotePath(b"/d/other")
    await rename_over(tree, Renames(tree), one, other)
    assert sorted(fs.node(b"/d").entries) == [b"old", b"other"]


async def test_what_was_there_is_put_back_if_the_rename_fails() -> None:
    tree, fs = device()
    fs.put(b"/d/new", b"new")
    with pytest.raises(RemoteError):
        await rename_over(tree, Renames(tree, refused=3), OLD, NEW)
    assert bytes(fs.node(b"/d/new").content) == b"new"
    assert bytes(fs.node(b"/d/old").content) == b"old"
    assert sorted(fs.node(b"/d").entries) == [b"new", b"old"]


async def test_what_rename_refuses_moves_nothing() -> None:
    tree, fs = device()
    fs.put(b"/d/full/x")
    full = RemotePath(b"/d/full")
    renames = Renames(tree)
    with pytest.raises(RemoteError) as caught:
        await rename_over(tree, renames, OLD, full)
    assert caught.value.code == errno.EISDIR
    assert renames.count == 1


async def test_a_name_renamed_to_itself_stays() -> None:
    tree, fs = device()
    await rename_over(tree, Renames(tree), OLD, OLD)
    assert bytes(fs.node(b"/d/old").content) == b"old"


async def test_a_replaced_file_that_cannot_be_removed_does_not_undo_the_rename(
    expect_log: LogLedger,
) -> None:
    expect_log("is left at")
    fs = MemoryFs()
    fs.put(b"/d/old", b"old")
    fs.put(b"/d/new", b"new")
    tree = KeepsNames(fs)
    await rename_over(tree, Renames(tree), OLD, NEW)
    assert bytes(fs.node(b"/d/new").content) == b"old"


@pytest.mark.parametrize("cut_at", [2, 3])
async def test_a_session_lost_in_between_says_where_the_replaced_file_is(
    cut_at: int,
) -> None:
    tree, fs = device()
    fs.put(b"/d/new", b"new")
    renames = Renames(tree, refused=cut_at, error=SessionLostError("gone"))
    with pytest.raises(CutRenameError) as caught:
        await rename_over(tree, renames, OLD, NEW)
    assert caught.value.aside.startswith(b"/d/.pamfs-")
    assert (caught.value.aside.split(b"/")[-1] in fs.node(b"/d").entries) is (
        cut_at == 3
    )


async def test_a_device_that_falls_silent_in_between_does_not_hold_up_for_ever(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("may be at")
    tree, fs = device()
    fs.put(b"/d/new", b"new")
    renames = Renames(tree, refused=3, error=None)
    with pytest.raises(trio.TooSlowError):
        await rename_over(tree, renames, OLD, NEW)
    assert trio.current_time() < 100
