"""Checks of attributes: modes and masks, times, owners, access."""

from __future__ import annotations

import errno
import os
import stat
import time

from tests.mount.posix import (
    NOW,
    OMIT,
    SECOND_NS,
    Checks,
    OsLike,
    masked,
    opened,
    put,
    refused,
)

ATTRS = Checks()
DEVIANT_ATTRS = Checks()

YEAR_2001 = 1_000_000_000 * SECOND_NS
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def mode_of(fs: OsLike, path: bytes) -> int:
    return stat.S_IMODE(fs.lstat(path).st_mode)


@ATTRS
def new_files_have_exactly_the_mode_asked(fs: OsLike, root: bytes) -> None:
    with masked(fs, 0):
        for n, mode in enumerate((0o777, 0o666, 0o600, 0o444, 0o000, 0o070)):
            path = root + b"/f%d" % n
            fs.close(fs.open(path, NEW, mode))
            assert mode_of(fs, path) == mode


@ATTRS
def mknod_makes_exactly_the_mode_asked(fs: OsLike, root: bytes) -> None:
    with masked(fs, 0):
        for n, mode in enumerate((0o666, 0o2755, 0o4711, 0o6755, 0o1644)):
            fs.mknod(root + b"/n%d" % n, stat.S_IFREG | mode)
            assert mode_of(fs, root + b"/n%d" % n) == mode


@ATTRS
def new_directories_have_exactly_the_mode_asked(fs: OsLike, root: bytes) -> None:
    with masked(fs, 0):
        for n, mode in enumerate((0o777, 0o755, 0o700, 0o1777)):
            fs.mkdir(root + b"/d%d" % n, mode)
            assert mode_of(fs, root + b"/d%d" % n) == mode


@ATTRS
def the_umask_masks(fs: OsLike, root: bytes) -> None:
    with masked(fs, 0o077):
        fs.close(fs.open(root + b"/f", NEW, 0o666))
        fs.mkdir(root + b"/d", 0o777)
        fs.mknod(root + b"/n", stat.S_IFREG | 0o644)
    assert mode_of(fs, root + b"/f") == 0o600
    assert mode_of(fs, root + b"/d") == 0o700
    assert mode_of(fs, root + b"/n") == 0o600
    with masked(fs, 0o027):
        fs.close(fs.open(root + b"/g", NEW, 0o666))
    assert mode_of(fs, root + b"/g") == 0o640


