"""Writes that are spread over several channels are the same writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import asyncssh
import pytest
import trio

from pamfs.errors import RemoteError
from pamfs.model import AttrChange, RemotePath
from pamfs.transport.base import OpenMode, RemoteFile
from pamfs.transport.sftp import file as sftp_file
from pamfs.transport.sftp import striping
from pamfs.transport.sftp.file import SftpFile
from pamfs.transport.sftp.server import start_client
from pamfs.transport.sftp.striping import ChannelOpener
from pamfs.transport.sftp.tree import SftpTree
from pamfs.transport.sftp.wire import open_session
from tests.contracts.implementations import (
    Sftp,
    sftp_over_openssh,
)
from tests.contracts.long_files import (
    CONTENT,
    STEP,
    content_at,
    grow,
    handles_of,
    long_content,
    make_far,
    write_all,
    write_piece,
)
from tests.contracts.promise import NEW, under
from tests.contracts.test_remote import handles_on
from tests.limits import HANG_S

NANOS = 1_000_000_000


@pytest.fixture(autouse=True)
def everything_is_far(monkeypatch: pytest.MonkeyPatch) -> None:
    make_far(monkeypatch)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Sftp]:
    with sftp_over_openssh(tmp_path) as sftp:
        yield sftp


@pytest.fixture
def path(device: Sftp, folder_name: str) -> RemotePath:
    return under(device.new_folder(folder_name), b"f")


@asynccontextmanager
async def wide_file(
    device: Sftp, path: RemotePath, mode: OpenMode = NEW
) -> AsyncIterator[RemoteFile]:
    """Open a file whose writes go by four channels; the test closes it."""
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            tree, _ = device.wide_tree(nursery, 4)
            file, _ = await tree.open(path, mode, 0o600)
            with unhurried():
                await grow(file)
            assert handles_of(file) == 4
            yield file


@contextmanager
def unhurried() -> Iterator[None]:
    """Find further handles however long this machine takes for a write or a look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(striping, "_NEXT_S", HANG_S)
        patch.setattr(striping, "_LOOK_S", HANG_S)
        patch.setattr(striping, "_ROUNDS", 1000)
        yield


async def test_what_went_by_four_channels_is_what_was_written(
    device: Sftp, path: RemotePath
) -> None:
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            tree, _ = device.wide_tree(nursery, 4)
            file, _ = await tree.open(path, NEW, 0o600)
            before = await file.stat()
            with unhurried():
                half = await grow(file)
            assert handles_of(file) == 4
            end = half + len(CONTENT)
            await write_all(file, half, end)
            sent = [client._handler._next_pktid for client in device.opened]
            after = await file.stat()
            await file.close()
    assert content_at(path) == long_content(end)
    # OPEN, two FSTATs, limits, the CLOSE; the rest are writes.
    assert len(sent) == 3
    assert min(sent) >= 10
    assert after.size == end
    assert after.atime_ns == before.atime_ns
    assert abs(after.mtime_ns - before.mtime_ns) <= 60 * NANOS
    assert handles_on(tree, path) == 0


async def test_a_second_file_needs_no_new_channel(
    device: Sftp, path: RemotePath
) -> None:
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            tree, _ = device.wide_tree(nursery, 3)
            for name in (path, RemotePath(path + b"2")):
                file, _ = await tree.open(name, NEW, 0o600)
                with unhurried():
                    end = await grow(file)
                assert handles_of(file) == 3
                await file.close()
                assert content_at(name) == long_content(end)
    assert device.asked == 2


async def test_a_proxy_that_allows_one_channel_is_asked_once(tmp_path: Path) -> None:
    with sftp_over_openssh(tmp_path, more="MaxSessions 1") as device:
        folder = device.new_folder("f")
        with trio.fail_after(HANG_S):
            async with trio.open_nursery() as nursery:
                tree, further = device.wide_tree(nursery, 4)
                first, _ = await tree.open(under(folder, b"a"), NEW, 0o600)
                end = await grow(first)
                assert handles_of(first) == 1
                second, _ = await tree.open(under(folder, b"b"), NEW, 0o600)
                await write_all(second)
                assert isinstance(second, SftpFile)
                assert second._widened is None
                await first.close()
                await second.close()
        assert device.asked == 1
        assert further.refused == {"proxy"}
        assert content_at(under(folder, b"a")) == long_content(end)
        assert content_at(under(folder, b"b")) == CONTENT


