"""The tree over fake devices: what each request asks of whom, and what it shows."""

from __future__ import annotations

import errno
import os
import stat

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pamfs.config import Owner, Symlinks
from pamfs.errors import MissingError, NameRefusedError, RemoteError
from pamfs.model import AttrChange, Ino, Name
from pamfs.vfs.names.inodes import ROOT_INO
from tests.fakes.mounted import CALLER, ME, WEB01, mounted, tenant

HOME = b"acme/root@web01"


def code_of(caught: pytest.ExceptionInfo[RemoteError]) -> int:
    return caught.value.code


# How often one program that writes a few bytes to a new file (``printf > file``) has
# the session's state looked at: once after each wait, and not for each table.
READY_MAX = 11


async def test_a_small_new_file_asks_seldom_whether_the_session_is_open() -> None:
    mount = mounted()
    home = (await mount.look(HOME)).ino
    directories, files = mount.tree.directories, mount.tree.files
    directories.close(await directories.open(home, CALLER))
    mount.source.asked_ready = 0
    with pytest.raises(MissingError):
        await mount.tree.nodes.lookup(home, Name(b"new"), CALLER)
    flags = os.O_WRONLY | os.O_CREAT
    opened, _ = await files.create((home, Name(b"new")), flags, 0o644, CALLER)
    await files.flush(opened.fh)
    await files.write(opened.fh, 0, b"text")
    await files.flush(opened.fh)
    await files.release(opened.fh)
    assert mount.source.asked_ready <= READY_MAX


def test_how_a_target_is_shown_is_looked_up_and_not_made() -> None:
    namespace = mounted().tree.namespace
    assert namespace.view(WEB01) is namespace.view(WEB01)


class TestLookingIsNotEntering:
    async def test_the_top_levels_are_answered_without_a_login(self) -> None:
        mount = mounted()
        node = await mount.look(HOME)
        await mount.tree.nodes.getattr(node.ino, CALLER)
        for ino in (ROOT_INO, (await mount.look(b"acme")).ino):
            fh = await mount.tree.directories.open(ino, CALLER)
            for entry in await mount.tree.directories.entries(fh, 0):
                mount.tree.directories.listed(fh, entry)
        mount.tree.space()
        mount.tree.facts(node.ino)
        assert not mount.source.logins

    async def test_what_ls_shows_is_what_is_configured(self) -> None:
        mount = mounted()
        acme = (await mount.look(b"acme")).ino
        fh = await mount.tree.directories.open(acme, CALLER)
        names = [entry.name for entry in await mount.tree.directories.entries(fh, 0)]
        assert names == [b"root@db01", b"root@web01"]

    async def test_a_valid_name_is_entered_without_being_listed(self) -> None:
        mount = mounted()
        mount.fs.put(b"/f", b"x")
        assert (await mount.look(b"acme/dba@ora7/f")).attrs.size == 1

    async def test_only_listed_means_it(self) -> None:
        mount = mounted(tenant(only_listed=True))
        await mount.look(HOME)
        with pytest.raises(NameRefusedError):
            await mount.look(b"acme/dba@ora7")

    @pytest.mark.parametrize(
        "name", [b".Trash", b".git", b"autorun.inf", b"root", b"a@b]x", b"@", b""]
    )
    async def test_names_that_are_no_target_are_not_there(self, name: bytes) -> None:
        mount = mounted()
        acme = (await mount.look(b"acme")).ino
        with pytest.raises(NameRefusedError) as caught:
            await mount.tree.nodes.lookup(acme, Name(name), CALLER)
        assert caught.value.code == errno.ENOENT
        assert not mount.source.logins

    async def test_an_unknown_tenant_is_not_there(self) -> None:
        with pytest.raises(NameRefusedError):
            await mounted().look(b"globex")

    async def test_a_probe_opens_no_closed_target_and_is_asked_in_an_open_one(
        self,
    ) -> None:
        mount = mounted()
        mount.fs.make_dirs(b"/.git")
        home = (await mount.look(HOME)).ino
        with pytest.raises(NameRefusedError):
            await mount.tree.nodes.lookup(home, Name(b".git"), CALLER)
        assert not mount.source.logins
        await mount.tree.directories.open(home, CALLER)
        await mount.tree.nodes.lookup(home, Name(b".git"), CALLER)
        assert mount.source.logins[WEB01] == 1

    async def test_the_top_levels_cannot_be_changed(self) -> None:
        mount = mounted()
        acme = (await mount.look(b"acme")).ino
        directories = mount.tree.directories
        for attempt in (
            directories.mkdir(acme, Name(b"x@y"), 0o755, CALLER),
            directories.unlink(ROOT_INO, Name(b"acme"), CALLER),
            directories.rmdir(acme, Name(b"root@web01"), CALLER),
            mount.tree.nodes.setattr(acme, AttrChange(mode=0), CALLER),
        ):
            with pytest.raises(RemoteError) as caught:
                await attempt
            assert code_of(caught) == errno.EPERM
        assert not mount.source.logins


