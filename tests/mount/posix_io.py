"""Checks of open files: positions, ends, appends, and files without a name."""

from __future__ import annotations

import errno
import os
import stat

from tests.mount.posix import (
    Checks,
    OsLike,
    exists,
    get,
    masked,
    opened,
    put,
    read_all,
    refused,
    write_all,
)

IO = Checks()

RW = os.O_RDWR | os.O_CREAT


@IO
def what_is_written_is_read(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", b"hello")
    assert get(fs, root + b"/f") == b"hello"
    assert fs.stat(root + b"/f").st_size == 5


@IO
def an_empty_file_is_empty(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f")
    assert get(fs, root + b"/f") == b""


@IO
def large_content_is_whole(fs: OsLike, root: bytes) -> None:
    content = bytes(range(251)) * 5000
    put(fs, root + b"/f", content)
    assert fs.stat(root + b"/f").st_size == len(content)
    assert get(fs, root + b"/f") == content


@IO
def a_read_ends_at_the_end(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", b"abc")
    with opened(fs, root + b"/f", os.O_RDONLY) as fd:
        assert fs.pread(fd, 10, 1) == b"bc"
        assert fs.pread(fd, 10, 3) == b""
        assert fs.pread(fd, 10, 1 << 40) == b""


@IO
def positions_move_with_reads_and_writes(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        write_all(fs, fd, b"0123456789")
        assert fs.lseek(fd, 2, os.SEEK_SET) == 2
        assert fs.read(fd, 3) == b"234"
        write_all(fs, fd, b"XY")
        assert fs.lseek(fd, 0, os.SEEK_CUR) == 7
        assert fs.lseek(fd, -1, os.SEEK_END) == 9
        assert fs.read(fd, 5) == b"9"
        assert fs.pread(fd, 100, 0) == b"01234XY789"


@IO
def pwrite_and_pread_leave_the_position(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        assert fs.pwrite(fd, b"abc", 0) == 3
        assert fs.pread(fd, 2, 1) == b"bc"
        assert fs.lseek(fd, 0, os.SEEK_CUR) == 0


@IO
def a_gap_reads_as_zeros(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        fs.pwrite(fd, b"end", 100_000)
        assert fs.fstat(fd).st_size == 100_003
        assert fs.pread(fd, 5, 0) == bytes(5)
        assert fs.pread(fd, 10, 99_998) == b"\0\0end"
    assert get(fs, root + b"/f") == bytes(100_000) + b"end"


@IO
def an_overwrite_changes_only_its_bytes(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", b"aaaaaaaaaa")
    with opened(fs, root + b"/f", os.O_WRONLY) as fd:
        fs.pwrite(fd, b"bb", 4)
    assert get(fs, root + b"/f") == b"aaaabbaaaa"


@IO
def another_handle_sees_what_was_written(fs: OsLike, root: bytes) -> None:
    with (
        opened(fs, root + b"/f", RW) as ours,
        opened(fs, root + b"/f", os.O_RDWR) as theirs,
    ):
        write_all(fs, ours, b"one")
        assert fs.pread(theirs, 10, 0) == b"one"
        fs.pwrite(theirs, b"TWO!", 0)
        assert fs.pread(ours, 10, 0) == b"TWO!"
        assert fs.fstat(ours).st_size == fs.stat(root + b"/f").st_size == 4


@IO
def writers_at_different_places_do_not_mix(fs: OsLike, root: bytes) -> None:
    fds = [fs.open(root + b"/f", RW, 0o666) for _ in range(4)]
    for step in range(8):
        for n, fd in enumerate(fds):
            fs.pwrite(fd, bytes([65 + n]) * 1000, (step * 4 + n) * 1000)
    for fd in fds:
        fs.close(fd)
    assert get(fs, root + b"/f") == b"".join(
        bytes([65 + n]) * 1000 for _ in range(8) for n in range(4)
    )


@IO
def growth_is_visible_at_once(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        for n in range(1, 5):
            write_all(fs, fd, b"x" * 1000)
            assert fs.fstat(fd).st_size == n * 1000
            assert fs.stat(root + b"/f").st_size == n * 1000


@IO
def an_append_goes_to_the_end(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", b"one ")
    with opened(fs, root + b"/f", os.O_WRONLY | os.O_APPEND) as fd:
        write_all(fs, fd, b"two ")
        fs.lseek(fd, 0, os.SEEK_SET)
        write_all(fs, fd, b"three")
    assert get(fs, root + b"/f") == b"one two three"


@IO
def an_append_goes_to_the_end_there_is_now(fs: OsLike, root: bytes) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with opened(fs, root + b"/f", flags) as ours:
        write_all(fs, ours, b"one ")
        with opened(fs, root + b"/f", flags) as theirs:
            write_all(fs, theirs, b"two ")
            write_all(fs, ours, b"three ")
            write_all(fs, theirs, b"four")
    assert get(fs, root + b"/f") == b"one two three four"


@IO
def an_append_after_a_truncate_starts_at_the_new_end(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW | os.O_APPEND) as fd:
        write_all(fs, fd, b"0123456789")
        fs.ftruncate(fd, 4)
        write_all(fs, fd, b"!")
        assert fs.pread(fd, 100, 0) == b"0123!"


@IO
def a_reader_may_also_append(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", b"abc")
    with opened(fs, root + b"/f", os.O_RDWR | os.O_APPEND) as fd:
        assert fs.read(fd, 2) == b"ab"
        write_all(fs, fd, b"def")
        assert fs.lseek(fd, 0, os.SEEK_CUR) == 6
        assert fs.pread(fd, 100, 0) == b"abcdef"


@IO
def a_file_open_for_reading_does_not_write(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", b"abc")
    with opened(fs, root + b"/f", os.O_RDONLY) as fd:
        with refused(errno.EBADF):
            fs.write(fd, b"x")
        with refused(errno.EINVAL, errno.EBADF):
            fs.ftruncate(fd, 0)
    with opened(fs, root + b"/f", os.O_WRONLY) as fd, refused(errno.EBADF):
        fs.read(fd, 1)


@IO
def a_read_only_file_may_be_written_by_its_maker(fs: OsLike, root: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with opened(fs, root + b"/f", flags, 0o400) as fd:
        write_all(fs, fd, b"written once")
    assert stat.S_IMODE(fs.stat(root + b"/f").st_mode) == 0o400
    assert get(fs, root + b"/f") == b"written once"


@IO
def ftruncate_cuts_and_extends(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        write_all(fs, fd, b"0123456789")
        fs.ftruncate(fd, 3)
        assert fs.fstat(fd).st_size == 3
        assert fs.pread(fd, 10, 0) == b"012"
        fs.ftruncate(fd, 6)
        assert fs.pread(fd, 10, 0) == b"012\0\0\0"
        fs.ftruncate(fd, 0)
        assert fs.pread(fd, 10, 0) == b""


@IO
def truncate_works_by_name(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", b"0123456789")
    fs.truncate(root + b"/f", 4)
    assert get(fs, root + b"/f") == b"0123"
    fs.truncate(root + b"/f", 5000)
    assert get(fs, root + b"/f") == b"0123" + bytes(4996)
    with refused(errno.EISDIR):
        fs.truncate(root, 0)
    with refused(errno.ENOENT):
        fs.truncate(root + b"/no", 0)


@IO
def truncate_is_seen_by_open_files(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", b"0123456789")
    with opened(fs, root + b"/f", os.O_RDWR) as fd:
        assert fs.pread(fd, 100, 0) == b"0123456789"
        fs.truncate(root + b"/f", 2)
        assert fs.fstat(fd).st_size == 2
        assert fs.pread(fd, 100, 0) == b"01"


@IO
def truncate_works_while_somebody_reads(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", b"0123456789")
    with opened(fs, root + b"/f", os.O_RDONLY) as reader:
        assert fs.pread(reader, 3, 0) == b"012"
        fs.truncate(root + b"/f", 5)
        assert fs.pread(reader, 100, 0) == b"01234"
        with opened(fs, root + b"/f", os.O_RDWR) as writer:
            fs.ftruncate(writer, 2)
        assert fs.fstat(reader).st_size == 2


@IO
def a_sparse_file_has_its_size(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        fs.ftruncate(fd, 1 << 22)
        assert fs.fstat(fd).st_size == 1 << 22
        assert fs.pread(fd, 4, (1 << 22) - 4) == bytes(4)


@IO
def a_duplicate_shares_the_position(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/f", b"0123456789")
    with opened(fs, root + b"/f", os.O_RDWR) as fd:
        other = fs.dup(fd)
        assert fs.read(fd, 3) == b"012"
        assert fs.read(other, 3) == b"345"
        fs.close(other)
        write_all(fs, fd, b"x")
    assert get(fs, root + b"/f") == b"012345x789"


@IO
def fsync_succeeds_on_files_and_directories(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        write_all(fs, fd, b"durable")
        fs.fsync(fd)
    with opened(fs, root, os.O_RDONLY | os.O_DIRECTORY) as fd:
        fs.fsync(fd)


# -- files without a name ------------------------------------------------


@IO
def an_unlinked_file_lives_while_it_is_open(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        write_all(fs, fd, b"content")
        fs.unlink(root + b"/f")
        assert not exists(fs, root + b"/f")
        assert list(fs.scan(root)) == []
        assert fs.pread(fd, 100, 0) == b"content"
        write_all(fs, fd, b" and more")
        assert fs.pread(fd, 100, 0) == b"content and more"
        assert fs.fstat(fd).st_size == 16


@IO
def an_unlinked_file_has_no_links(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        assert fs.fstat(fd).st_nlink == 1
        fs.unlink(root + b"/f")
        assert fs.fstat(fd).st_nlink == 0


@IO
def an_unlinked_file_can_be_changed(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        write_all(fs, fd, b"0123456789")
        fs.unlink(root + b"/f")
        fs.ftruncate(fd, 4)
        assert fs.fstat(fd).st_size == 4
        fs.fchmod(fd, 0o640)
        assert stat.S_IMODE(fs.fstat(fd).st_mode) == 0o640
        fs.fsync(fd)


@IO
def a_new_file_of_the_same_name_is_another(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as old:
        write_all(fs, old, b"old")
        fs.unlink(root + b"/f")
        put(fs, root + b"/f", b"brand new")
        assert fs.pread(old, 100, 0) == b"old"
        assert get(fs, root + b"/f") == b"brand new"
        assert fs.fstat(old).st_ino != fs.stat(root + b"/f").st_ino


@IO
def an_open_file_follows_its_rename(fs: OsLike, root: bytes) -> None:
    with opened(fs, root + b"/f", RW) as fd:
        write_all(fs, fd, b"one")
        fs.rename(root + b"/f", root + b"/g")
        write_all(fs, fd, b" two")
        assert fs.fstat(fd).st_ino == fs.stat(root + b"/g").st_ino
        assert fs.fstat(fd).st_size == 7
    assert get(fs, root + b"/g") == b"one two"


@IO
def an_open_file_survives_being_replaced(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/old", b"old content")
    put(fs, root + b"/new", b"new")
    with opened(fs, root + b"/old", os.O_RDWR) as fd:
        fs.rename(root + b"/new", root + b"/old")
        assert fs.pread(fd, 100, 0) == b"old content"
        fs.pwrite(fd, b"OLD", 0)
        assert fs.pread(fd, 100, 0) == b"OLD content"
        assert fs.fstat(fd).st_nlink == 0
    assert get(fs, root + b"/old") == b"new"


@IO
def a_directory_is_renamed_under_open_files(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/d")
    fs.mkdir(root + b"/d/deep")
    with opened(fs, root + b"/d/deep/f", RW) as fd:
        write_all(fs, fd, b"one")
        fs.rename(root + b"/d", root + b"/moved")
        write_all(fs, fd, b" two")
        assert fs.fstat(fd).st_size == 7
        fs.fchmod(fd, 0o600)
        put(fs, root + b"/moved/deep/g", b"beside")
        assert get(fs, root + b"/moved/deep/f") == b"one two"
    assert not exists(fs, root + b"/d")


@IO
def save_by_rename_never_shows_a_part(fs: OsLike, root: bytes) -> None:
    put(fs, root + b"/doc", b"version 1")
    for n in range(2, 6):
        put(fs, root + b"/.doc.tmp", b"version %d" % n)
        fs.rename(root + b"/.doc.tmp", root + b"/doc")
        assert get(fs, root + b"/doc") == b"version %d" % n
    assert list(fs.scan(root)) == [b"doc"]


@IO
def a_handle_reads_on_across_a_rename_of_its_folder(fs: OsLike, root: bytes) -> None:
    fs.mkdir(root + b"/d")
    put(fs, root + b"/d/f", bytes(range(256)) * 1000)
    with opened(fs, root + b"/d/f", os.O_RDONLY) as fd:
        start = fs.read(fd, 1000)
        fs.rename(root + b"/d", root + b"/e")
        assert start + read_all(fs, fd) == bytes(range(256)) * 1000


@IO
def a_mode_of_zero_stops_only_new_opens(fs: OsLike, root: bytes) -> None:
    with masked(fs, 0), opened(fs, root + b"/f", RW, 0o600) as fd:
        fs.fchmod(fd, 0)
        write_all(fs, fd, b"still")
        assert fs.pread(fd, 10, 0) == b"still"
        assert stat.S_IMODE(fs.fstat(fd).st_mode) == 0
