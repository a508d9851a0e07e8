"""Checks of names: directories, renames, listings, strange and long names."""

from __future__ import annotations

import errno
import os
import stat

from tests.mount.posix import (
    RENAME_NOREPLACE,
    Checks,
    OsLike,
    exists,
    get,
    names,
    opened,
    put,
    refused,
)

NAMES = Checks()


@NAMES
def mkdir_makes_an_empty_directory(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/d")
    assert stat.S_ISDIR(fs.stat(root + b"/d").st_mode)
    assert names(fs, root + b"/d") == []
    assert names(fs, root) == [b"d"]


@NAMES
def mkdir_refuses_a_name_in_use(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/d")
    put(fs, root + b"/f")
    fs.symlink(b"nowhere", root + b"/link")
    for name in (b"/d", b"/f", b"/link"):
        with refused(errno.EEXIST):
            fs.mkdir(root + name)


@NAMES
def rmdir_removes_only_empty_directories(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/d")
    put(fs, root + b"/d/f")
    with refused(errno.ENOTEMPTY):
        fs.rmdir(root + b"/d")
    with refused(errno.ENOTDIR):
        fs.rmdir(root + b"/d/f")
    with refused(errno.ENOENT):
        fs.rmdir(root + b"/no")
    fs.unlink(root + b"/d/f")
    fs.rmdir(root + b"/d")
    assert not exists(fs, root + b"/d")


@NAMES
def unlink_removes_no_directory(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/d")
    with refused(errno.EISDIR):
        fs.unlink(root + b"/d")
    with refused(errno.ENOENT):
        fs.unlink(root + b"/no")


@NAMES
def what_is_missing_is_missing(fs: OsLike, root: bytes) -> None:
    with refused(errno.ENOENT):
        fs.stat(root + b"/no")
    with refused(errno.ENOENT):
        fs.open(root + b"/no/f", os.O_WRONLY | os.O_CREAT)
    with refused(errno.ENOENT):
        fs.mkdir(root + b"/no/d")
    with refused(errno.ENOENT):
        fs.rename(root + b"/no", root + b"/to")
    with refused(errno.ENOENT):
        list(fs.scan(root + b"/no"))
    with refused(errno.ENOENT):
        fs.symlink(b"", root + b"/empty")


@NAMES
def nothing_is_below_a_file(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    with refused(errno.ENOTDIR):
        fs.stat(root + b"/f/x")
    with refused(errno.ENOTDIR):
        fs.open(root + b"/f/x", os.O_WRONLY | os.O_CREAT)
    with refused(errno.ENOTDIR):
        fs.mkdir(root + b"/f/x")
    with refused(errno.ENOTDIR):
        list(fs.scan(root + b"/f"))
    with refused(errno.ENOTDIR):
        fs.stat(root + b"/f/")


@NAMES
def a_file_is_missed_as_soon_as_it_is_gone(fs: OsLike, root: bytes) -> None:
    for _ in range(3):
        put(fs, root + b"/f")
        assert exists(fs, root + b"/f")
        fs.unlink(root + b"/f")
        assert not exists(fs, root + b"/f")
        fs.mkdir(root + b"/f")
        assert stat.S_ISDIR(fs.stat(root + b"/f").st_mode)
        fs.rmdir(root + b"/f")


# -- rename --------------------------------------------------------------


@NAMES
def rename_replaces_a_file(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/a", b"new")
    put(fs, root + b"/b", b"old")
    ino = fs.stat(root + b"/a").st_ino
    fs.rename(root + b"/a", root + b"/b")
    assert get(fs, root + b"/b") == b"new"
    assert names(fs, root) == [b"b"]
    assert fs.stat(root + b"/b").st_ino == ino


@NAMES
def rename_replaces_an_empty_directory(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/a")
    put(fs, root + b"/a/f", b"x")
    fs.mkdir(root + b"/b")
    fs.rename(root + b"/a", root + b"/b")
    assert names(fs, root) == [b"b"]
    assert get(fs, root + b"/b/f") == b"x"


@NAMES
def rename_keeps_a_full_directory(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/a")
    fs.mkdir(root + b"/b")
    put(fs, root + b"/b/f", b"x")
    with refused(errno.ENOTEMPTY):
        fs.rename(root + b"/a", root + b"/b")
    assert names(fs, root) == [b"a", b"b"]
    assert get(fs, root + b"/b/f") == b"x"


@NAMES
def rename_does_not_mix_types(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", b"x")
    fs.mkdir(root + b"/d")
    with refused(errno.EISDIR):
        fs.rename(root + b"/f", root + b"/d")
    with refused(errno.ENOTDIR):
        fs.rename(root + b"/d", root + b"/f")


@NAMES
def rename_refuses_a_directory_into_itself(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/d")
    fs.mkdir(root + b"/d/in")
    with refused(errno.EINVAL):
        fs.rename(root + b"/d", root + b"/d/in/x")
    with refused(errno.EINVAL):
        fs.rename(root + b"/d", root + b"/d/x")
    with refused(errno.ENOTEMPTY):
        fs.rename(root + b"/d/in", root + b"/d")


@NAMES
def rename_onto_itself_changes_nothing(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", b"x")
    fs.mkdir(root + b"/d")
    fs.rename(root + b"/f", root + b"/f")
    fs.rename(root + b"/d", root + b"/d")
    assert get(fs, root + b"/f") == b"x"
    assert names(fs, root) == [b"d", b"f"]


@NAMES
def rename_moves_between_directories(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/a")
    fs.mkdir(root + b"/b")
    fs.mkdir(root + b"/a/d")
    put(fs, root + b"/a/d/f", b"x")
    fs.rename(root + b"/a/d", root + b"/b/d")
    assert names(fs, root + b"/a") == []
    assert get(fs, root + b"/b/d/f") == b"x"
    fs.rename(root + b"/b/d/f", root + b"/top")
    assert get(fs, root + b"/top") == b"x"
    assert names(fs, root + b"/b/d") == []


@NAMES
def rename_to_a_new_name_replaces_nothing(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/a", b"a")
    put(fs, root + b"/b", b"b")
    fs.mkdir(root + b"/d")
    with refused(errno.EEXIST):
        fs.rename2(root + b"/a", root + b"/b", RENAME_NOREPLACE)
    with refused(errno.EEXIST):
        fs.rename2(root + b"/a", root + b"/d", RENAME_NOREPLACE)
    assert get(fs, root + b"/b") == b"b"
    fs.rename2(root + b"/a", root + b"/c", RENAME_NOREPLACE)
    assert names(fs, root) == [b"b", b"c", b"d"]
    fs.rename2(root + b"/d", root + b"/e", RENAME_NOREPLACE)
    assert get(fs, root + b"/c") == b"a"


@NAMES
def rename_moves_a_link_itself(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", b"x")
    fs.symlink(b"f", root + b"/link")
    fs.symlink(b"nowhere", root + b"/dangling")
    fs.rename(root + b"/link", root + b"/moved")
    fs.rename(root + b"/dangling", root + b"/moved")
    assert fs.readlink(root + b"/moved") == b"nowhere"
    fs.rename(root + b"/f", root + b"/moved")
    assert names(fs, root) == [b"moved"]
    assert stat.S_ISREG(fs.lstat(root + b"/moved").st_mode)


# -- listings ------------------------------------------------------------


@NAMES
def a_listing_has_every_name_once(fs: OsLike, root: bytes) -> None:
    wanted = [b"%04d" % n for n in range(600)]
    for name in wanted:
        fs.symlink(b"x", root + b"/" + name)
    assert sorted(fs.scan(root)) == wanted


@NAMES
def all_is_removed_while_it_is_listed(fs: OsLike, root: bytes) -> None:
    for n in range(300):
        fs.symlink(b"x", root + b"/%d" % n)
    for name in fs.scan(root):
        fs.unlink(root + b"/" + name)
    assert names(fs, root) == []


@NAMES
def a_new_name_is_listed_at_once(fs: OsLike, root: bytes) -> None:
    assert names(fs, root) == []
    put(fs, root + b"/a")
    assert names(fs, root) == [b"a"]
    fs.mkdir(root + b"/b")
    assert names(fs, root) == [b"a", b"b"]
    fs.rename(root + b"/a", root + b"/c")
    assert names(fs, root) == [b"b", b"c"]
    fs.unlink(root + b"/c")
    assert names(fs, root) == [b"b"]


@NAMES
def a_removed_directory_lists_nothing(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/d")
    with opened(fs, root + b"/d", os.O_RDONLY | os.O_DIRECTORY):
        fs.rmdir(root + b"/d")
        with refused(errno.ENOENT):
            list(fs.scan(root + b"/d"))


# -- strange names -------------------------------------------------------


@NAMES
def names_are_bytes(fs: OsLike, root: bytes) -> None:
    strange = [
        b"caf\xe9",
        "日本".encode(),
        b"new\nline",
        b"[brackets]{%s}",
        b" space ",
        b"-rf",
        b"back\\slash",
        b"\x01\x7f\xff",
        b"'quotes\"",
        b"...",
    ]
    for name in strange:
        put(fs, root + b"/" + name, name)
    assert names(fs, root) == sorted(strange)
    for name in strange:
        assert get(fs, root + b"/" + name) == name
        fs.rename(root + b"/" + name, root + b"/" + name + b"!")
        fs.unlink(root + b"/" + name + b"!")


@NAMES
def a_name_may_have_255_bytes(fs: OsLike, root: bytes) -> None:
    name = b"\xc3\xa9" * 127 + b"x"
    put(fs, root + b"/" + name, b"x")
    assert names(fs, root) == [name]
    fs.rename(root + b"/" + name, root + b"/" + b"y" * 255)
    assert get(fs, root + b"/" + b"y" * 255) == b"x"


@NAMES
def a_name_of_256_bytes_is_too_long(fs: OsLike, root: bytes) -> None:
    long = root + b"/" + b"n" * 256
    put(fs, root + b"/f")
    with refused(errno.ENAMETOOLONG):
        fs.stat(long)
    with refused(errno.ENAMETOOLONG):
        fs.open(long, os.O_WRONLY | os.O_CREAT)
    with refused(errno.ENAMETOOLONG):
        fs.mkdir(long)
    with refused(errno.ENAMETOOLONG):
        fs.symlink(b"x", long)
    with refused(errno.ENAMETOOLONG):
        fs.rename(root + b"/f", long)
    with refused(errno.ENAMETOOLONG):
        fs.link(root + b"/f", long)


@NAMES
def a_path_of_4096_bytes_is_too_long(fs: OsLike, root: bytes) -> None:
    with refused(errno.ENAMETOOLONG):
        fs.stat(root + b"/." * 2048)


@NAMES
def deep_folders_can_be_walked(fs: OsLike, root: bytes) -> None:
    path = root
    for n in range(20):
        path += b"/level%d" % n
        fs.mkdir(path)
    put(fs, path + b"/f", b"deep")
    assert get(fs, path + b"/../../level18/level19/./f") == b"deep"
    assert fs.stat(path + b"/..").st_ino == fs.stat(path.rpartition(b"/")[0]).st_ino


@NAMES
def a_name_differs_in_case(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/name", b"lower")
    put(fs, root + b"/NAME", b"upper")
    assert get(fs, root + b"/name") == b"lower"


@NAMES
def space_is_sane(fs: OsLike, root: bytes) -> None:
    space = fs.statvfs(root)
    assert space.f_blocks >= space.f_bfree >= space.f_bavail > 0
    assert space.f_namemax == 255
    assert space.f_frsize >= 512
