"""What an open file on a device promises: bytes, ends, order, attributes."""

from __future__ import annotations

import errno
import stat

import trio

from pamfs.model import AttrChange, RemotePath
from pamfs.transport.base import OpenMode, RemoteTree
from tests.contracts.promise import (
    NEW,
    READ,
    WRITE,
    Promises,
    content_of,
    opened,
    refused,
    store,
    under,
)

BOTH = READ | WRITE
CREATE = OpenMode.CREATE
APPEND = OpenMode.APPEND
NANOS = 1_000_000_000
FILES = Promises()


@FILES
async def what_is_written_is_read(tree: RemoteTree, here: RemotePath) -> None:
    await store(tree, under(here, b"f"), b"seven b")
    assert await content_of(tree, under(here, b"f")) == b"seven b"


@FILES
async def a_read_is_short_only_at_the_end(tree: RemoteTree, here: RemotePath) -> None:
    content = bytes(range(256)) * 400
    await store(tree, under(here, b"f"), content)
    async with opened(tree, under(here, b"f"), READ) as file:
        assert await file.read_at(0, 100_000) == content[:100_000]
        assert await file.read_at(5, 99_000) == content[5:99_005]
        assert await file.read_at(102_000, 100_000) == content[102_000:]


@FILES
async def at_and_beyond_the_end_there_is_nothing(
    tree: RemoteTree, here: RemotePath
) -> None:
    await store(tree, under(here, b"f"), b"abc")
    async with opened(tree, under(here, b"f"), READ) as file:
        assert await file.read_at(3, 10) == b""
        assert await file.read_at(1 << 33, 10) == b""
        assert await file.read_at(0, 0) == b""
        assert await file.read_at(2, 10) == b"c"


@FILES
async def an_empty_file_reads_as_nothing(tree: RemoteTree, here: RemotePath) -> None:
    await store(tree, under(here, b"f"), b"")
    assert await content_of(tree, under(here, b"f")) == b""
    assert (await tree.lstat(under(here, b"f"))).size == 0


