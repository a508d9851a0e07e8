"""A file that is replaced on the device while it is open here.

One page cache must not serve both: what was open stays what it was, and the
name leads to the new file.
"""

from __future__ import annotations

import errno
import os

import pytest

from pamfs.errors import RemoteError
from pamfs.model import FileHandle, Ino
from tests.fakes.mounted import CALLER, WEB01, Mounted, mounted

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