@ATTRS
def chmod_sets_every_bit(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    for mode in (0o000, 0o777, 0o640, 0o4755, 0o2755, 0o6711, 0o1644):
        fs.chmod(root + b"/f", mode)
        assert mode_of(fs, root + b"/f") == mode
    fs.mkdir(root + b"/d")
    for mode in (0o1777, 0o2775, 0o700):
        fs.chmod(root + b"/d", mode)
        assert mode_of(fs, root + b"/d") == mode
    with refused(errno.ENOENT):
        fs.chmod(root + b"/no", 0o600)


@ATTRS
def chmod_follows_a_link(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    fs.symlink(b"f", root + b"/link")
    fs.chmod(root + b"/link", 0o604)
    assert mode_of(fs, root + b"/f") == 0o604
    assert mode_of(fs, root + b"/link") == 0o777


@ATTRS
def fchmod_changes_an_open_file(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", os.O_RDWR | os.O_CREAT) as fd:
        fs.fchmod(fd, 0o751)
        assert stat.S_IMODE(fs.fstat(fd).st_mode) == 0o751
        assert mode_of(fs, root + b"/f") == 0o751


@ATTRS
def a_mode_stays_when_a_file_is_opened_again(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", b"x", 0o600)
    put(fs, root + b"/f", b"y", 0o666)
    assert mode_of(fs, root + b"/f") == 0o600


@ATTRS
def folders_in_a_setgid_folder_inherit_it(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/d")
    fs.chmod(root + b"/d", 0o2775)
    with masked(fs, 0o022):
        fs.mkdir(root + b"/d/sub", 0o777)
    assert mode_of(fs, root + b"/d/sub") == 0o2755
    fs.close(fs.open(root + b"/d/f", NEW, 0o644))
    assert mode_of(fs, root + b"/d/f") & 0o6000 == 0


# -- times ---------------------------------------------------------------


@ATTRS
def times_are_kept_to_the_second(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    fs.mkdir(root + b"/d")
    for path in (root + b"/f", root + b"/d"):
        fs.utimens(path, YEAR_2001, YEAR_2001 + 5 * SECOND_NS)
        found = fs.stat(path)
        assert found.st_atime_ns == YEAR_2001
        assert found.st_mtime_ns == YEAR_2001 + 5 * SECOND_NS


@ATTRS
def times_are_kept_to_the_nanosecond(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    fs.utimens(root + b"/f", YEAR_2001 + 123_456_789, YEAR_2001 + 987_654_321)
    found = fs.stat(root + b"/f")
    assert found.st_atime_ns == YEAR_2001 + 123_456_789
    assert found.st_mtime_ns == YEAR_2001 + 987_654_321


@DEVIANT_ATTRS
def deviant_times_are_kept_to_the_nanosecond(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    fs.utimens(root + b"/f", YEAR_2001 + 123_456_789, YEAR_2001 + 987_654_321)
    found = fs.stat(root + b"/f")
    # Cut, not rounded: what was set never lies in the future of what is shown.
    assert found.st_atime_ns == found.st_mtime_ns == YEAR_2001


@ATTRS
def one_time_is_set_without_the_other(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    fs.utimens(root + b"/f", YEAR_2001, YEAR_2001)
    fs.utimens(root + b"/f", YEAR_2001 + 7 * SECOND_NS, OMIT)
    found = fs.stat(root + b"/f")
    assert found.st_atime_ns == YEAR_2001 + 7 * SECOND_NS
    assert found.st_mtime_ns == YEAR_2001
    fs.utimens(root + b"/f", OMIT, YEAR_2001 + 9 * SECOND_NS)
    found = fs.stat(root + b"/f")
    assert found.st_atime_ns == YEAR_2001 + 7 * SECOND_NS
    assert found.st_mtime_ns == YEAR_2001 + 9 * SECOND_NS


@ATTRS
def a_time_can_be_now(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    fs.utimens(root + b"/f", YEAR_2001, YEAR_2001)
    fs.utimens(root + b"/f", NOW, NOW)
    found = fs.stat(root + b"/f")
    assert abs(found.st_mtime_ns - time.time_ns()) < 60 * SECOND_NS
    assert abs(found.st_atime_ns - time.time_ns()) < 60 * SECOND_NS


@ATTRS
def times_far_away_are_kept(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    for seconds in (0, 1, (1 << 31) - 1, 1 << 31):
        fs.utimens(root + b"/f", seconds * SECOND_NS, seconds * SECOND_NS)
        assert fs.stat(root + b"/f").st_mtime_ns == seconds * SECOND_NS


@ATTRS
def times_before_1970_are_kept(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    fs.utimens(root + b"/f", -5 * SECOND_NS, -5 * SECOND_NS)
    assert fs.stat(root + b"/f").st_mtime_ns == -5 * SECOND_NS


@DEVIANT_ATTRS
def deviant_times_before_1970_are_kept(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    fs.utimens(root + b"/f", -5 * SECOND_NS, -5 * SECOND_NS)
    assert fs.stat(root + b"/f").st_mtime_ns == 0


@ATTRS
def a_write_changes_the_time(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    fs.utimens(root + b"/f", YEAR_2001, YEAR_2001)
    with opened(fs, root + b"/f", os.O_WRONLY) as fd:
        fs.write(fd, b"x")
    assert fs.stat(root + b"/f").st_mtime_ns > YEAR_2001 + SECOND_NS


@ATTRS
def a_time_set_after_a_write_stays(fs: OsLike, root: bytes) -> None:
    # What cp -p, rsync -a and tar do.
    with opened(fs, root + b"/f", os.O_WRONLY | os.O_CREAT) as fd:
        fs.write(fd, b"content")
        fs.utimens(root + b"/f", YEAR_2001, YEAR_2001)
    assert fs.stat(root + b"/f").st_mtime_ns == YEAR_2001
    assert fs.stat(root + b"/f").st_size == 7


@ATTRS
def a_new_name_changes_the_time_of_its_folder(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/d")
    put(fs, root + b"/f")
    fs.utimens(root + b"/d", YEAR_2001, YEAR_2001)
    fs.rename(root + b"/f", root + b"/d/f")
    assert fs.stat(root + b"/d").st_mtime_ns > YEAR_2001 + SECOND_NS
    fs.utimens(root + b"/d", YEAR_2001, YEAR_2001)
    fs.unlink(root + b"/d/f")
    assert fs.stat(root + b"/d").st_mtime_ns > YEAR_2001 + SECOND_NS


@ATTRS
def a_change_of_mode_changes_ctime(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    fs.utimens(root + b"/f", YEAR_2001, YEAR_2001)
    fs.chmod(root + b"/f", 0o600)
    assert fs.stat(root + b"/f").st_ctime_ns > YEAR_2001 + SECOND_NS


@DEVIANT_ATTRS
def deviant_a_change_of_mode_changes_ctime(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    fs.utimens(root + b"/f", YEAR_2001, YEAR_2001)
    fs.chmod(root + b"/f", 0o600)
    assert fs.stat(root + b"/f").st_ctime_ns == YEAR_2001


# -- owners and access ---------------------------------------------------


@ATTRS
def chown_to_oneself_is_allowed(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    found = fs.stat(root + b"/f")
    fs.chown(root + b"/f", found.st_uid, found.st_gid)
    fs.chown(root + b"/f", -1, found.st_gid)
    fs.chown(root + b"/f", found.st_uid, -1)
    fs.chown(root + b"/f", -1, -1)
    after = fs.stat(root + b"/f")
    assert (after.st_uid, after.st_gid) == (found.st_uid, found.st_gid)


@ATTRS
def a_new_file_is_its_makers(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    fs.mkdir(root + b"/d")
    assert fs.stat(root + b"/f").st_uid == os.geteuid()
    assert fs.stat(root + b"/d").st_uid == os.geteuid()


@ATTRS
def access_says_what_is_there(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", b"x", 0o644)
    assert fs.access(root + b"/f", os.F_OK)
    assert fs.access(root + b"/f", os.R_OK | os.W_OK)
    assert not fs.access(root + b"/f", os.X_OK)
    assert not fs.access(root + b"/no", os.F_OK)
    fs.chmod(root + b"/f", 0o755)
    assert fs.access(root + b"/f", os.X_OK)
    assert fs.access(root, os.R_OK | os.W_OK | os.X_OK)


@ATTRS
def stat_is_the_same_by_name_and_by_handle(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", b"12345", 0o640)
    with opened(fs, root + b"/f", os.O_RDONLY) as fd:
        one, other = fs.fstat(fd), fs.stat(root + b"/f")
    assert one.st_ino == other.st_ino
    assert one.st_mode == other.st_mode
    assert one.st_size == other.st_size == 5
    assert one.st_mtime_ns == other.st_mtime_ns


@ATTRS
def an_inode_number_is_kept(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    put(fs, root + b"/g")
    ino = fs.stat(root + b"/f").st_ino
    assert ino != fs.stat(root + b"/g").st_ino
    fs.chmod(root + b"/f", 0o600)
    list(fs.scan(root))
    assert fs.stat(root + b"/f").st_ino == ino
