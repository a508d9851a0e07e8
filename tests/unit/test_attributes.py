from __future__ import annotations

import stat

import asyncssh
import pytest
from asyncssh.constants import FILEXFER_TYPE_DIRECTORY, FILEXFER_TYPE_SYMLINK

from pamfs.model import AttrChange, Attrs
from pamfs.transport.sftp.attributes import (
    attrs_of,
    is_complete,
    needs_known,
    sftp_attrs,
    space_of,
)

SECOND = 1_000_000_000
KNOWN = Attrs(stat.S_IFREG, uid=7, gid=8, atime_ns=9 * SECOND + 5, mtime_ns=10 * SECOND)


def test_version_3_attributes_are_taken_as_they_are() -> None:
    found = asyncssh.SFTPAttrs(
        size=5, uid=1, gid=2, permissions=stat.S_IFREG | 0o640, atime=3, mtime=4
    )
    assert attrs_of(found) == Attrs(
        stat.S_IFREG | 0o640, 5, 1, 2, 3 * SECOND, 4 * SECOND
    )


def test_fractions_of_a_second_are_kept_where_the_wire_has_them() -> None:
    found = asyncssh.SFTPAttrs(
        permissions=stat.S_IFREG, mtime=4, mtime_ns=5, ctime=6, ctime_ns=7, nlink=3
    )
    attrs = attrs_of(found)
    assert attrs.mtime_ns == 4 * SECOND + 5
    assert attrs.ctime_ns == 6 * SECOND + 7
    assert attrs.nlink == 3


@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        (FILEXFER_TYPE_DIRECTORY, stat.S_IFDIR),
        (FILEXFER_TYPE_SYMLINK, stat.S_IFLNK),
    ],
)
def test_the_type_comes_from_its_own_field_without_mode_bits(
    kind: int, bits: int
) -> None:
    found = asyncssh.SFTPAttrs(type=kind, permissions=0o755)
    assert attrs_of(found).mode == bits | 0o755


@pytest.mark.parametrize(
    ("found", "is_whole"),
    [
        (asyncssh.SFTPAttrs(permissions=stat.S_IFREG | 0o644, size=0), True),
        (asyncssh.SFTPAttrs(permissions=stat.S_IFREG | 0o644), False),
        (asyncssh.SFTPAttrs(permissions=stat.S_IFDIR | 0o755), True),
        (asyncssh.SFTPAttrs(permissions=0o644, size=0), False),
        (asyncssh.SFTPAttrs(permissions=0o644, size=0, type=99), False),
        (asyncssh.SFTPAttrs(permissions=0o644, type=FILEXFER_TYPE_DIRECTORY), True),
        (asyncssh.SFTPAttrs(type=FILEXFER_TYPE_DIRECTORY, size=0), False),
        (asyncssh.SFTPAttrs(), False),
    ],
)
def test_what_a_server_leaves_out_is_not_known(
    found: asyncssh.SFTPAttrs, *, is_whole: bool
) -> None:
    assert is_complete(found) == is_whole


def test_what_has_no_permissions_is_the_owners_alone() -> None:
    assert attrs_of(asyncssh.SFTPAttrs(), stat.S_IFDIR).mode == stat.S_IFDIR | 0o700
    assert attrs_of(asyncssh.SFTPAttrs()).mode == stat.S_IFREG | 0o600


def test_a_size_is_no_more_than_the_kernel_takes() -> None:
    assert attrs_of(asyncssh.SFTPAttrs(size=1 << 63)).size == (1 << 63) - 1


def test_a_change_is_sent_size_first_and_times_last() -> None:
    change = AttrChange(mode=0o100644, size=5, uid=1, gid=2, atime_ns=1, mtime_ns=2)
    size, owner, rest = sftp_attrs(change, None)
    assert size.size == 5
    assert (owner.uid, owner.gid) == (1, 2)
    assert (rest.permissions, rest.atime, rest.mtime) == (0o644, 0, 0)


def test_half_a_pair_needs_the_other_half() -> None:
    assert needs_known(AttrChange(uid=1))
    assert needs_known(AttrChange(mtime_ns=1))
    assert not needs_known(AttrChange(uid=1, gid=1, atime_ns=1, mtime_ns=1))
    (owner,) = sftp_attrs(AttrChange(gid=1), KNOWN)
    assert (owner.uid, owner.gid) == (7, 1)
    (times,) = sftp_attrs(AttrChange(mtime_ns=3 * SECOND), KNOWN)
    assert (times.atime, times.atime_ns, times.mtime) == (9, 5, 3)


def test_no_change_sends_nothing() -> None:
    assert sftp_attrs(AttrChange(), None) == []


@pytest.mark.parametrize(
    ("nanos", "seconds"),
    [(-5 * SECOND, 0), (2**40 * SECOND, 2**32 - 1), (7 * SECOND + 999, 7)],
)
def test_times_stay_within_what_32_bits_hold(nanos: int, seconds: int) -> None:
    (times,) = sftp_attrs(AttrChange(atime_ns=nanos, mtime_ns=nanos), None)
    assert (times.atime, times.mtime) == (seconds, seconds)


def test_room_is_counted_in_fragments() -> None:
    found = asyncssh.SFTPVFSAttrs(
        bsize=65536, frsize=4096, blocks=10, bfree=5, bavail=4, flags=1, namemax=255
    )
    space = space_of(found)
    assert (space.fragment_bytes, space.blocks, space.blocks_available) == (4096, 10, 4)
    assert space.is_read_only
    assert not space_of(asyncssh.SFTPVFSAttrs(bsize=512, frsize=0)).is_read_only


def test_a_size_beyond_what_the_kernel_holds_is_the_largest_that_it_does() -> None:
    found = asyncssh.SFTPAttrs(permissions=stat.S_IFREG, size=(1 << 64) - 1)
    assert attrs_of(found).size == (1 << 63) - 1


def test_room_beyond_what_a_program_can_count_is_the_most_that_it_can() -> None:
    huge = (1 << 64) - 1
    found = asyncssh.SFTPVFSAttrs(
        bsize=4096, frsize=4096, blocks=huge, bfree=1 << 63, bavail=7, files=huge
    )
    space = space_of(found)
    assert space.blocks == space.blocks_free == (1 << 63) // 4096 - 1
    assert (space.blocks_available, space.files) == (7, (1 << 63) - 1)
    odd = space_of(asyncssh.SFTPVFSAttrs(bsize=0, frsize=huge, blocks=huge))
    assert odd.fragment_bytes * odd.blocks < 1 << 63
    assert space_of(asyncssh.SFTPVFSAttrs(bsize=0, frsize=0)).fragment_bytes == 1
