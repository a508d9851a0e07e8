"""What a bare FAILURE is found to have meant; the real servers' answers are
held against it in tests/contracts."""

from __future__ import annotations

import errno
from collections.abc import Awaitable

import pytest

from pamfs.model import RemotePath
from pamfs.transport import diagnosis
from pamfs.transport.base import Capabilities, OpenMode
from tests.fakes.faults import FullDisk, ReadOnly
from tests.fakes.memory import MemoryFs
from tests.fakes.remote import Device, FakeTree

FILE, FOLDER, FULL, GONE = (
    RemotePath(path) for path in (b"/file", b"/empty", b"/full", b"/gone")
)
FAILURE = errno.EIO


@pytest.fixture
def tree() -> FakeTree:
    fs = MemoryFs()
    fs.put(b"/file")
    fs.make_dirs(b"/empty")
    fs.put(b"/full/x")
    return FakeTree(fs)


async def test_making_what_exists(tree: FakeTree) -> None:
    assert await diagnosis.explain_making(tree, FILE, FAILURE) == errno.EEXIST


async def test_making_below_a_file(tree: FakeTree) -> None:
    below = RemotePath(b"/file/x")
    code = await diagnosis.explain_making(tree, below, errno.ENOENT)
    assert code == errno.ENOTDIR


async def test_making_below_nothing(tree: FakeTree) -> None:
    below = RemotePath(b"/gone/x")
    code = await diagnosis.explain_making(tree, below, errno.ENOENT)
    assert code == errno.ENOENT


async def test_opening_a_folder(tree: FakeTree) -> None:
    opening = diagnosis.explain_opening(tree, FOLDER, FAILURE, OpenMode.WRITE)
    assert await opening == errno.EISDIR


@pytest.mark.parametrize(
    ("disk", "mode", "code"),
    [
        (ReadOnly, OpenMode.READ, FAILURE),
        (ReadOnly, OpenMode.WRITE, errno.EROFS),
        (FullDisk, OpenMode.READ, FAILURE),
        (FullDisk, OpenMode.WRITE, FAILURE),
        (FullDisk, OpenMode.WRITE | OpenMode.CREATE, errno.ENOSPC),
    ],
)
async def test_a_disk_is_the_reason_only_of_what_changes_it(
    disk: type[FakeTree], mode: OpenMode, code: int
) -> None:
    fs = MemoryFs()
    fs.put(b"/file")
    found = await diagnosis.explain_opening(disk(fs), FILE, FAILURE, mode)
    assert found == code


async def test_removing_names(tree: FakeTree) -> None:
    assert await diagnosis.explain_unlink(tree, FOLDER, FAILURE) == errno.EISDIR
    assert await diagnosis.explain_rmdir(tree, FILE, FAILURE) == errno.ENOTDIR
    assert await diagnosis.explain_rmdir(tree, FULL, FAILURE) == errno.ENOTEMPTY
    assert await diagnosis.explain_rmdir(tree, FOLDER, FAILURE) == FAILURE
    assert await diagnosis.explain_rmdir(tree, GONE, errno.ENOENT) == errno.ENOENT


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (GONE, FILE, errno.ENOENT),
        (FOLDER, FILE, errno.ENOTDIR),
        (FILE, FOLDER, errno.EISDIR),
        (FOLDER, FULL, errno.ENOTEMPTY),
        (FOLDER, RemotePath(b"/empty/below"), errno.EINVAL),
        (FILE, GONE, FAILURE),
    ],
)
async def test_renaming(
    tree: FakeTree, old: RemotePath, new: RemotePath, code: int
) -> None:
    assert await diagnosis.explain_rename(tree, old, new, FAILURE) == code


async def test_a_read_only_device_says_so_before_what_a_folder_holds() -> None:
    fs = MemoryFs()
    fs.make_dirs(b"/empty")
    fs.put(b"/full/x")
    tree = ReadOnly(fs)
    assert await diagnosis.explain_rmdir(tree, FULL, FAILURE) == errno.EROFS
    assert await diagnosis.explain_rmdir(tree, FOLDER, FAILURE) == errno.EROFS
    assert await diagnosis.explain_rmdir(tree, GONE, errno.ENOENT) == errno.ENOENT
    assert await diagnosis.explain_rename(tree, FOLDER, FULL, FAILURE) == errno.EROFS


async def test_linking(tree: FakeTree) -> None:
    link = diagnosis.explain_link
    assert await link(tree, GONE, FOLDER, FAILURE) == errno.ENOENT
    assert await link(tree, FOLDER, GONE, FAILURE) == errno.EPERM
    assert await link(tree, FILE, FOLDER, FAILURE) == errno.EEXIST


async def test_a_full_disk_is_seen_behind_any_failure_to_store() -> None:
    tree = FullDisk(MemoryFs())
    root = RemotePath(b"/")
    assert await diagnosis.explain_storing(tree.space, root, FAILURE) == errno.ENOSPC


async def test_a_device_that_cannot_tell_its_room_leaves_the_failure() -> None:
    tree = FakeTree(MemoryFs(), Device(capabilities=Capabilities()))
    assert await diagnosis.explain_storing(tree.space, FILE, FAILURE) == FAILURE


async def test_what_is_exact_already_is_not_looked_into(tree: FakeTree) -> None:
    exact = errno.EACCES
    asked: list[Awaitable[int]] = [
        diagnosis.explain_making(tree, FILE, exact),
        diagnosis.explain_opening(tree, FOLDER, exact, OpenMode.WRITE),
        diagnosis.explain_unlink(tree, FILE, exact),
        diagnosis.explain_rmdir(tree, FULL, exact),
        diagnosis.explain_rename(tree, FOLDER, FILE, exact),
    ]
    assert [await code for code in asked[2:]] == [exact] * 3
    assert [await code for code in asked[:2]] == [exact] * 2
    assert not tree.calls


async def test_attributes_that_cannot_be_set_are_not_permitted(tree: FakeTree) -> None:
    assert await diagnosis.explain_setting(tree, FILE, FAILURE) == errno.EPERM
    assert await diagnosis.explain_setting(tree, FILE, errno.EACCES) == errno.EPERM
    assert await diagnosis.explain_setting(tree, FILE, errno.ENOENT) == errno.ENOENT