@FILES
async def reads_and_writes_may_exceed_the_limits(
    tree: RemoteTree, here: RemotePath
) -> None:
    size = max(tree.capabilities.max_read_bytes, tree.capabilities.max_write_bytes)
    content = (bytes(range(251)) * (3 * size // 251 + 2))[: 3 * size + 17]
    await store(tree, under(here, b"f"), content)
    async with opened(tree, under(here, b"f"), READ) as file:
        assert await file.read_at(0, len(content) + 1) == content
        assert await file.read_at(7, 2 * size) == content[7 : 7 + 2 * size]


@FILES
async def a_gap_reads_as_zeros(tree: RemoteTree, here: RemotePath) -> None:
    async with opened(tree, under(here, b"f"), BOTH | CREATE, 0o600) as file:
        await file.write_at(70_000, b"end")
        assert (await file.stat()).size == 70_003
        assert await file.read_at(0, 70_003) == bytes(70_000) + b"end"


@FILES
async def writes_go_where_they_are_told(tree: RemoteTree, here: RemotePath) -> None:
    async with opened(tree, under(here, b"f"), BOTH | CREATE, 0o600) as file:
        await file.write_at(0, b"aaaaaaaa")
        await file.write_at(4, b"bb")
        await file.write_at(2, b"")
        assert await file.read_at(0, 100) == b"aaaabbaa"


@FILES
async def writes_at_once_do_not_mix(tree: RemoteTree, here: RemotePath) -> None:
    async with opened(tree, under(here, b"f"), BOTH | CREATE, 0o600) as file:
        async with trio.open_nursery() as nursery:
            for n in range(16):
                block = bytes([n]) * 50_000
                nursery.start_soon(file.write_at, n * 50_000, block)
        found = await file.read_at(0, 16 * 50_000)
    assert found == b"".join(bytes([n]) * 50_000 for n in range(16))


@FILES
async def an_append_goes_to_the_end_there_is_now(
    tree: RemoteTree, here: RemotePath
) -> None:
    await store(tree, under(here, b"f"), b"one ")
    async with opened(tree, under(here, b"f"), WRITE | APPEND) as ours:
        await ours.write_at(0, b"two ")
        async with opened(tree, under(here, b"f"), WRITE | APPEND) as theirs:
            await theirs.write_at(0, b"three ")
        await ours.write_at(4, b"four")
    assert await content_of(tree, under(here, b"f")) == b"one two three four"


@FILES
async def exclusive_means_that_it_was_not_there(
    tree: RemoteTree, here: RemotePath
) -> None:
    async with opened(tree, under(here, b"f"), NEW, 0o600):
        pass
    with refused(errno.EEXIST):
        await tree.open(under(here, b"f"), NEW, 0o600)
    await tree.symlink(b"nowhere", under(here, b"link"))
    with refused(errno.EEXIST):
        await tree.open(under(here, b"link"), NEW, 0o600)
    await tree.mkdir(under(here, b"d"), 0o755)
    with refused(errno.EEXIST):
        await tree.open(under(here, b"d"), NEW, 0o600)


@FILES
async def create_leaves_what_is_there(tree: RemoteTree, here: RemotePath) -> None:
    await store(tree, under(here, b"f"), b"kept")
    async with opened(tree, under(here, b"f"), WRITE | CREATE, 0o600):
        pass
    assert await content_of(tree, under(here, b"f")) == b"kept"


@FILES
async def truncate_empties_at_the_open(tree: RemoteTree, here: RemotePath) -> None:
    await store(tree, under(here, b"f"), b"gone")
    async with opened(
        tree, under(here, b"f"), WRITE | OpenMode.TRUNCATE | CREATE, 0o600
    ) as file:
        assert (await file.stat()).size == 0


@FILES
async def what_is_not_there_does_not_open(tree: RemoteTree, here: RemotePath) -> None:
    with refused(errno.ENOENT):
        await tree.open(under(here, b"f"), READ)
    with refused(errno.ENOENT):
        await tree.open(under(here, b"f"), WRITE)
    with refused(errno.ENOENT):
        await tree.open(under(here, b"no/f"), WRITE | CREATE, 0o600)


@FILES
async def a_directory_does_not_open_to_write(
    tree: RemoteTree, here: RemotePath
) -> None:
    await tree.mkdir(under(here, b"d"), 0o755)
    with refused(errno.EISDIR):
        await tree.open(under(here, b"d"), WRITE)
    with refused(errno.EISDIR):
        await tree.open(under(here, b"d"), BOTH | CREATE, 0o600)


@FILES
async def an_open_file_survives_its_last_name(
    tree: RemoteTree, here: RemotePath
) -> None:
    await store(tree, under(here, b"f"), b"still here")
    async with opened(tree, under(here, b"f"), BOTH) as file:
        await tree.unlink(under(here, b"f"))
        assert (await file.stat()).size == 10
        assert await file.read_at(0, 100) == b"still here"
        await file.write_at(10, b" and more")
        await file.set_attrs(AttrChange(size=12))
        await file.set_attrs(AttrChange(mode=0o640))
        assert await file.read_at(0, 100) == b"still here a"
        assert stat.S_IMODE((await file.stat()).mode) == 0o640
    with refused(errno.ENOENT):
        await tree.lstat(under(here, b"f"))


@FILES
async def an_open_file_follows_its_rename(tree: RemoteTree, here: RemotePath) -> None:
    await store(tree, under(here, b"old"), b"content")
    await store(tree, under(here, b"victim"), b"other")
    async with (
        opened(tree, under(here, b"old"), BOTH) as file,
        opened(tree, under(here, b"victim"), READ) as replaced,
    ):
        await tree.rename(under(here, b"old"), under(here, b"victim"), replace=True)
        await file.write_at(0, b"C")
        assert await replaced.read_at(0, 100) == b"other"
    assert await content_of(tree, under(here, b"victim")) == b"Content"


@FILES
async def an_open_file_can_be_resized(tree: RemoteTree, here: RemotePath) -> None:
    async with opened(tree, under(here, b"f"), BOTH | CREATE, 0o600) as file:
        await file.write_at(0, b"123456")
        await file.set_attrs(AttrChange(size=3))
        assert await file.read_at(0, 10) == b"123"
        await file.set_attrs(AttrChange(size=5))
        assert await file.read_at(0, 10) == b"123\0\0"
        await file.set_attrs(AttrChange(size=1 << 20))
        assert (await file.stat()).size == 1 << 20
        await file.set_attrs(AttrChange(size=0))


@FILES
async def an_open_file_can_be_changed(tree: RemoteTree, here: RemotePath) -> None:
    async with opened(tree, under(here, b"f"), WRITE | CREATE, 0o600) as file:
        await file.set_attrs(AttrChange(mode=0o751))
        await file.set_attrs(AttrChange(atime_ns=5 * NANOS, mtime_ns=7 * NANOS))
        await file.set_attrs(AttrChange(mtime_ns=9 * NANOS))
        attrs = await file.stat()
    assert stat.S_IMODE(attrs.mode) == 0o751
    assert (attrs.atime_ns, attrs.mtime_ns) == (5 * NANOS, 9 * NANOS)


@FILES
async def fsync_is_answered_with_or_without_the_extension(
    tree: RemoteTree, here: RemotePath
) -> None:
    async with opened(tree, under(here, b"f"), WRITE | CREATE, 0o600) as file:
        await file.write_at(0, b"x")
        await file.fsync()


@FILES
async def a_mode_is_exact_once_it_is_set(tree: RemoteTree, here: RemotePath) -> None:
    path = under(here, b"f")
    async with opened(tree, path, WRITE | CREATE, 0o777) as file:
        # At the open a umask of the login may mask; then it may only take away.
        assert stat.S_IMODE((await file.stat()).mode) & ~0o777 == 0
    for mode in (0o777, 0o000, 0o604, 0o7751):
        await tree.set_attrs(path, AttrChange(mode=mode))
        assert stat.S_IMODE((await tree.lstat(path)).mode) == mode


@FILES
async def a_new_file_is_no_wider_than_asked(tree: RemoteTree, here: RemotePath) -> None:
    async with opened(tree, under(here, b"f"), NEW, 0o600):
        pass
    assert (await tree.lstat(under(here, b"f"))).mode == stat.S_IFREG | 0o600


@FILES
async def permissions_count_only_for_a_new_file(
    tree: RemoteTree, here: RemotePath
) -> None:
    async with opened(tree, under(here, b"f"), NEW, 0o600):
        pass
    async with opened(tree, under(here, b"f"), WRITE | CREATE, 0o644):
        pass
    assert (await tree.lstat(under(here, b"f"))).mode == stat.S_IFREG | 0o600


@FILES
async def a_size_is_set_by_name(tree: RemoteTree, here: RemotePath) -> None:
    await store(tree, under(here, b"f"), b"123456")
    await tree.set_attrs(under(here, b"f"), AttrChange(size=2))
    assert await content_of(tree, under(here, b"f")) == b"12"
    await tree.set_attrs(under(here, b"f"), AttrChange(size=4))
    assert await content_of(tree, under(here, b"f")) == b"12\0\0"
    await tree.mkdir(under(here, b"d"), 0o755)
    with refused(errno.EISDIR):
        await tree.set_attrs(under(here, b"d"), AttrChange(size=0))


@FILES
async def one_time_is_set_without_the_other(tree: RemoteTree, here: RemotePath) -> None:
    path = under(here, b"f")
    await store(tree, path, b"x")
    await tree.set_attrs(path, AttrChange(atime_ns=11 * NANOS, mtime_ns=12 * NANOS))
    await tree.set_attrs(path, AttrChange(atime_ns=21 * NANOS))
    attrs = await tree.lstat(path)
    assert (attrs.atime_ns, attrs.mtime_ns) == (21 * NANOS, 12 * NANOS)
    await tree.set_attrs(path, AttrChange(mtime_ns=22 * NANOS))
    attrs = await tree.lstat(path)
    assert (attrs.atime_ns, attrs.mtime_ns) == (21 * NANOS, 22 * NANOS)


@FILES
async def a_time_keeps_its_seconds(tree: RemoteTree, here: RemotePath) -> None:
    path = under(here, b"f")
    await store(tree, path, b"x")
    wanted = 0xF0000000 * NANOS + 987_654_321  # beyond 2038
    await tree.set_attrs(path, AttrChange(atime_ns=wanted, mtime_ns=wanted))
    attrs = await tree.lstat(path)
    assert attrs.mtime_ns // NANOS == attrs.atime_ns // NANOS == 0xF0000000
    assert attrs.mtime_ns in {wanted, wanted // NANOS * NANOS}


@FILES
async def an_owner_and_a_group_are_set_alone(
    tree: RemoteTree, here: RemotePath
) -> None:
    path = under(here, b"f")
    await store(tree, path, b"x")
    before = await tree.lstat(path)
    await tree.set_attrs(path, AttrChange(uid=before.uid))
    await tree.set_attrs(path, AttrChange(gid=before.gid))
    assert (await tree.lstat(path)).uid == before.uid
    assert (await tree.lstat(path)).gid == before.gid


@FILES
async def an_open_tells_what_it_opened(tree: RemoteTree, here: RemotePath) -> None:
    path, link = under(here, b"f"), under(here, b"link")
    file, made = await tree.open(path, BOTH | CREATE | OpenMode.EXCLUSIVE, 0o600)
    assert made == await file.stat() == await tree.lstat(path)
    await file.write_at(0, b"12345")
    await file.close()
    await tree.symlink(b"f", link)
    for mode, size in ((READ, 5), (BOTH, 5), (WRITE | OpenMode.TRUNCATE, 0)):
        for name in (path, link):
            file, attrs = await tree.open(name, mode)
            assert stat.S_ISREG(attrs.mode)
            assert attrs.size == size
            assert attrs == await file.stat()
            await file.close()


@FILES
async def a_change_of_a_file_tells_what_it_led_to(
    tree: RemoteTree, here: RemotePath
) -> None:
    path = under(here, b"f")
    changes = (
        AttrChange(mode=0o640),
        AttrChange(size=70_000),
        AttrChange(mtime_ns=7 * NANOS),
        AttrChange(size=3, mode=0o600, atime_ns=5 * NANOS, mtime_ns=6 * NANOS),
    )
    async with opened(tree, path, WRITE | CREATE, 0o600) as file:
        for change in changes:
            assert await file.set_attrs(change) == await file.stat()
        for change in changes:
            assert await tree.set_attrs(path, change) == await tree.lstat(path)
        assert (await file.stat()).size == 3


@FILES
async def any_buffer_can_be_written(tree: RemoteTree, here: RemotePath) -> None:
    source = bytearray(b"0123456789")
    async with opened(tree, under(here, b"f"), WRITE | CREATE, 0o600) as file:
        await file.write_at(0, memoryview(source)[2:6])
        source[:] = bytes(10)
    assert await content_of(tree, under(here, b"f")) == b"2345"
