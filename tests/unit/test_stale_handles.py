"""What is open in a session that was closed on purpose, and the last stretch of one."""

from __future__ import annotations

import errno
import os

import pytest

from pamfs.errors import RemoteError
from pamfs.model import AttrChange, FileHandle, Name
from tests.conftest import LogLedger
from tests.fakes.mounted import CALLER, WEB01, Mounted, mounted

PATH = b"acme/root@web01/notes"


def with_file(content: bytes = b"text") -> Mounted:
    world = mounted()
    world.fs.put(b"/notes", content)
    return world


async def opened(world: Mounted, flags: int = os.O_RDONLY) -> FileHandle:
    node = await world.look(PATH)
    return (await world.tree.files.open(node.ino, flags, CALLER)).fh


def close(world: Mounted) -> None:
    """Close the session as a check-in does."""
    tree = world.source.tree(WEB01)
    assert tree is not None
    world.tree.session_revoked(WEB01)
    world.tree.session_closed(WEB01)
    tree.lose()


async def test_after_a_check_in_a_handle_is_stale_and_logs_nobody_in() -> None:
    world = with_file()
    fh = await opened(world)
    node = await world.look(PATH)
    close(world)
    for _ in range(2):
        with pytest.raises(RemoteError) as caught:
            await world.tree.files.read(fh, 0, 10)
        assert caught.value.code == errno.ESTALE
        with pytest.raises(RemoteError) as caught:
            await world.tree.nodes.getattr(node.ino, CALLER)
        assert caught.value.code == errno.ESTALE
    assert world.source.logins[WEB01] == 1


async def test_a_stale_handle_stays_stale_when_somebody_logs_in_again() -> None:
    world = with_file()
    fh = await opened(world)
    close(world)
    again = await opened(world)
    assert await world.tree.files.read(again, 0, 10) == b"text"
    with pytest.raises(RemoteError) as caught:
        await world.tree.files.read(fh, 0, 10)
    assert caught.value.code == errno.ESTALE
    assert world.source.logins[WEB01] == 2


async def test_stale_handles_do_not_keep_the_next_session_open() -> None:
    world = with_file()
    fh = await opened(world)
    assert world.source.pins[WEB01] == 1
    close(world)
    assert world.source.pins[WEB01] == 0
    await world.tree.files.release(fh)
    assert world.source.pins[WEB01] == 0


async def test_a_lost_session_is_opened_again_behind_a_handle() -> None:
    world = with_file()
    fh = await opened(world)
    tree = world.source.tree(WEB01)
    assert tree is not None
    world.tree.session_closed(WEB01)
    tree.lose()
    assert await world.tree.files.read(fh, 0, 10) == b"text"


async def test_a_write_to_a_stale_file_fails_and_the_log_names_it(
    expect_log: LogLedger,
) -> None:
    expect_log("acme/root@web01/notes: data was not stored")
    world = with_file()
    fh = await opened(world, os.O_WRONLY)
    await world.tree.files.write(fh, 0, b"TEXT")
    close(world)
    with pytest.raises(RemoteError) as caught:
        await world.tree.files.write(fh, 4, b"more")
    assert caught.value.code == errno.ESTALE
    with pytest.raises(RemoteError):
        await world.tree.files.flush(fh)
    assert world.source.logins[WEB01] == 1


async def test_an_open_directory_is_stale_and_its_listing_gone() -> None:
    world = with_file()
    node = await world.look(b"acme/root@web01")
    fh = await world.tree.directories.open(node.ino, CALLER)
    assert list(await world.tree.directories.entries(fh, 0))
    close(world)
    with pytest.raises(RemoteError) as caught:
        await world.tree.directories.entries(fh, 1)
    assert caught.value.code == errno.ESTALE
    assert list(world.tree.handles.directory(fh).stream.items(0)) == []


async def test_no_attribute_outlives_the_session() -> None:
    world = with_file()
    node = await world.look(PATH)
    assert world.tree.inodes.get(node.ino).seen is not None
    close(world)
    assert world.tree.inodes.get(node.ino).seen is None


async def test_in_the_last_stretch_everything_can_be_read_and_nothing_changed(
    expect_log: LogLedger,
) -> None:
    expect_log("acme/root@web01/notes: data was not stored")
    world = with_file()
    fh = await opened(world, os.O_RDWR)
    await world.tree.files.write(fh, 0, b"TEXT")
    world.source.read_only.add(WEB01)
    node, folder = await world.look(PATH), await world.look(b"acme/root@web01")
    assert await world.tree.files.read(fh, 0, 10) == b"TEXT"
    await world.tree.files.fsync(fh)
    create = (folder.ino, Name(b"new"))
    for refused in (
        world.tree.files.create(create, os.O_WRONLY, 0o600, CALLER),
        world.tree.files.open(node.ino, os.O_WRONLY, CALLER),
        world.tree.nodes.setattr(node.ino, AttrChange(mode=0o600), CALLER),
        world.tree.directories.mkdir(folder.ino, Name(b"d"), 0o700, CALLER),
        world.tree.directories.unlink(folder.ino, Name(b"notes"), CALLER),
        world.tree.files.write(fh, 4, b"more"),
    ):
        with pytest.raises(RemoteError) as caught:
            await refused
        assert caught.value.code == errno.EROFS
    assert await opened(world) != fh