class TestAttributes:
    async def test_files_are_mine_by_default(self) -> None:
        mount = mounted()
        mount.fs.put(b"/f").uid = 4711
        attrs = (await mount.look(HOME + b"/f")).attrs
        assert (attrs.uid, attrs.gid) == (ME.uid, ME.gid)

    async def test_owner_remote_shows_whose_they_are(self) -> None:
        mount = mounted(tenant(owner=Owner.REMOTE))
        mount.fs.put(b"/f").uid = 4711
        assert (await mount.look(HOME + b"/f")).attrs.uid == 4711

    async def test_what_is_mine_can_be_given_to_me_and_nobody_else(self) -> None:
        mount = mounted()
        mount.fs.put(b"/f")
        ino = (await mount.look(HOME + b"/f")).ino
        await mount.tree.nodes.setattr(ino, AttrChange(uid=ME.uid), CALLER)
        with pytest.raises(RemoteError) as caught:
            await mount.tree.nodes.setattr(ino, AttrChange(uid=4711), CALLER)
        assert code_of(caught) == errno.EPERM

    async def test_a_silent_device_does_not_hold_up_its_folder(
        self, autojump_clock: MockClock
    ) -> None:
        mount = mounted()
        home = (await mount.look(HOME)).ino
        await mount.tree.directories.open(home, CALLER)
        tree = mount.source.tree(WEB01)
        assert tree is not None
        tree.device = type(tree.device)(latency_s=1000)
        start = trio.current_time()
        await mount.tree.nodes.getattr(home, CALLER)
        assert trio.current_time() - start < 2

    async def test_a_file_that_became_a_folder_is_stale(self) -> None:
        mount = mounted(tenant(attr_timeout_s=0))
        mount.fs.put(b"/f")
        ino = (await mount.look(HOME + b"/f")).ino
        mount.fs.unlink(b"/f")
        mount.fs.make_dirs(b"/f")
        with pytest.raises(RemoteError) as caught:
            await mount.tree.nodes.getattr(ino, CALLER)
        assert code_of(caught) == errno.ESTALE

    async def test_a_contained_link_stays_in_its_target(self) -> None:
        mount = mounted(tenant(symlinks=Symlinks.CONTAIN))
        mount.fs.make_dirs(b"/var")
        mount.fs.symlink(b"/etc/passwd", b"/var/l")
        ino = (await mount.look(HOME + b"/var/l")).ino
        shown = await mount.tree.nodes.readlink(ino, CALLER)
        assert shown == b"../etc/passwd"

    async def test_a_link_is_shown_as_it_is(self) -> None:
        mount = mounted()
        mount.fs.symlink(b"/etc//./passwd", b"/l")
        ino = (await mount.look(HOME + b"/l")).ino
        assert await mount.tree.nodes.readlink(ino, CALLER) == b"/etc//./passwd"

    async def test_names_longer_than_any_device_holds_are_refused(self) -> None:
        mount = mounted()
        with pytest.raises(RemoteError) as caught:
            await mount.look(HOME + b"/" + b"x" * 256)
        assert code_of(caught) == errno.ENAMETOOLONG

    async def test_home_is_the_logins_home(self) -> None:
        mount = mounted(tenant(root=b"~/work"))
        mount.fs.put(b"/work/f", b"x")
        assert (await mount.look(HOME + b"/f")).attrs.size == 1

    async def test_access_asks_nobody(self) -> None:
        mount = mounted()
        mount.fs.put(b"/f", mode=0o644)
        mount.fs.put(b"/x", mode=0o755)
        may = mount.tree.nodes.may_access
        assert not may(ROOT_INO, os.W_OK)
        assert may(ROOT_INO, os.R_OK | os.X_OK)
        assert not may((await mount.look(HOME + b"/f")).ino, os.X_OK)
        assert may((await mount.look(HOME + b"/x")).ino, os.X_OK)
        assert may((await mount.look(HOME + b"/f")).ino, os.W_OK)


