"""Checks of open directories: reading, rewinding, seeking while names change."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.mount.posix import Checks, OsLike, exists, names, put
from tests.mount.posix_kernel import Stream, opened_stream

DIRECTORIES = Checks()
# More than the kernel asks for at once.
MANY = 250


@contextmanager
def opened_folder(path: bytes) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def fill(fs: OsLike, folder: bytes, count: int) -> list[bytes]:
    fs.mkdir(folder)
    made = [b"%04d" % n for n in range(count)]
    for name in made:
        put(fs, folder + b"/" + name)
    return made


def listed(fd: int) -> list[bytes]:
    """Return the names in an open directory, from its start."""
    return sorted(map(os.fsencode, os.listdir(fd)))


@DIRECTORIES
def what_is_made_after_the_open_is_in_the_first_read(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/d")
    with opened_folder(root + b"/d") as fd, opened_stream(root + b"/d") as stream:
        os.mkdir(b"by handle", dir_fd=fd)
        put(fs, root + b"/d/by path")
        fs.symlink(b"x", root + b"/d/link")
        assert listed(fd) == [b"by handle", b"by path", b"link"]
        assert stream.names() == [b"by handle", b"by path", b"link"]


@DIRECTORIES
def what_is_gone_before_the_first_read_is_not_in_it(fs: OsLike, root: bytes) -> None:
    fill(fs, root + b"/d", 5)
    with opened_folder(root + b"/d") as fd:
        fs.unlink(root + b"/d/0001")
        os.rename(b"0002", b"new", src_dir_fd=fd, dst_dir_fd=fd)
        fs.rename(root + b"/d/0003", root + b"/elsewhere")
        assert listed(fd) == [b"0000", b"0004", b"new"]


@DIRECTORIES
def a_rewind_shows_the_folder_as_it_is(fs: OsLike, root: bytes) -> None:
    fill(fs, root + b"/d", 3)
    with opened_stream(root + b"/d") as stream:
        for turn in range(3):
            before = stream.names()
            put(fs, root + b"/d/turn %d" % turn)
            fs.unlink(root + b"/d/" + before[0])
            stream.rewind()
            assert stream.names() == names(fs, root + b"/d")
            stream.rewind()


@DIRECTORIES
def listing_a_descriptor_again_shows_what_there_is(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/d")
    with opened_folder(root + b"/d") as fd:
        for turn in range(3):
            os.mkdir(b"%d" % turn, dir_fd=fd)
            assert listed(fd) == [b"%d" % n for n in range(turn + 1)]
        os.rmdir(b"1", dir_fd=fd)
        assert listed(fd) == [b"0", b"2"]


def places(stream: Stream) -> list[tuple[int, bytes]]:
    """Return where each name is, and the name."""
    found: list[tuple[int, bytes]] = []
    while True:
        place = stream.tell()
        name = stream.next()
        if name is None:
            return found
        found.append((place, name))


@DIRECTORIES
def a_seek_comes_back_to_the_same_entry(fs: OsLike, root: bytes) -> None:
    fill(fs, root + b"/d", MANY)
    with opened_stream(root + b"/d") as stream:
        known = places(stream)
        assert len(known) == MANY
        for place, name in known[::-50]:
            stream.seek(place)
            assert stream.next() == name


@DIRECTORIES
def a_seek_comes_back_after_names_were_made_and_removed(
    fs: OsLike, root: bytes
) -> None:
    fill(fs, root + b"/d", MANY)
    with opened_stream(root + b"/d") as stream:
        known = places(stream)[1:]
        gone = {name for _, name in known[::3]}
        for name in gone:
            fs.unlink(root + b"/d/" + name)
        for n in range(20):
            put(fs, root + b"/d/new %d" % n)
        left = [place for place in known if place[1] not in gone]
        for place, name in left[::40]:
            stream.seek(place)
            assert stream.next() == name


@DIRECTORIES
def what_stays_is_read_once_while_others_come_and_go(fs: OsLike, root: bytes) -> None:
    made = fill(fs, root + b"/d", MANY)
    gone = set(made[::2])
    with opened_stream(root + b"/d") as stream:
        seen = [stream.next()]
        for turn, name in enumerate(sorted(gone)):
            fs.unlink(root + b"/d/" + name)
            if turn % 5 == 0:
                put(fs, root + b"/d/new %d" % turn)
        seen += stream.names()
    assert len(seen) == len(set(seen))
    assert set(made) - gone <= set(seen)
    assert names(fs, root + b"/d") == sorted(
        (set(made) - gone) | {b"new %d" % n for n in range(0, len(gone), 5)}
    )


@DIRECTORIES
def a_removed_name_does_not_come_back_by_an_open_folder(
    fs: OsLike, root: bytes
) -> None:
    made = fill(fs, root + b"/d", MANY)
    with opened_stream(root + b"/d") as stream:
        first = stream.next()
        for name in made:
            fs.unlink(root + b"/d/" + name)
        seen = {first, *stream.names()}
        assert seen <= set(made)
        for name in made:
            assert not exists(fs, root + b"/d/" + name)
        stream.rewind()
        assert stream.names() == []
    fs.rmdir(root + b"/d")


@DIRECTORIES
def the_dots_are_listed(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/d")
    put(fs, root + b"/d/f")
    with opened_stream(root + b"/d") as stream:
        found = stream.numbers()
    assert set(found) == {b".", b"..", b"f"}
    assert found[b"."] == fs.stat(root + b"/d").st_ino
    assert found[b".."] == fs.stat(root).st_ino


@DIRECTORIES
def the_numbers_that_are_listed_are_those_of_stat(fs: OsLike, root: bytes) -> None:
    made = fill(fs, root + b"/d", 50)
    for name in made[::7]:
        fs.rename(root + b"/d/" + name, root + b"/d/new " + name)
        put(fs, root + b"/d/" + name)
    with opened_stream(root + b"/d") as stream:
        found = stream.numbers()
    for name in names(fs, root + b"/d"):
        assert found[name] == fs.lstat(root + b"/d/" + name).st_ino


def plant(fs: OsLike, root: bytes) -> None:
    """Make a tree of folders with files, links and folders of their own."""
    for above in (b"", b"/0", b"/1", b"/0/0"):
        fs.mkdir(root + b"/t" + above)
        for n in range(40):
            put(fs, root + b"/t" + above + b"/f%d" % n)
        fs.symlink(b"f0", root + b"/t" + above + b"/link")


@DIRECTORIES
def a_tree_is_removed_by_descriptors(fs: OsLike, root: bytes) -> None:
    assert shutil.rmtree.avoids_symlink_attacks
    for remove in (shutil.rmtree, _rm_rf):
        plant(fs, root)
        remove(root + b"/t")
        assert names(fs, root) == []


def _rm_rf(path: bytes) -> None:
    subprocess.run(["rm", "-r", path], check=True)


@DIRECTORIES
def a_tree_is_walked_and_emptied_by_descriptors(fs: OsLike, root: bytes) -> None:
    plant(fs, root)
    seen = 0
    for _, folders, files, fd in os.fwalk(root + b"/t", topdown=False):
        for name in files:
            os.unlink(name, dir_fd=fd)
        for name in folders:
            os.rmdir(name, dir_fd=fd)
        assert os.listdir(fd) == []
        seen += len(files)
    assert seen == 4 * 41
    assert names(fs, root + b"/t") == []
