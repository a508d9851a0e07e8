"""A file that is replaced on the device while it is open here.

One page cache must not serve both: what was open stays what it was, and the
name leads to the new file.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable

import pytest

from pamfs.errors import RemoteError
from pamfs.model import AttrChange, Attrs, FileHandle, Ino, Name, RemotePath
from pamfs.transport.base import OpenMode, RemoteFile
from tests.fakes.mounted import CALLER, WEB01, Mounted, mounted
from tests.fakes.remote import FakeTree

PATH = b"acme/root@web01/f"


async def opened(mount: Mounted, flags: int = os.O_RDONLY) -> tuple[Ino, FileHandle]:
    """Put a file on the device and open it on the mount."""
    mount.fs.put(b"/f", b"old")
    ino = (await mount.look(PATH)).ino
    return ino, (await mount.tree.files.open(ino, flags, CALLER)).fh


def replace(mount: Mounted) -> None:
    """Save by rename, as an editor on the device does."""
    mount.fs.put(b"/f~", b"newer")
    mount.fs.rename(b"/f~", b"/f", replace=True)


async def test_the_name_leads_to_the_new_file_and_the_handle_to_the_old() -> None:
    mount = mounted()
    ino, fh = await opened(mount)
    replace(mount)
    again = await mount.look(PATH)
    assert again.ino != ino
    assert again.attrs.size == 5
    other = (await mount.tree.files.open(again.ino, os.O_RDONLY, CALLER)).fh
    assert await mount.tree.files.read(fh, 0, 10) == b"old"
    assert await mount.tree.files.read(other, 0, 10) == b"newer"


async def test_the_open_file_keeps_its_attributes() -> None:
    mount = mounted()
    ino, _ = await opened(mount)
    replace(mount)
    assert (await mount.tree.nodes.getattr(ino, CALLER)).attrs.size == 3
    await mount.look(PATH)
    assert (await mount.tree.nodes.getattr(ino, CALLER)).attrs.size == 3
    assert (await mount.tree.nodes.getattr(ino, CALLER)).attrs.nlink == 0


async def test_an_open_of_the_known_inode_is_stale_and_leaves_no_handle() -> None:
    mount = mounted()
    ino, fh = await opened(mount)
    replace(mount)
    with pytest.raises(RemoteError) as caught:
        await mount.tree.files.open(ino, os.O_RDONLY, CALLER)
    assert caught.value.code == errno.ESTALE
    tree = mount.source.tree(WEB01)
    assert tree is not None
    assert tree.open_files == 1
    await mount.tree.files.release(fh)
    assert tree.open_files == 0
    await mount.tree.files.open(ino, os.O_RDONLY, CALLER)


async def test_a_file_that_grows_on_the_device_stays_the_same_file() -> None:
    mount = mounted()
    ino, fh = await opened(mount)
    node = mount.fs.node(b"/f")
    node.content.extend(b" and more")
    node.touched(mount.fs.clock_ns())
    again = await mount.look(PATH)
    assert again.ino == ino
    assert again.attrs.size == 12
    assert await mount.tree.files.read(fh, 0, 20) == b"old and more"
    await mount.tree.files.open(ino, os.O_RDONLY, CALLER)


async def test_a_file_that_is_written_here_stays_the_same_file() -> None:
    mount = mounted()
    ino, fh = await opened(mount, os.O_RDWR)
    await mount.tree.files.write(fh, 0, b"written")
    assert (await mount.look(PATH)).ino == ino
    await mount.tree.files.open(ino, os.O_RDONLY, CALLER)


async def test_an_unchanged_file_costs_no_round_trip_more_for_being_open() -> None:
    mount = mounted()
    await opened(mount)
    tree = mount.source.tree(WEB01)
    assert tree is not None
    tree.calls.clear()
    await mount.look(PATH)
    assert tree.calls == {"lstat": 1}


async def test_an_open_file_that_is_removed_on_the_device_keeps_its_attributes() -> (
    None
):
    mount = mounted()
    ino, fh = await opened(mount)
    mount.fs.unlink(b"/f")
    assert (await mount.tree.nodes.getattr(ino, CALLER)).attrs.size == 3
    assert await mount.tree.files.read(fh, 0, 10) == b"old"
    with pytest.raises(RemoteError) as caught:
        await mount.look(PATH)
    assert caught.value.code == errno.ENOENT


def lose(mount: Mounted) -> None:
    """Lose the session as a broken line does."""
    tree = mount.source.tree(WEB01)
    assert tree is not None
    mount.tree.session_closed(WEB01)
    tree.lose()


async def code_of(asked: Awaitable[object]) -> int:
    with pytest.raises(RemoteError) as caught:
        await asked
    return caught.value.code


async def replaced_while_away(content: bytes | None) -> tuple[Mounted, Ino, FileHandle]:
    """Open a file, lose the session, and replace the file; None removes it."""
    mount = mounted()
    ino, fh = await opened(mount)
    lose(mount)
    mount.fs.unlink(b"/f")
    if content is not None:
        mount.fs.put(b"/f", content)
    return mount, ino, fh


@pytest.mark.parametrize("content", [b"", b"x", b"much longer", None])
async def test_what_is_open_of_a_lost_session_is_stale_once_its_name_is_anothers(
    content: bytes | None,
) -> None:
    mount, ino, fh = await replaced_while_away(content)
    nodes, files = mount.tree.nodes, mount.tree.files
    # The kernel asks for the size first, and reads no further than that.
    assert await code_of(nodes.getattr(ino, CALLER)) == errno.ESTALE
    assert await code_of(files.read(fh, 0, 10)) == errno.ESTALE
    assert await code_of(nodes.setattr(ino, AttrChange(size=0), CALLER)) == (
        errno.ESTALE
    )
    assert await code_of(nodes.setattr(ino, AttrChange(mode=0o600), CALLER)) == (
        errno.ESTALE
    )
    assert await code_of(files.open(ino, os.O_RDONLY, CALLER)) == errno.ESTALE
    if content is not None:
        assert mount.fs.node(b"/f").content == content
        assert mount.fs.node(b"/f").mode & 0o777 != 0o600


async def test_a_lookup_after_a_lost_session_leads_to_the_new_file() -> None:
    mount, ino, fh = await replaced_while_away(b"x")
    again = await mount.look(PATH)
    assert again.ino != ino
    assert again.attrs.size == 1
    assert await code_of(mount.tree.nodes.getattr(ino, CALLER)) == errno.ESTALE
    assert await code_of(mount.tree.files.read(fh, 0, 10)) == errno.ESTALE
    other = (await mount.tree.files.open(again.ino, os.O_RDONLY, CALLER)).fh
    assert await mount.tree.files.read(other, 0, 10) == b"x"


async def test_the_same_file_after_a_lost_session_is_one_inode() -> None:
    mount = mounted()
    ino, fh = await opened(mount)
    lose(mount)
    assert (await mount.tree.nodes.getattr(ino, CALLER)).attrs.size == 3
    assert (await mount.look(PATH)).ino == ino
    assert await mount.tree.files.read(fh, 0, 10) == b"old"


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_listing_does_not_change_the_size_of_what_is_open(
    is_lost: bool,
) -> None:
    mount = mounted()
    ino, fh = await opened(mount)
    if is_lost:
        lose(mount)
    mount.fs.unlink(b"/f")
    mount.fs.put(b"/f", b"x")
    directories = mount.tree.directories
    home = (await mount.look(b"acme/root@web01")).ino
    dir_fh = await directories.open(home, CALLER)
    shown = [
        directories.listed(dir_fh, entry)
        for entry in await directories.entries(dir_fh, 0)
        if entry.name == b"f"
    ]
    for node in shown:
        assert node.ino == ino
        assert node.attrs.size == 3
        assert node.timeout_s == 0  # the kernel looks the name up again
    assert (await mount.look(PATH)).ino != ino
    if not is_lost:
        assert await mount.tree.files.read(fh, 0, 10) == b"old"


async def refused_open(mount: Mounted, ino: Ino) -> int:
    with pytest.raises(RemoteError) as caught:
        await mount.tree.files.open(ino, os.O_RDONLY, CALLER)
    return caught.value.code


async def test_who_has_no_name_to_look_up_again_is_told_that_it_is_gone() -> None:
    mount = mounted()
    ino, fh = await opened(mount)
    mount.fs.unlink(b"/f")
    # As the kernel does for a descriptor in /proc: twice, without a lookup between.
    assert await refused_open(mount, ino) == errno.ESTALE
    assert await refused_open(mount, ino) == errno.ENOENT
    assert await mount.tree.files.read(fh, 0, 10) == b"old"
    mount.fs.put(b"/f", b"newer")
    again = await mount.look(PATH)
    assert again.ino != ino
    other = (await mount.tree.files.open(again.ino, os.O_RDONLY, CALLER)).fh
    assert await mount.tree.files.read(other, 0, 10) == b"newer"
    assert await refused_open(mount, ino) == errno.ENOENT


async def test_a_file_that_loses_one_name_is_opened_by_the_other() -> None:
    mount = mounted()
    mount.fs.put(b"/f", b"old")
    home, file = await mount.look(b"acme/root@web01"), await mount.look(PATH)
    await mount.tree.directories.link(file.ino, home.ino, Name(b"g"), CALLER)
    mount.fs.unlink(b"/f")
    assert await refused_open(mount, file.ino) == errno.ESTALE
    fh = (await mount.tree.files.open(file.ino, os.O_RDONLY, CALLER)).fh
    assert await mount.tree.files.read(fh, 0, 10) == b"old"
    assert await mount.look(PATH.replace(b"/f", b"/g")) is not None


async def test_a_name_that_is_moved_while_it_is_opened_stays() -> None:
    class Moves(FakeTree):
        """Is told to rename a file while it opens it."""

        async def open(
            self, path: RemotePath, mode: OpenMode, permissions: int | None = None
        ) -> tuple[RemoteFile, Attrs]:
            if path == b"/f":
                await mount.tree.directories.rename(
                    (home, Name(b"f")), (home, Name(b"g")), CALLER, replace=True
                )
            return await super().open(path, mode, permissions)

    mount = mounted(make=Moves)
    mount.fs.put(b"/f", b"old")
    home = (await mount.look(b"acme/root@web01")).ino
    ino = (await mount.look(PATH)).ino
    assert await refused_open(mount, ino) == errno.ESTALE
    fh = (await mount.tree.files.open(ino, os.O_RDONLY, CALLER)).fh
    assert await mount.tree.files.read(fh, 0, 10) == b"old"


async def test_a_name_that_we_remove_while_it_is_opened_is_gone_the_second_time() -> (
    None
):
    class Removes(FakeTree):
        """Is told to remove a file while it opens it."""

        async def open(
            self, path: RemotePath, mode: OpenMode, permissions: int | None = None
        ) -> tuple[RemoteFile, Attrs]:
            await mount.tree.directories.unlink(home, Name(b"f"), CALLER)
            return await super().open(path, mode, permissions)

    mount = mounted(make=Removes)
    mount.fs.put(b"/f", b"old")
    home = (await mount.look(b"acme/root@web01")).ino
    ino = (await mount.look(PATH)).ino
    # Whoever came by name finds out by looking it up; the inode has none now.
    assert await refused_open(mount, ino) == errno.ESTALE
    assert await refused_open(mount, ino) == errno.ENOENT