class TestChanges:
    async def test_modes_are_exact_whatever_the_server_masks(self) -> None:
        mount = mounted()
        home = (await mount.look(HOME)).ino
        await mount.tree.directories.open(home, CALLER)
        tree = mount.source.tree(WEB01)
        assert tree is not None
        tree.device = type(tree.device)(umask=0o077)
        directories = mount.tree.directories
        folder = await directories.mkdir(home, Name(b"d"), 0o1777, CALLER)
        node = await directories.mknod(home, Name(b"n"), stat.S_IFREG | 0o666, CALLER)
        where = (home, Name(b"c"))
        _, created = await mount.tree.files.create(where, os.O_RDWR, 0o664, CALLER)
        modes = [stat.S_IMODE(made.attrs.mode) for made in (folder, node, created)]
        assert modes == [0o1777, 0o666, 0o664]
        assert stat.S_IMODE(mount.fs.node(b"/c").mode) == 0o664

    async def test_only_regular_files_are_made_by_mknod(self) -> None:
        mount = mounted()
        home = (await mount.look(HOME)).ino
        with pytest.raises(RemoteError) as caught:
            await mount.tree.directories.mknod(
                home, Name(b"p"), stat.S_IFIFO | 0o644, CALLER
            )
        assert code_of(caught) == errno.EPERM

    async def test_nothing_moves_or_links_between_targets(self) -> None:
        mount = mounted()
        mount.fs.put(b"/f")
        file = (await mount.look(HOME + b"/f")).ino
        web = (await mount.look(HOME)).ino
        db = (await mount.look(b"acme/root@db01")).ino
        old, new = (web, Name(b"f")), (db, Name(b"g"))
        directories = mount.tree.directories
        for attempt in (
            directories.rename(old, new, CALLER, replace=True),
            directories.link(file, db, Name(b"g"), CALLER),
        ):
            with pytest.raises(RemoteError) as caught:
                await attempt
            assert code_of(caught) == errno.EXDEV

    async def test_a_hard_link_is_one_file_with_two_names(self) -> None:
        mount = mounted()
        mount.fs.put(b"/f", b"x")
        file = await mount.look(HOME + b"/f")
        home = (await mount.look(HOME)).ino
        node = await mount.tree.directories.link(file.ino, home, Name(b"g"), CALLER)
        assert (node.ino, node.attrs.nlink) == (file.ino, 2)
        one, other = (home, Name(b"f")), (home, Name(b"g"))
        await mount.tree.directories.rename(one, other, CALLER, replace=True)
        assert mount.fs.node(b"/f") is mount.fs.node(b"/g")

    async def test_a_listing_is_made_anew_on_rewind(self) -> None:
        mount = mounted()
        home = (await mount.look(HOME)).ino
        fh = await mount.tree.directories.open(home, CALLER)
        assert list(await mount.tree.directories.entries(fh, 0)) == []
        mount.fs.put(b"/f")
        names = [entry.name for entry in await mount.tree.directories.entries(fh, 0)]
        assert names == [b"f"]
        mount.tree.directories.close(fh)
        with pytest.raises(RemoteError) as caught:
            mount.tree.directories.check(fh)
        assert code_of(caught) == errno.EBADF


