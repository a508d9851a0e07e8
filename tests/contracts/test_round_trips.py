"""What each request of ``RemoteTree`` costs on the way: a table of round trips."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from pamfs.model import AttrChange, RemotePath
from pamfs.transport.base import OpenMode, RemoteFile, RemoteTree
from pamfs.transport.sftp.requests import RoundTripEstimate
from tests.contracts.implementations import Sftp, sftp_over_openssh
from tests.contracts.promise import NEW, READ, WRITE, under
from tests.fakes.far import FarAway
from tests.limits import HANG_S

NANOS = 1_000_000_000
TIMES = AttrChange(atime_ns=5 * NANOS, mtime_ns=6 * NANOS)
Costed = Callable[[RemoteTree, RemotePath], Awaitable[object]]
CostedFile = Callable[[RemoteFile], Awaitable[object]]


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sftp]:
    with sftp_over_openssh(tmp_path_factory.mktemp("far")) as sftp:
        yield sftp


@pytest.fixture
def here(device: Sftp, folder_name: str) -> RemotePath:
    folder = device.new_folder(folder_name)
    path = Path(folder.decode())
    (path / "file").write_bytes(b"12345")
    (path / "other").write_bytes(b"67")
    (path / "link").symlink_to("file")
    (path / "few").mkdir()
    (path / "few" / "f").touch()
    (path / "empty").mkdir()
    return folder


async def cost(device: Sftp, work: Callable[[RemoteTree], Awaitable[object]]) -> int:
    """Return how many round trips ``work`` waits for."""
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            tree = device.new_tree(nursery)
            far = FarAway(device.client)
            try:
                await work(tree)
            finally:
                far.bring_back()
    return far.round_trips


BY_NAME: dict[str, tuple[int, Costed]] = {
    "lstat": (1, lambda t, h: t.lstat(under(h, b"file"))),
    "open": (1, lambda t, h: t.open(under(h, b"file"), READ)),
    "open to append": (
        1,
        lambda t, h: t.open(under(h, b"file"), WRITE | OpenMode.APPEND),
    ),
    "open and empty": (
        1,
        lambda t, h: t.open(under(h, b"file"), WRITE | OpenMode.TRUNCATE),
    ),
    # The attributes of the link are not the file's.
    "open through a link": (2, lambda t, h: t.open(under(h, b"link"), READ)),
    "create": (1, lambda t, h: t.open(under(h, b"new"), NEW, 0o600)),
    "mkdir": (1, lambda t, h: t.mkdir(under(h, b"new"), 0o700)),
    "symlink": (1, lambda t, h: t.symlink(b"x", under(h, b"new"))),
    "link": (1, lambda t, h: t.link(under(h, b"file"), under(h, b"new"))),
    "readlink": (1, lambda t, h: t.readlink(under(h, b"link"))),
    "unlink": (1, lambda t, h: t.unlink(under(h, b"file"))),
    "rmdir": (1, lambda t, h: t.rmdir(under(h, b"empty"))),
    "rename over": (
        1,
        lambda t, h: t.rename(under(h, b"file"), under(h, b"other"), replace=True),
    ),
    "rename to a free name": (
        1,
        lambda t, h: t.rename(under(h, b"file"), under(h, b"new"), replace=False),
    ),
    "chmod": (1, lambda t, h: t.set_attrs(under(h, b"file"), AttrChange(mode=0o600))),
    "chmod and utimes": (
        1,
        lambda t, h: t.set_attrs(
            under(h, b"file"), AttrChange(mode=0o640, atime_ns=NANOS, mtime_ns=NANOS)
        ),
    ),
    "utimes": (1, lambda t, h: t.set_attrs(under(h, b"file"), TIMES)),
    # Version 3 sets both times or none.
    "one time": (
        2,
        lambda t, h: t.set_attrs(under(h, b"file"), AttrChange(mtime_ns=NANOS)),
    ),
    "truncate": (1, lambda t, h: t.set_attrs(under(h, b"file"), AttrChange(size=2))),
    "statvfs": (1, lambda t, h: t.space(h)),
    "list nothing": (2, lambda t, h: t.list_dir(under(h, b"empty"))),
    "list a few": (2, lambda t, h: t.list_dir(under(h, b"few"))),
}


@pytest.mark.parametrize("name", BY_NAME)
async def test_by_name(device: Sftp, here: RemotePath, name: str) -> None:
    trips, ask = BY_NAME[name]
    assert await cost(device, lambda tree: ask(tree, here)) == trips


OF_A_FILE: dict[str, tuple[int, CostedFile]] = {
    "read": (1, lambda f: f.read_at(0, 4096)),
    "read to the end and beyond": (1, lambda f: f.read_at(2, 4096)),
    "read in parts": (1, lambda f: f.read_at(0, 8 << 20)),
    "write": (1, lambda f: f.write_at(0, b"x")),
    "write in parts": (1, lambda f: f.write_at(0, bytes(8 << 20))),
    "fstat": (1, lambda f: f.stat()),
    "fchmod": (1, lambda f: f.set_attrs(AttrChange(mode=0o640))),
    "ftruncate": (1, lambda f: f.set_attrs(AttrChange(size=3))),
    "futimes": (1, lambda f: f.set_attrs(TIMES)),
    "fsync": (1, lambda f: f.fsync()),
    "close": (1, lambda f: f.close()),
}


@pytest.mark.parametrize("name", OF_A_FILE)
async def test_of_an_open_file(device: Sftp, here: RemotePath, name: str) -> None:
    trips, ask = OF_A_FILE[name]

    async def open_and_ask(tree: RemoteTree) -> None:
        file, _ = await tree.open(under(here, b"file"), READ | WRITE)
        await ask(file)

    assert await cost(device, open_and_ask) == 1 + trips


async def test_a_long_listing_takes_the_logarithm_of_its_length(
    device: Sftp, here: RemotePath
) -> None:
    for n in range(1000):
        (Path(here.decode()) / "few" / str(n)).touch()
    # 100 names in each of OpenSSH's answers: waves of 2, 4 and 8.
    assert await cost(device, lambda tree: tree.list_dir(under(here, b"few"))) == 4


async def test_the_way_has_a_length_once_it_was_gone(
    device: Sftp, here: RemotePath
) -> None:
    async with trio.open_nursery() as nursery:
        tree = device.new_tree(nursery)
        assert tree.round_trip_s == 0.0
        began = trio.current_time()
        await tree.lstat(here)
        assert 0.0 < tree.round_trip_s <= trio.current_time() - began


def test_a_way_is_believed_to_be_shorter_at_once_and_longer_slowly() -> None:
    way = RoundTripEstimate()
    way.took(0.1)
    way.took(10.0)  # it waited behind something
    assert 0.1 < way.seconds < 1.0
    way.took(0.05)
    assert way.seconds == 0.05
    for _ in range(200):
        way.took(0.2)
    assert 0.19 < way.seconds < 0.2
