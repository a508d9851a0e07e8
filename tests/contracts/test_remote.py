"""What ``RemoteTree`` promises, held against every implementation of it."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import pytest
import trio

from pamfs.errors import PamfsError, RemoteError, SessionLostError
from pamfs.model import RemotePath
from pamfs.transport.base import RemoteFile, RemoteTree
from tests.contracts.implementations import Implementation
from tests.contracts.promise import NEW, READ, Promise, store, under
from tests.contracts.promises_files import FILES
from tests.contracts.promises_names import NAMES
from tests.fakes import faults
from tests.fakes.memory import MemoryFs
from tests.fakes.remote import Device, FakeTree
from tests.limits import PROGRAM_S

PROMISES: dict[str, Promise] = FILES | NAMES


@pytest.mark.parametrize("name", PROMISES)
async def test_it_keeps_its_promise(
    name: str, implementation: Implementation, folder_name: str
) -> None:
    with trio.fail_after(PROGRAM_S):
        async with trio.open_nursery() as nursery:
            tree = implementation.new_tree(nursery)
            folder = implementation.new_folder(folder_name)
            await PROMISES[name](tree, folder)


async def test_a_lost_session_says_so_to_everyone(
    implementation: Implementation, folder_name: str
) -> None:
    with trio.fail_after(PROGRAM_S):
        async with trio.open_nursery() as nursery:
            tree, lose = implementation.own_session(nursery)
            folder = implementation.new_folder(folder_name)
            await store(tree, under(folder, b"f"), b"x")
            file, _ = await tree.open(under(folder, b"f"), READ)
            lose()
            for ask in (
                lambda: tree.lstat(folder),
                lambda: tree.list_dir(folder),
                lambda: tree.open(under(folder, b"new"), NEW, 0o600),
                lambda: tree.mkdir(under(folder, b"d"), 0o755),
                lambda: tree.rename(folder, under(folder, b"x"), replace=True),
                lambda: file.read_at(0, 1),
                lambda: file.write_at(0, b"y"),
                file.stat,
            ):
                with pytest.raises(SessionLostError):
                    await ask()
            # Every write was acknowledged: a close may keep silent, not hang.
            with contextlib.suppress(SessionLostError):
                await file.close()


async def open_and_leave(tree: RemoteTree, path: RemotePath, after: int) -> None:
    """Open ``path`` and be cancelled after so many checkpoints, if still waiting."""
    opened: list[RemoteFile] = []

    async def open_it() -> None:
        opened.append((await tree.open(path, READ))[0])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_it)
        for _ in range(after):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    for file in opened:
        await file.close()


async def test_an_open_that_is_cancelled_leaves_no_handle(
    implementation: Implementation, folder_name: str
) -> None:
    with trio.fail_after(PROGRAM_S):
        async with trio.open_nursery() as nursery:
            tree = implementation.new_tree(nursery)
            path = under(implementation.new_folder(folder_name), b"f")
            await store(tree, path, b"x")
            for after in range(60):
                await open_and_leave(tree, path, after)
    assert handles_on(tree, path) == 0


def handles_on(tree: RemoteTree, path: RemotePath) -> int:
    """Return how often the device has ``path`` open."""
    if isinstance(tree, FakeTree):
        return tree.open_files
    found = 0
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            found += os.readlink(bytes(descriptor)) == path
    return found


LIARS = {
    faults.ReadsAtMost4K: "a_read_is_short_only_at_the_end",
    faults.SaysEndOfFile: "a_read_is_short_only_at_the_end",
    faults.WritesHalf: "what_is_written_is_read",
    faults.ForgetsAppend: "an_append_goes_to_the_end_there_is_now",
    faults.LosesUnlinked: "an_open_file_survives_its_last_name",
    faults.LiesAboutSize: "lstat_tells_type_size_and_time",
    faults.ListsAPart: "a_listing_is_whole",
    faults.FollowsLinks: "changes_are_to_the_link_itself",
    faults.ReplacesAlways: "rename_never_replaces_when_it_may_not",
    faults.RemovesFullDirectories: "rmdir_removes_only_empty_directories",
    faults.CleansSymlinks: "a_link_says_what_it_was_told",
    faults.SaysFailure: "mkdir_refuses_a_name_in_use",
    faults.FullDisk: "what_is_written_is_read",
    faults.DeniesWrites: "a_mode_is_exact_once_it_is_set",
}


@pytest.mark.parametrize("liar", LIARS, ids=lambda liar: liar.__name__)
async def test_a_fake_that_lies_is_found_out(liar: type[FakeTree]) -> None:
    fs = MemoryFs()
    fs.mkdir(b"/here", 0o755)
    with pytest.raises((AssertionError, RemoteError)):
        await PROMISES[LIARS[liar]](liar(fs), RemotePath(b"/here"))


@pytest.mark.parametrize("name", PROMISES)
async def test_a_device_that_refuses_everything_keeps_no_promise(name: str) -> None:
    class Refuses(FakeTree):
        async def round_trip(self, name: str) -> None:
            await super().round_trip(name)
            raise RemoteError(errno.EXDEV, name)

    tree: RemoteTree = Refuses(MemoryFs(), Device())
    with pytest.raises((AssertionError, PamfsError)):
        await PROMISES[name](tree, RemotePath(b"/"))


async def test_a_listing_in_another_order_is_no_lie() -> None:
    fs = MemoryFs()
    fs.mkdir(b"/here", 0o755)
    await PROMISES["a_listing_is_whole"](
        faults.ReordersListing(fs), RemotePath(b"/here")
    )


async def test_a_session_drops_after_as_many_round_trips_as_it_was_told() -> None:
    tree = faults.DropsAfter(2)
    await tree.lstat(RemotePath(b"/"))
    await tree.lstat(RemotePath(b"/"))
    with pytest.raises(SessionLostError):
        await tree.lstat(RemotePath(b"/"))
    assert tree.calls["lstat"] == 3
