"""The tree over fake devices: open files, their errors, and lost sessions."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pamfs.config import Owner
from pamfs.errors import (
    LoginRefusedError,
    RemoteError,
)
from pamfs.model import Caller, Name, RemotePath
from tests.fakes.faults import (
    DeniesWrites,
    FullDisk,
    KeepsModes,
    KeepsOwners,
    NeverAnswers,
)
from tests.fakes.mounted import CALLER, ME, WEB01, mounted, tenant
from tests.fakes.remote import FakeTree

HOME = b"acme/root@web01"


def code_of(caught: pytest.ExceptionInfo[RemoteError]) -> int:
    return caught.value.code


class TestErrorsAreErrors:
    async def test_a_refused_login_is_not_an_empty_folder(self) -> None:
        mount = mounted()
        mount.source.refusal = LoginRefusedError("wrong code")
        home = (await mount.look(HOME)).ino
        with pytest.raises(LoginRefusedError):
            await mount.tree.directories.open(home, CALLER)

    async def test_a_full_disk_is_told_at_the_next_write_and_at_the_end(
        self, expect_log: object
    ) -> None:
        assert callable(expect_log)
        expect_log("data was not stored")
        mount = mounted(make=FullDisk)
        mount.fs.put(b"/f")
        ino = (await mount.look(HOME + b"/f")).ino
        opened = await mount.tree.files.open(ino, os.O_WRONLY, CALLER)
        assert await mount.tree.files.write(opened.fh, 0, b"data") == 4
        await mount.tree.files.writes.stored()
        with pytest.raises(RemoteError) as caught:
            await mount.tree.files.write(opened.fh, 4, b"more")
        assert code_of(caught) == errno.ENOSPC
        # An error that came after the last close is told at the unmount.
        assert "ENOSPC" in mount.tree.unstored()[0]
        await mount.tree.files.release(opened.fh)
        assert "ENOSPC" in mount.tree.unstored()[0]

    async def test_an_error_is_told_by_each_close(self, expect_log: object) -> None:
        assert callable(expect_log)
        expect_log("data was not stored")
        mount = mounted(make=FullDisk)
        mount.fs.put(b"/f")
        ino = (await mount.look(HOME + b"/f")).ino
        opened = await mount.tree.files.open(ino, os.O_WRONLY, CALLER)
        await mount.tree.files.write(opened.fh, 0, b"data")
        for again in (mount.tree.files.flush, mount.tree.files.fsync):
            with pytest.raises(RemoteError) as caught:
                await again(opened.fh)
            assert code_of(caught) == errno.ENOSPC
        await mount.tree.files.release(opened.fh)
        assert mount.tree.unstored() == []

    async def test_denied_writes_are_denied(self, expect_log: object) -> None:
        assert callable(expect_log)
        expect_log("data was not stored")
        mount = mounted(make=DeniesWrites)
        mount.fs.put(b"/f")
        ino = (await mount.look(HOME + b"/f")).ino
        opened = await mount.tree.files.open(ino, os.O_WRONLY, CALLER)
        await mount.tree.files.write(opened.fh, 0, b"data")
        with pytest.raises(RemoteError) as caught:
            await mount.tree.files.flush(opened.fh)
        assert code_of(caught) == errno.EACCES

    async def test_a_device_that_never_answers_times_out(
        self, autojump_clock: MockClock
    ) -> None:
        mount = mounted(make=NeverAnswers)
        home = (await mount.look(HOME)).ino
        with pytest.raises(trio.TooSlowError):
            await mount.tree.nodes.lookup(home, Name(b"f"), CALLER)


class TestNothingIsLeftOpen:
    """What was opened for a request that failed is closed on the device."""

    async def test_a_mode_that_cannot_be_set_is_no_failure(self) -> None:
        mount = mounted(make=KeepsModes)
        home = (await mount.look(HOME)).ino
        await mount.tree.directories.open(home, CALLER)
        tree = mount.source.tree(WEB01)
        assert tree is not None
        tree.device = type(tree.device)(umask=0o077)
        where = (home, Name(b"f"))
        opened, node = await mount.tree.files.create(where, os.O_RDWR, 0o666, CALLER)
        assert stat.S_IMODE(node.attrs.mode) == 0o600
        folder = await mount.tree.directories.mkdir(home, Name(b"d"), 0o777, CALLER)
        assert stat.S_IMODE(folder.attrs.mode) == 0o700
        await mount.tree.files.release(opened.fh)
        assert tree.open_files == 0


class TestALostSession:
    async def test_what_only_asks_is_asked_again(self) -> None:
        mount = mounted()
        mount.fs.put(b"/f", b"x")
        await mount.look(HOME + b"/f")
        tree = mount.source.tree(WEB01)
        assert tree is not None

        async def lose_then_answer(name: str) -> None:
            tree.lose()
            tree.check_alive()

        tree.round_trip = lose_then_answer  # type: ignore[method-assign]  # one instance
        assert (await mount.look(HOME + b"/f")).attrs.size == 1
        assert mount.source.logins[WEB01] == 2

    async def test_a_reader_goes_on_in_the_same_file(self) -> None:
        mount = mounted()
        mount.fs.put(b"/f", b"hello")
        ino = (await mount.look(HOME + b"/f")).ino
        opened = await mount.tree.files.open(ino, os.O_RDONLY, CALLER)
        self.lose(mount.source.tree(WEB01))
        assert await mount.tree.files.read(opened.fh, 1, 100) == b"ello"

    async def test_another_file_under_the_name_is_stale(self) -> None:
        mount = mounted()
        mount.fs.put(b"/f", b"hello")
        ino = (await mount.look(HOME + b"/f")).ino
        opened = await mount.tree.files.open(ino, os.O_RDONLY, CALLER)
        self.lose(mount.source.tree(WEB01))
        mount.fs.unlink(b"/f")
        mount.fs.put(b"/f", b"something else")
        with pytest.raises(RemoteError) as caught:
            await mount.tree.files.read(opened.fh, 0, 100)
        assert code_of(caught) == errno.ESTALE

    async def test_a_removed_open_file_is_stale(self) -> None:
        mount = mounted()
        mount.fs.put(b"/f", b"hello")
        ino = (await mount.look(HOME + b"/f")).ino
        home = (await mount.look(HOME)).ino
        opened = await mount.tree.files.open(ino, os.O_RDONLY, CALLER)
        await mount.tree.directories.unlink(home, Name(b"f"), CALLER)
        assert await mount.tree.files.read(opened.fh, 0, 100) == b"hello"
        assert (await mount.tree.nodes.getattr(ino, CALLER)).attrs.nlink == 0
        self.lose(mount.source.tree(WEB01))
        with pytest.raises(RemoteError) as caught:
            await mount.tree.files.read(opened.fh, 0, 100)
        assert code_of(caught) == errno.ESTALE

    @staticmethod
    def lose(tree: FakeTree | None) -> None:
        assert tree is not None
        tree.lose()


class TestOpenFiles:
    async def test_a_file_made_meanwhile_is_opened_unless_exclusive(self) -> None:
        mount = mounted()
        home = (await mount.look(HOME)).ino
        mount.fs.put(b"/f", b"theirs", mode=0o600)
        where = (home, Name(b"f"))
        files = mount.tree.files
        with pytest.raises(RemoteError) as caught:
            await files.create(where, os.O_RDWR | os.O_EXCL, 0o644, CALLER)
        assert code_of(caught) == errno.EEXIST
        opened, node = await files.create(where, os.O_RDWR, 0o644, CALLER)
        assert await files.read(opened.fh, 0, 100) == b"theirs"
        assert stat.S_IMODE(node.attrs.mode) == 0o600

    async def test_the_page_cache_is_kept_only_for_what_has_long_been_the_same(
        self, autojump_clock: MockClock
    ) -> None:
        mount = mounted()
        # The device's clock is of no use: it may be ahead or behind.
        mount.fs.put(b"/f", b"one").mtime_ns = 4_000_000_000 * 10**9
        ino = (await mount.look(HOME + b"/f")).ino
        kept = []
        for content in (b"one", b"one", b"one", b"other", b"other"):
            mount.fs.node(b"/f").content[:] = content
            opened = await mount.tree.files.open(ino, os.O_RDONLY, CALLER)
            kept.append(opened.keep_cache)
            await mount.tree.files.release(opened.fh)
            await trio.sleep(3)
        # The second open is the first whose pages are beyond doubt.
        assert kept == [False, False, True, False, False]

    async def test_a_change_elsewhere_is_told_to_the_kernel(self) -> None:
        mount = mounted()
        mount.fs.put(b"/f", b"one")
        ino = (await mount.look(HOME + b"/f")).ino
        mount.fs.node(b"/f").content[:] = b"other"
        opened = await mount.tree.files.open(ino, os.O_RDONLY, CALLER)
        assert opened.is_changed

    async def test_appends_bypass_the_page_cache(self) -> None:
        mount = mounted()
        mount.fs.put(b"/f", b"12345")
        ino = (await mount.look(HOME + b"/f")).ino
        flags = os.O_WRONLY | os.O_APPEND
        opened = await mount.tree.files.open(ino, flags, CALLER)
        assert opened.direct_io
        mount.fs.node(b"/f").content += b"678"
        await mount.tree.files.write(opened.fh, 5, b"9")
        await mount.tree.files.flush(opened.fh)
        assert bytes(mount.fs.node(b"/f").content) == b"123456789"

    async def test_open_files_keep_the_session_and_released_ones_do_not(self) -> None:
        mount = mounted()
        mount.fs.put(b"/f", b"x")
        ino = (await mount.look(HOME + b"/f")).ino
        opened = await mount.tree.files.open(ino, os.O_RDONLY, CALLER)
        assert mount.source.pins[WEB01] == 1
        assert mount.tree.handles.usage[WEB01].open_files == 1
        await mount.tree.files.release(opened.fh)
        assert mount.source.pins[WEB01] == 0
        assert mount.tree.handles.usage[WEB01].open_files == 0
        with pytest.raises(RemoteError) as caught:
            await mount.tree.files.read(opened.fh, 0, 1)
        assert code_of(caught) == errno.EBADF


async def test_a_new_file_has_the_set_id_bits_that_were_asked_for() -> None:
    mount = mounted()
    home = (await mount.look(HOME)).ino
    where = (home, Name(b"f"))
    _, node = await mount.tree.files.create(where, os.O_RDWR, 0o6755, CALLER)
    assert stat.S_IMODE(node.attrs.mode) == 0o6755


async def test_a_path_that_no_device_takes_is_too_long() -> None:
    mount = mounted()
    deep = b"/" + b"/".join([b"x" * 200] * 20)
    mount.fs.make_dirs(deep)
    with pytest.raises(RemoteError) as caught:
        await mount.look(HOME + deep + b"/" + b"y" * 100)
    assert code_of(caught) == errno.ENAMETOOLONG


async def what_another_makes(make: type[FakeTree]) -> list[tuple[int, int, int]]:
    """Return owner, group and mode of a file, a folder, a node and a link."""
    mount = mounted(
        tenant(owner=Owner.REMOTE), make=make, me=replace(ME, checks_modes=True)
    )
    home = (await mount.look(HOME)).ino
    other = Caller(pid=9, uid=2000, gid=2000)
    files, directories = mount.tree.files, mount.tree.directories
    where = (home, Name(b"mine"))
    _, made = await files.create(where, os.O_WRONLY, 0o4644, other)
    nodes = [
        made,
        await directories.mkdir(home, Name(b"folder"), 0o755, other),
        await directories.mknod(home, Name(b"node"), stat.S_IFREG | 0o600, other),
        await directories.symlink(home, Name(b"link"), b"mine", other),
    ]
    return [(n.attrs.uid, n.attrs.gid, stat.S_IMODE(n.attrs.mode)) for n in nodes]


async def test_what_another_user_makes_is_given_to_that_user() -> None:
    found = await what_another_makes(FakeTree)
    assert [owner for *owner, _ in found] == [[2000, 2000]] * 4
    assert [mode for *_, mode in found[:3]] == [0o4644, 0o755, 0o600]


async def test_what_cannot_be_given_stays_with_the_devices_account() -> None:
    found = await what_another_makes(KeepsOwners)
    assert [owner for *owner, _ in found] == [[0, 0]] * 4


async def test_a_folder_with_the_set_gid_bit_gives_its_group() -> None:
    mount = mounted(tenant(owner=Owner.REMOTE), me=replace(ME, checks_modes=True))
    mount.fs.mkdir(RemotePath(b"/shared"), 0o2777)
    shared = (await mount.look(HOME + b"/shared")).ino
    other = Caller(pid=9, uid=2000, gid=2000)
    where = (shared, Name(b"f"))
    _, made = await mount.tree.files.create(where, os.O_WRONLY, 0o644, other)
    assert (made.attrs.uid, made.attrs.gid) == (2000, 0)


async def test_what_the_mounts_owner_makes_costs_no_further_request() -> None:
    mount = mounted(tenant(owner=Owner.REMOTE), me=replace(ME, checks_modes=True))
    mount.fs.mkdir(RemotePath(b"/folder"), 0o755)
    home = (await mount.look(HOME + b"/folder")).ino
    tree = mount.source.tree(WEB01)
    assert tree is not None
    before = tree.calls.total()
    await mount.tree.files.create((home, Name(b"f")), os.O_WRONLY, 0o644, CALLER)
    assert tree.calls.total() == before + 1
