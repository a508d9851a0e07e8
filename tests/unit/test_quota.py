"""A device with few handles: reading ahead costs no program its own."""

from __future__ import annotations

import dataclasses
import errno
import os
import stat

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pamfs.errors import RemoteError
from pamfs.model import Attrs, Caller, Ino, RemotePath
from pamfs.transport.base import OpenMode, RemoteFile
from pamfs.vfs.remote_access import PATIENCE_S, HandleQuota, HandleUse, may_be_full
from tests.fakes.faults import FewHandles
from tests.fakes.memory import MemoryFs
from tests.fakes.mounted import WEB01, Mounted, mounted
from tests.fakes.remote import EVERYTHING, Device

HOME = b"acme/root@web01"
COPY = Caller(pid=7, uid=1000, gid=1000)
FOLDERS, FILES = 40, 8
# How often a limit that is not told may be met until it is known well enough.
MOST_RETRIES = 12


def device_with(most: int, *, announced: bool) -> type[FewHandles]:
    told = dataclasses.replace(EVERYTHING, max_open_handles=most if announced else 0)

    class Few(FewHandles):
        def __init__(self, fs: MemoryFs) -> None:
            super().__init__(fs, Device(capabilities=told, latency_s=0.01))
            self.most = most

    return Few


def content(folder: int, file: int) -> bytes:
    return b"%d/%d " % (folder, file) * 50


def with_files(make: type[FewHandles]) -> Mounted:
    mount = mounted(make=make)
    for folder in range(FOLDERS):
        mount.fs.make_dirs(b"/%02d" % folder)
        for file in range(FILES):
            mount.fs.put(b"/%02d/%d" % (folder, file), content(folder, file))
    return mount


def device(mount: Mounted) -> FewHandles:
    tree = mount.source.tree(WEB01)
    assert isinstance(tree, FewHandles)
    return tree


async def read(mount: Mounted, ino: Ino) -> bytes:
    files = mount.tree.files
    fh = (await files.open(ino, os.O_RDONLY, COPY)).fh
    data = bytes(await files.read(fh, 0, 1 << 20))
    await files.flush(fh)
    await files.release(fh)
    return data


async def copied(mount: Mounted, ino: Ino, at: bytes = b"") -> dict[bytes, bytes]:
    """Return all files below a directory, as ``cp -r`` reads them."""
    directories = mount.tree.directories
    fh = await directories.open(ino, COPY)
    entries = await directories.entries(fh, 0)
    nodes = [(entry.name, directories.listed(fh, entry)) for entry in entries]
    found: dict[bytes, bytes] = {}
    for name, node in nodes:
        path = at + b"/" + name
        if stat.S_ISDIR(node.attrs.mode):
            found |= await copied(mount, node.ino, path)
        else:
            found[path] = await read(mount, node.ino)
    directories.close(fh)
    return found


EVERY_FILE = {
    b"/%02d/%d" % (folder, file): content(folder, file)
    for folder in range(FOLDERS)
    for file in range(FILES)
}


def quota_of(mount: Mounted) -> HandleQuota:
    return mount.tree.remote.quota(WEB01, device(mount))


@pytest.mark.parametrize("most", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("announced", [True, False], ids=["announced", "silent"])
async def test_a_copy_loses_no_file_to_what_is_read_ahead(
    most: int, announced: bool, autojump_clock: MockClock
) -> None:
    mount = with_files(device_with(most, announced=announced))
    home = (await mount.look(HOME)).ino
    assert await copied(mount, home) == EVERY_FILE
    assert quota_of(mount).retried <= (0 if announced else MOST_RETRIES)
    if announced:
        assert device(mount).refused == 0
    # What was read ahead is used: no file is opened twice, but for a few refused.
    twice = device(mount).calls["open"] - len(EVERY_FILE)
    assert most <= 4 or 0 <= twice <= MOST_RETRIES
    await trio.sleep(2)
    assert device(mount).open_files == 0
    assert quota_of(mount).count == 0


@pytest.mark.parametrize("most", [8, 16])
async def test_programs_side_by_side_lose_no_file(
    most: int, autojump_clock: MockClock
) -> None:
    mount = with_files(device_with(most, announced=False))
    home = (await mount.look(HOME)).ino
    found: list[dict[bytes, bytes]] = []

    async def copy() -> None:
        found.append(await copied(mount, home))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(copy)
    assert found == [EVERY_FILE] * 3


async def test_the_limit_that_was_found_counts_for_the_session(
    autojump_clock: MockClock,
) -> None:
    mount = with_files(device_with(8, announced=False))
    home = (await mount.look(HOME)).ino
    await copied(mount, home)
    first = device(mount)
    assert 4 <= quota_of(mount).limit <= 8
    await trio.sleep(10)
    refused = first.refused
    await copied(mount, home)
    assert device(mount) is first
    assert first.refused == refused
    mount.tree.session_closed(WEB01)
    assert quota_of(mount).limit == 0


class RefusesOne(FewHandles):
    """Refuses one file, always; it has handles enough."""

    most = 1000

    async def open(
        self, path: RemotePath, mode: OpenMode, permissions: int | None = None
    ) -> tuple[RemoteFile, Attrs]:
        if path.endswith(b"/00/5"):
            await self.round_trip("refused")
            raise RemoteError(self.code, "open")
        return await super().open(path, mode, permissions)


async def sent_for(code: int, *, is_shared: bool) -> int:
    """Return how often a program's open goes out that is refused with ``code``."""
    mount = with_files(type("Refuses", (RefusesOne,), {"code": code}))
    ino = (await mount.look(HOME + b"/00/5")).ino
    use = quota_of(mount).begin()
    if not is_shared:
        use.end()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_when_needed, use)
        with pytest.raises(RemoteError) as caught:
            await mount.tree.files.open(ino, os.O_RDONLY, COPY)
        nursery.cancel_scope.cancel()
    assert caught.value.code == (errno.ESTALE if code == errno.ENOENT else code)
    assert use.needed.cancel_called == (device(mount).calls["refused"] > 1)
    return device(mount).calls["refused"]