async def test_room_is_measured_when_somebody_looks() -> None:
    mount = mounted()
    unknown = mount.tree.space()
    await mount.tree.directories.open((await mount.look(HOME)).ino, CALLER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mount.tree.keep_measured)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert mount.tree.space() != unknown
    facts = mount.tree.facts((await mount.look(HOME)).ino)
    assert int(facts["bytes_total"]) > 0
    mount.tree.session_closed(WEB01)
    assert mount.tree.space() == unknown


async def test_a_closed_session_names_what_the_kernel_must_forget() -> None:
    mount = mounted()
    mount.fs.put(b"/f", b"x")
    file = await mount.look(HOME + b"/f")
    held = mount.tree.session_closed(WEB01)
    assert {inode.ino for inode in held} == {(await mount.look(HOME)).ino, file.ino}


async def test_below_a_target_there_are_no_extended_attributes() -> None:
    mount = mounted()
    mount.fs.put(b"/f", b"x")
    assert mount.tree.facts((await mount.look(HOME + b"/f")).ino) == {}
    assert mount.tree.facts((await mount.look(b"acme")).ino) == {}
    assert "inodes" in mount.tree.facts(Ino(ROOT_INO))


async def test_a_listing_is_older_than_what_was_written_since() -> None:
    mount = mounted()
    mount.fs.put(b"/f")
    home = (await mount.look(HOME)).ino
    fh = await mount.tree.directories.open(home, CALLER)
    (entry,) = await mount.tree.directories.entries(fh, 0)
    ino = (await mount.look(HOME + b"/f")).ino
    opened = await mount.tree.files.open(ino, os.O_WRONLY, CALLER)
    await mount.tree.files.write(opened.fh, 0, b"x" * 5000)
    assert mount.tree.directories.listed(fh, entry).attrs.size == 5000


async def test_an_old_listing_is_not_believed_for_long(
    autojump_clock: MockClock,
) -> None:
    mount = mounted()
    mount.fs.put(b"/f")
    home = (await mount.look(HOME)).ino
    fh = await mount.tree.directories.open(home, CALLER)
    (entry,) = await mount.tree.directories.entries(fh, 0)
    assert mount.tree.directories.listed(fh, entry).timeout_s == 3.0
    await trio.sleep(5)
    assert mount.tree.directories.listed(fh, entry).timeout_s == 0


async def test_a_link_outlives_the_name_it_was_made_from() -> None:
    mount = mounted()
    mount.fs.put(b"/a", b"x")
    file = await mount.look(HOME + b"/a")
    home = (await mount.look(HOME)).ino
    await mount.tree.directories.link(file.ino, home, Name(b"b"), CALLER)
    mount.fs.unlink(b"/a")
    with pytest.raises(RemoteError):
        await mount.look(HOME + b"/a")
    ino = (await mount.look(HOME + b"/b")).ino
    opened = await mount.tree.files.open(ino, os.O_RDONLY, CALLER)
    assert await mount.tree.files.read(opened.fh, 0, 10) == b"x"


async def test_fstat_of_a_removed_file_has_a_deadline(
    autojump_clock: MockClock,
) -> None:
    mount = mounted(tenant(attr_timeout_s=0))
    mount.fs.put(b"/f", b"x")
    ino = (await mount.look(HOME + b"/f")).ino
    home = (await mount.look(HOME)).ino
    await mount.tree.files.open(ino, os.O_RDONLY, CALLER)
    await mount.tree.directories.unlink(home, Name(b"f"), CALLER)
    tree = mount.source.tree(WEB01)
    assert tree is not None
    tree.device = type(tree.device)(latency_s=10_000)
    start = trio.current_time()
    with pytest.raises(trio.TooSlowError):
        await mount.tree.nodes.getattr(ino, CALLER)
    assert trio.current_time() - start == 60
