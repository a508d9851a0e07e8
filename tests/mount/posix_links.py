"""Checks of links: hard ones, symbolic ones, and nodes of other types."""

from __future__ import annotations

import errno
import os
import stat

from tests.mount.posix import (
    OMIT,
    RENAME_EXCHANGE,
    SECOND_NS,
    Checks,
    OsLike,
    exists,
    get,
    names,
    opened,
    put,
    refused,
)

LINKS = Checks()
DEVIANT_LINKS = Checks()


@LINKS
def hard_links_are_one_file(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/a", b"one")
    fs.link(root + b"/a", root + b"/b")
    assert fs.stat(root + b"/a").st_ino == fs.stat(root + b"/b").st_ino
    with opened(fs, root + b"/b", os.O_WRONLY) as fd:
        fs.pwrite(fd, b"ONE", 0)
    assert get(fs, root + b"/a") == b"ONE"
    fs.chmod(root + b"/b", 0o604)
    assert stat.S_IMODE(fs.stat(root + b"/a").st_mode) == 0o604


@LINKS
def hard_links_are_counted(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/a")
    assert fs.stat(root + b"/a").st_nlink == 1
    fs.link(root + b"/a", root + b"/b")
    assert fs.stat(root + b"/a").st_nlink == fs.stat(root + b"/b").st_nlink == 2
    fs.unlink(root + b"/a")
    assert fs.stat(root + b"/b").st_nlink == 1


@LINKS
def a_hard_link_survives_the_first_name(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/a", b"x")
    with opened(fs, root + b"/a", os.O_RDWR) as fd:
        fs.link(root + b"/a", root + b"/b")
        fs.unlink(root + b"/a")
        fs.pwrite(fd, b"y", 0)
        assert fs.fstat(fd).st_nlink == 1
    assert get(fs, root + b"/b") == b"y"


@LINKS
def a_hard_link_refuses_a_name_in_use(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/a")
    put(fs, root + b"/b")
    fs.mkdir(root + b"/d")
    with refused(errno.EEXIST):
        fs.link(root + b"/a", root + b"/b")
    with refused(errno.EPERM):
        fs.link(root + b"/d", root + b"/e")
    with refused(errno.ENOENT):
        fs.link(root + b"/no", root + b"/e")


@LINKS
def rename_between_names_of_one_file_keeps_both(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/a", b"x")
    fs.link(root + b"/a", root + b"/b")
    fs.rename(root + b"/a", root + b"/b")
    assert names(fs, root) == [b"a", b"b"]


@LINKS
def a_hard_link_of_a_link_is_the_link(fs: OsLike, root: bytes) -> None:
    fs.symlink(b"nowhere", root + b"/link")
    fs.link(root + b"/link", root + b"/other")
    assert fs.readlink(root + b"/other") == b"nowhere"


@LINKS
def a_link_says_what_it_was_told(fs: OsLike, root: bytes) -> None:
    contents = [b"f", b"./../x//y/", b"x" * 255, b"\xff\n new", b"d/" * 1000 + b"f"]
    fs.mkdir(root + b"/d")  # so that ".." from in here stays below the root
    for n, content in enumerate(contents):
        path = root + b"/d/%d" % n
        fs.symlink(content, path)
        assert fs.readlink(path) == content
        found = fs.lstat(path)
        assert stat.S_ISLNK(found.st_mode)
        assert found.st_size == len(content)


@LINKS
def links_are_followed(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/d")
    put(fs, root + b"/d/f", b"content")
    fs.symlink(b"d", root + b"/dir")
    fs.symlink(b"dir/f", root + b"/file")
    assert get(fs, root + b"/file") == b"content"
    assert get(fs, root + b"/dir/f") == b"content"
    assert stat.S_ISREG(fs.stat(root + b"/file").st_mode)
    assert names(fs, root + b"/dir") == [b"f"]
    put(fs, root + b"/file", b"through")
    assert get(fs, root + b"/d/f") == b"through"
    with refused(errno.ENOTDIR):
        fs.rmdir(root + b"/dir")


@LINKS
def a_dangling_link_can_be_created_through(fs: OsLike, root: bytes) -> None:
    fs.symlink(b"later", root + b"/link")
    with refused(errno.ENOENT):
        fs.stat(root + b"/link")
    put(fs, root + b"/link", b"now")
    assert get(fs, root + b"/later") == b"now"


@LINKS
def links_in_a_circle_end(fs: OsLike, root: bytes) -> None:
    fs.symlink(b"b", root + b"/a")
    fs.symlink(b"a", root + b"/b")
    with refused(errno.ELOOP):
        fs.stat(root + b"/a")
    with refused(errno.ELOOP):
        fs.open(root + b"/a/x", os.O_RDONLY)
    assert fs.readlink(root + b"/a") == b"b"
    fs.unlink(root + b"/a")


@LINKS
def links_are_refused_where_asked(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    fs.mkdir(root + b"/d")
    fs.symlink(b"f", root + b"/link")
    fs.symlink(b"d", root + b"/dir")
    with refused(errno.ELOOP):
        fs.open(root + b"/link", os.O_RDONLY | os.O_NOFOLLOW)
    with refused(errno.ENOTDIR):
        fs.open(root + b"/f", os.O_RDONLY | os.O_DIRECTORY)
    with refused(errno.ENOTDIR):
        fs.open(root + b"/dir", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    with refused(errno.EINVAL):
        fs.readlink(root + b"/f")


@LINKS
def times_are_set_on_the_link_itself(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    fs.symlink(b"f", root + b"/link")
    before = fs.stat(root + b"/f").st_mtime_ns
    when = 1_000_000_000 * SECOND_NS
    fs.utimens(root + b"/link", when, when, follow=False)
    assert fs.lstat(root + b"/link").st_mtime_ns == when
    assert fs.stat(root + b"/f").st_mtime_ns == before
    fs.utimens(root + b"/link", OMIT, when, follow=True)
    assert fs.stat(root + b"/f").st_mtime_ns == when


@LINKS
def the_owner_is_set_on_the_link_itself(fs: OsLike, root: bytes) -> None:
    fs.symlink(b"nowhere", root + b"/link")
    found = fs.lstat(root + b"/link")
    fs.lchown(root + b"/link", found.st_uid, found.st_gid)
    with refused(errno.ENOENT):
        fs.chown(root + b"/link", found.st_uid, found.st_gid)


@LINKS
def an_absolute_link_is_stored_as_it_is(fs: OsLike, root: bytes) -> None:
    fs.symlink(b"/etc/nothing//here/", root + b"/link")
    assert fs.readlink(root + b"/link") == b"/etc/nothing//here/"


@LINKS
def names_can_be_exchanged(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/a", b"a")
    fs.mkdir(root + b"/d")
    fs.rename2(root + b"/a", root + b"/d", RENAME_EXCHANGE)
    assert get(fs, root + b"/d") == b"a"
    assert names(fs, root + b"/a") == []


@DEVIANT_LINKS
def deviant_names_can_be_exchanged(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/a", b"a")
    fs.mkdir(root + b"/d")
    # EINVAL is what renameat2(2) says where a file system does not know the flag.
    with refused(errno.EINVAL):
        fs.rename2(root + b"/a", root + b"/d", RENAME_EXCHANGE)
    assert get(fs, root + b"/a") == b"a"
    assert names(fs, root + b"/d") == []


@LINKS
def mknod_makes_a_regular_file(fs: OsLike, root: bytes) -> None:
    fs.mknod(root + b"/f", stat.S_IFREG | 0o640)
    found = fs.stat(root + b"/f")
    assert found.st_mode & ~0o007 == stat.S_IFREG | 0o640
    assert found.st_size == 0
    with refused(errno.EEXIST):
        fs.mknod(root + b"/f", stat.S_IFREG | 0o640)


@LINKS
def a_fifo_can_be_made(fs: OsLike, root: bytes) -> None:
    fs.mknod(root + b"/fifo", stat.S_IFIFO | 0o600)
    assert stat.S_ISFIFO(fs.stat(root + b"/fifo").st_mode)


@DEVIANT_LINKS
def deviant_a_fifo_can_be_made(fs: OsLike, root: bytes) -> None:
    with refused(errno.EPERM):
        fs.mknod(root + b"/fifo", stat.S_IFIFO | 0o600)
    assert not exists(fs, root + b"/fifo")


@LINKS
def a_directory_counts_its_folders(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/d")
    fs.mkdir(root + b"/d/one")
    fs.mkdir(root + b"/d/two")
    assert fs.stat(root + b"/d").st_nlink == 4


@DEVIANT_LINKS
def deviant_a_directory_counts_its_folders(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/d")
    fs.mkdir(root + b"/d/one")
    # 1 tells find(1) and fts(3) that the count says nothing; 2 would be a lie.
    assert fs.stat(root + b"/d").st_nlink == 1