async def end_when_needed(use: HandleUse) -> None:
    with use.needed:
        await trio.sleep_forever()
    use.end()


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL, errno.EOPNOTSUPP])
async def test_a_refusal_that_may_mean_no_handle_is_sent_once_more(
    code: int, autojump_clock: MockClock
) -> None:
    assert await sent_for(code, is_shared=True) == 2


@pytest.mark.parametrize(
    "code", [errno.ENOENT, errno.EACCES, errno.EPERM, errno.EEXIST, errno.EISDIR]
)
async def test_a_clear_refusal_is_sent_once(
    code: int, autojump_clock: MockClock
) -> None:
    assert await sent_for(code, is_shared=True) == 1


async def test_a_refusal_while_nothing_else_is_in_use_is_sent_once(
    autojump_clock: MockClock,
) -> None:
    assert await sent_for(errno.EIO, is_shared=False) == 1


def test_what_a_look_made_of_a_bare_failure_may_still_mean_no_handle() -> None:
    def explained(said: int, found: int) -> RemoteError:
        error = RemoteError(found, "open")
        error.__cause__ = RemoteError(said, "open")
        return error

    assert may_be_full(explained(errno.EIO, errno.ENOSPC))  # the disk is full as well
    assert not may_be_full(explained(errno.EIO, errno.EISDIR))
    assert not may_be_full(explained(errno.ENOENT, errno.ENOENT))


async def test_a_listing_ahead_that_takes_long_is_broken_off(
    autojump_clock: MockClock,
) -> None:
    quota = HandleQuota("acme/root@web01", lambda: 0)
    use = quota.begin()

    async def list_for_ever() -> None:
        with use.late:
            await trio.sleep_forever()
        use.end()

    refusals = [RemoteError(errno.EIO, "open")]

    async def get() -> str:
        await trio.lowlevel.checkpoint()
        if refusals:
            raise refusals.pop()
        return "opened"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(list_for_ever)
        assert await quota.open(get) == "opened"
    assert trio.current_time() >= PATIENCE_S


def test_reading_ahead_leaves_room_for_a_program() -> None:
    open_files = 0
    quota = HandleQuota("acme/root@web01", lambda: open_files, announced=lambda: 8)
    begun = 0
    while quota.has_room:
        quota.begin()
        begun += 1
    assert begun == 6
    quota = HandleQuota("acme/root@web01", lambda: open_files, announced=lambda: 8)
    open_files = 6
    assert not quota.has_room


async def test_a_listing_that_never_ends_holds_up_no_open_for_ever(
    autojump_clock: MockClock,
) -> None:
    quota = HandleQuota("acme/root@web01", lambda: 2, announced=lambda: 3)

    async def get() -> str:
        await trio.lowlevel.checkpoint()
        return "opened"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(quota.list, trio.sleep_forever)
        await wait_all_tasks_blocked()
        assert await quota.open(get) == "opened"
        nursery.cancel_scope.cancel()
    assert trio.current_time() <= 3 * PATIENCE_S


async def test_a_folder_opens_while_programs_hold_all_handles(
    autojump_clock: MockClock,
) -> None:
    """sqlite syncs the folder beside its two open files, and reads no entry."""
    mount = with_files(device_with(2, announced=True))
    files, directories = mount.tree.files, mount.tree.directories
    held = [
        (await files.open((await mount.look(HOME + name)).ino, os.O_RDONLY, COPY)).fh
        for name in (b"/00/0", b"/00/1")
    ]
    folder = (await mount.look(HOME + b"/00")).ino
    await trio.sleep(60)  # no listing is fresh
    lists = device(mount).calls["list_dir"]
    fh = await directories.open(folder, COPY)
    directories.check(fh)
    assert device(mount).calls["list_dir"] == lists
    with pytest.raises(RemoteError):
        await directories.entries(fh, 0)
    await files.release(held.pop())
    assert len(list(await directories.entries(fh, 0))) == FILES
    directories.close(fh)
    await files.release(held.pop())


async def test_an_open_that_waited_for_a_handle_is_not_sent_again(
    autojump_clock: MockClock,
) -> None:
    """EMFILE is the session's own, after a wait: a second wait finds no more."""
    quota = HandleQuota("acme/root@web01", lambda: 0)
    calls = 0

    async def get() -> str:
        nonlocal calls
        await trio.lowlevel.checkpoint()
        calls += 1
        raise RemoteError(errno.EMFILE, "open")

    with pytest.raises(RemoteError):
        await quota.list(get)
    assert calls == 1