@pytest.mark.parametrize("most", [0, 1])
async def test_one_channel_can_be_wanted(
    device: Sftp, path: RemotePath, most: int
) -> None:
    async with trio.open_nursery() as nursery:
        tree, _ = device.wide_tree(nursery, most)
        file, _ = await tree.open(path, NEW, 0o600)
        await write_all(file)
        await file.close()
    assert device.asked == 0


async def test_near_devices_and_short_files_need_one_channel(
    device: Sftp, path: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with trio.open_nursery() as nursery:
        tree, _ = device.wide_tree(nursery, 4)
        file, _ = await tree.open(path, NEW, 0o600)
        await write_all(file, end=1 << 20)
        monkeypatch.setattr(sftp_file, "LONG_BYTES", len(CONTENT))
        await write_all(file, start=1 << 20)
        monkeypatch.setattr(sftp_file, "FAR_S", 1000.0)
        await write_all(file)
        await file.close()
    assert device.asked == 0


async def no_answer(device: Sftp) -> asyncssh.SFTPClient:
    del device
    await asyncio.Event().wait()
    raise AssertionError


async def closed_again(device: Sftp) -> asyncssh.SFTPClient:
    del device
    raise asyncssh.SFTPConnectionLost("Connection closed")


async def connection_lost(device: Sftp) -> asyncssh.SFTPClient:
    connection = device.connections[0]
    asyncio.get_running_loop().call_soon(connection.abort)
    writer, reader, _ = await open_session(connection)
    return await start_client(connection, reader, writer)


class LostMeanwhile:
    """A connection that ends while a channel of it is opened, as asyncssh has it."""

    async def open_session(self, **options: object) -> None:
        assert not options, "self._conn is not None"


async def test_a_connection_that_ends_while_a_channel_is_opened_is_lost() -> None:
    connection = cast("asyncssh.SSHClientConnection", LostMeanwhile())
    with pytest.raises(asyncssh.ConnectionLost):
        await open_session(connection)


Opening = Callable[[Sftp], Coroutine[Any, Any, asyncssh.SFTPClient]]


def tree_that_opens(
    device: Sftp, nursery: trio.Nursery, opening: Opening
) -> tuple[SftpTree, ChannelOpener]:
    async def opened() -> asyncssh.SFTPClient:
        device.asked += 1
        return await opening(device)

    further = ChannelOpener(opened, 4, "proxy")
    return SftpTree(device.bridge, device.client, nursery, further), further


async def test_nobody_waits_for_a_channel_that_is_being_opened(
    device: Sftp, path: RemotePath
) -> None:
    with trio.fail_after(striping._OPEN_S / 2):
        async with trio.open_nursery() as nursery:
            tree, _ = tree_that_opens(device, nursery, no_answer)
            file, _ = await tree.open(path, NEW | OpenMode.READ, 0o600)
            await write_all(file)
            assert isinstance(file, SftpFile)
            assert file._widened is not None
            assert (await file.stat()).size == len(CONTENT)
            await file.set_attrs(AttrChange(mode=0o640))
            await tree.set_attrs(path, AttrChange(mode=0o644))
            assert await file.read_at(0, 5) == CONTENT[:5]
            await file.close()
            assert not file._widened.is_set()
            nursery.cancel_scope.cancel()
    assert device.asked == 1


@pytest.mark.parametrize("opening", [no_answer, closed_again, connection_lost])
async def test_only_a_refusal_is_remembered_longer_than_the_session(
    device: Sftp,
    path: RemotePath,
    opening: Opening,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(striping, "_OPEN_S", 1.0)
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            tree, further = tree_that_opens(device, nursery, opening)
            file, _ = await tree.open(path, NEW, 0o600)
            with suppress(BaseExceptionGroup):
                await grow(file)
            assert isinstance(file, SftpFile)
            assert file._widened is not None
            await file._widened.wait()
            assert handles_of(file) == 1
            assert not tree._channels.may_grow
            if opening is not connection_lost:
                await file.close()
    assert device.asked == 1
    assert not further.refused


def take_its_place(path: RemotePath) -> None:
    other = Path((path + b"-other").decode())
    other.write_bytes(b"other")
    other.chmod(0o600)
    other.rename(Path(path.decode()))


def take_its_name(path: RemotePath) -> None:
    Path(path.decode()).unlink()


@pytest.mark.parametrize("happens", [take_its_place, take_its_name])
async def test_another_file_at_the_path_is_left_alone(
    device: Sftp, path: RemotePath, happens: Callable[[RemotePath], None]
) -> None:
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            tree, _ = device.wide_tree(nursery, 4)
            file, _ = await tree.open(path, NEW | OpenMode.READ, 0o600)
            happens(path)
            end = await grow(file)
            assert handles_of(file) == 1
            assert await file.read_at(0, len(CONTENT)) == CONTENT[:end]
            await file.close()
    assert happens is take_its_name or content_at(path) == b"other"
    assert handles_on(tree, path) == 0


async def test_what_is_sent_behind_writes_happens_behind_them(
    device: Sftp, path: RemotePath
) -> None:
    async with wide_file(device, path, NEW | OpenMode.READ) as file:
        start = (await file.stat()).size
        end = start + len(CONTENT)
        async with trio.open_nursery() as writing:
            for at in range(start, end, STEP):
                await writing.start(write_piece, file, at, end)
            wanted = AttrChange(atime_ns=5 * NANOS, mtime_ns=6 * NANOS)
            attrs = await file.set_attrs(wanted)
        assert (attrs.size, attrs.mtime_ns) == (end, 6 * NANOS)
        assert await file.stat() == attrs
        async with trio.open_nursery() as writing:
            for at in range(0, len(CONTENT), STEP):
                await writing.start(write_piece, file, at, len(CONTENT))
            assert await file.read_at(0, len(CONTENT)) == CONTENT
        await file.close()


async def test_writes_of_the_same_bytes_keep_their_order(
    device: Sftp, path: RemotePath
) -> None:
    async with wide_file(device, path) as file:
        async with trio.open_nursery() as writing:
            for n in range(100):
                data = bytes([n]) * (100_000 + n)
                writing.start_soon(file.write_at, 7 * (n % 3), data)
                await trio.lowlevel.checkpoint()
        await file.close()
    stored = content_at(path)
    assert stored[14:100_000] == bytes([99]) * (100_000 - 14)


async def test_a_channel_that_ends_takes_nothing_along(
    device: Sftp, path: RemotePath
) -> None:
    async with wide_file(device, path) as file:
        start = (await file.stat()).size
        end = start + len(CONTENT)
        async with trio.open_nursery() as writing:
            writing.start_soon(write_all, file, start, end)
            for client in device.opened[:2]:
                await trio.lowlevel.checkpoint()
                device.exit(client)
        await file.close()
    assert content_at(path) == long_content(end)


async def test_an_error_on_any_channel_is_told(
    device: Sftp, path: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with wide_file(device, path) as file:
        assert isinstance(file, SftpFile)
        for way in file._stripes._stripes[1:]:
            monkeypatch.setattr(way.held, "handle", b"\0\0\0\x77")
        told = 0

        async def write(at: int) -> None:
            nonlocal told
            try:
                await file.write_at(at, bytes(STEP))
            except RemoteError:
                told += 1

        async with trio.open_nursery() as writing:
            for at in range(0, 40 * STEP, STEP):
                writing.start_soon(write, at)
        assert 0 < told < 40
        with pytest.raises(RemoteError):
            await file.close()
