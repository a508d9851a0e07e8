"""What a device promises about names: folders, renames, links, listings."""

from __future__ import annotations

import errno
import stat

import trio

from pamfs.model import AttrChange, RemotePath
from pamfs.transport.base import RemoteTree
from tests.contracts.promise import (
    READ,
    WRITE,
    Promises,
    content_of,
    names_in,
    opened,
    refused,
    store,
    under,
)

NANOS = 1_000_000_000
NAMES = Promises()
NOT_THERE = (errno.ENOENT, errno.ENOTDIR)


@NAMES
async def lstat_tells_type_size_and_time(tree: RemoteTree, here: RemotePath) -> None:
    await store(tree, under(here, b"f"), b"123")
    await tree.mkdir(under(here, b"d"), 0o755)
    await tree.symlink(b"f", under(here, b"link"))
    assert stat.S_ISDIR((await tree.lstat(under(here, b"d"))).mode)
    assert stat.S_ISLNK((await tree.lstat(under(here, b"link"))).mode)
    attrs = await tree.lstat(under(here, b"f"))
    assert stat.S_ISREG(attrs.mode)
    assert attrs.size == 3
    assert attrs.mtime_ns > 1_500_000_000 * NANOS


@NAMES
async def what_is_missing_is_missing(tree: RemoteTree, here: RemotePath) -> None:
    missing = under(here, b"no")
    with refused(errno.ENOENT):
        await tree.lstat(missing)
    with refused(errno.ENOENT):
        await tree.list_dir(missing)
    with refused(errno.ENOENT):
        await tree.unlink(missing)
    with refused(errno.ENOENT):
        await tree.rmdir(missing)
    with refused(errno.ENOENT):
        await tree.readlink(missing)
    with refused(errno.ENOENT):
        await tree.rename(missing, under(here, b"to"), replace=True)
    with refused(errno.ENOENT):
        await tree.rename(missing, under(here, b"to"), replace=False)
    with refused(errno.ENOENT):
        await tree.mkdir(under(here, b"no/child"), 0o755)
    with refused(errno.ENOENT):
        await tree.set_attrs(missing, AttrChange(mode=0o600))


@NAMES
async def nothing_is_below_a_file(tree: RemoteTree, here: RemotePath) -> None:
    await store(tree, under(here, b"f"), b"")
    with refused(*NOT_THERE):
        await tree.lstat(under(here, b"f/x"))
    with refused(*NOT_THERE):
        await tree.open(under(here, b"f/x"), READ)
    with refused(errno.ENOTDIR):
        await tree.mkdir(under(here, b"f/x"), 0o755)
    with refused(errno.ENOTDIR):
        await tree.list_dir(under(here, b"f"))


@NAMES
async def mkdir_refuses_a_name_in_use(tree: RemoteTree, here: RemotePath) -> None:
    await tree.mkdir(under(here, b"d"), 0o755)
    await store(tree, under(here, b"f"), b"")
    await tree.symlink(b"nowhere", under(here, b"link"))
    for name in (b"d", b"f", b"link"):
        with refused(errno.EEXIST):
            await tree.mkdir(under(here, name), 0o755)


@NAMES
async def mkdir_makes_no_more_than_asked(tree: RemoteTree, here: RemotePath) -> None:
    await tree.mkdir(under(here, b"d"), 0o700)
    assert (await tree.lstat(under(here, b"d"))).mode == stat.S_IFDIR | 0o700
    await tree.set_attrs(under(here, b"d"), AttrChange(mode=0o1777))
    assert (await tree.lstat(under(here, b"d"))).mode == stat.S_IFDIR | 0o1777


@NAMES
async def rmdir_removes_only_empty_directories(
    tree: RemoteTree, here: RemotePath
) -> None:
    await tree.mkdir(under(here, b"d"), 0o755)
    await store(tree, under(here, b"d/f"), b"")
    with refused(errno.ENOTEMPTY):
        await tree.rmdir(under(here, b"d"))
    with refused(errno.ENOTDIR):
        await tree.rmdir(under(here, b"d/f"))
    await tree.unlink(under(here, b"d/f"))
    await tree.rmdir(under(here, b"d"))
    assert await names_in(tree, here) == set()


@NAMES
async def unlink_removes_what_is_no_directory(
    tree: RemoteTree, here: RemotePath
) -> None:
    await tree.mkdir(under(here, b"d"), 0o755)
    await tree.symlink(b"d", under(here, b"link"))
    await store(tree, under(here, b"f"), b"")
    with refused(errno.EISDIR):
        await tree.unlink(under(here, b"d"))
    await tree.unlink(under(here, b"link"))
    await tree.unlink(under(here, b"f"))
    assert await names_in(tree, here) == {b"d"}


@NAMES
async def rename_replaces_when_it_may(tree: RemoteTree, here: RemotePath) -> None:
    await store(tree, under(here, b"old"), b"new content")
    await store(tree, under(here, b"new"), b"victim")
    await tree.rename(under(here, b"old"), under(here, b"new"), replace=True)
    assert await content_of(tree, under(here, b"new")) == b"new content"
    assert await names_in(tree, here) == {b"new"}


@NAMES
async def rename_never_replaces_when_it_may_not(
    tree: RemoteTree, here: RemotePath
) -> None:
    await store(tree, under(here, b"old"), b"old")
    await store(tree, under(here, b"file"), b"kept")
    await tree.mkdir(under(here, b"dir"), 0o755)
    await tree.mkdir(under(here, b"other"), 0o755)
    # A link that dangles is free to servers that look with stat (OpenSSH's too);
    # the kernel looks before it asks.
    await tree.symlink(b"file", under(here, b"link"))
    for name in (b"file", b"dir", b"link", b"old"):
        with refused(errno.EEXIST):
            await tree.rename(under(here, b"old"), under(here, name), replace=False)
    with refused(errno.EEXIST):
        await tree.rename(under(here, b"other"), under(here, b"dir"), replace=False)
    assert await content_of(tree, under(here, b"file")) == b"kept"
    await tree.rename(under(here, b"old"), under(here, b"free"), replace=False)
    assert await content_of(tree, under(here, b"free")) == b"old"


@NAMES
async def rename_replaces_an_empty_directory_by_one(
    tree: RemoteTree, here: RemotePath
) -> None:
    await tree.mkdir(under(here, b"a"), 0o755)
    await store(tree, under(here, b"a/f"), b"x")
    await tree.mkdir(under(here, b"b"), 0o755)
    await tree.mkdir(under(here, b"full"), 0o755)
    await store(tree, under(here, b"full/f"), b"y")
    with refused(errno.ENOTEMPTY):
        await tree.rename(under(here, b"a"), under(here, b"full"), replace=True)
    await tree.rename(under(here, b"a"), under(here, b"b"), replace=True)
    assert await names_in(tree, here) == {b"b", b"full"}
    assert await content_of(tree, under(here, b"b/f")) == b"x"
    assert await content_of(tree, under(here, b"full/f")) == b"y"


@NAMES
async def rename_does_not_mix_types(tree: RemoteTree, here: RemotePath) -> None:
    await store(tree, under(here, b"f"), b"x")
    await tree.mkdir(under(here, b"d"), 0o755)
    with refused(errno.EISDIR):
        await tree.rename(under(here, b"f"), under(here, b"d"), replace=True)
    with refused(errno.ENOTDIR):
        await tree.rename(under(here, b"d"), under(here, b"f"), replace=True)
    assert await names_in(tree, here) == {b"f", b"d"}


@NAMES
async def rename_refuses_the_impossible(tree: RemoteTree, here: RemotePath) -> None:
    await tree.mkdir(under(here, b"d"), 0o755)
    await tree.mkdir(under(here, b"d/in"), 0o755)
    with refused(errno.EINVAL):
        await tree.rename(under(here, b"d"), under(here, b"d/in/x"), replace=True)
    with refused(errno.EINVAL):
        await tree.rename(under(here, b"d"), under(here, b"d/x"), replace=False)
    with refused(errno.ENOENT):
        await tree.rename(under(here, b"d"), under(here, b"no/x"), replace=True)


@NAMES
async def rename_onto_itself_changes_nothing(
    tree: RemoteTree, here: RemotePath
) -> None:
    await store(tree, under(here, b"f"), b"x")
    await tree.mkdir(under(here, b"d"), 0o755)
    await tree.rename(under(here, b"f"), under(here, b"f"), replace=True)
    await tree.rename(under(here, b"d"), under(here, b"d"), replace=True)
    assert await content_of(tree, under(here, b"f")) == b"x"
    assert await names_in(tree, here) == {b"f", b"d"}


@NAMES
async def rename_takes_the_children_along(tree: RemoteTree, here: RemotePath) -> None:
    await tree.mkdir(under(here, b"d"), 0o755)
    await store(tree, under(here, b"d/f"), b"x")
    await tree.rename(under(here, b"d"), under(here, b"moved"), replace=False)
    assert await content_of(tree, under(here, b"moved/f")) == b"x"
    with refused(errno.ENOENT):
        await tree.lstat(under(here, b"d"))


@NAMES
async def rename_moves_a_link_and_not_its_target(
    tree: RemoteTree, here: RemotePath
) -> None:
    await store(tree, under(here, b"f"), b"x")
    await tree.symlink(b"f", under(here, b"link"))
    await tree.rename(under(here, b"link"), under(here, b"moved"), replace=True)
    assert await tree.readlink(under(here, b"moved")) == b"f"
    await tree.symlink(b"f", under(here, b"dangling"))
    await tree.rename(under(here, b"dangling"), under(here, b"last"), replace=False)
    assert await names_in(tree, here) == {b"f", b"moved", b"last"}


@NAMES
async def a_link_says_what_it_was_told(tree: RemoteTree, here: RemotePath) -> None:
    contents = [b"f", b"/etc//passwd", b"../../x/", b"./.", b"\xff\xfe new\nline"]
    contents += [b"x" * 255, b"/".join([b"y" * 200] * 15)]
    for n, content in enumerate(contents):
        path = under(here, b"link%d" % n)
        await tree.symlink(content, path)
        assert await tree.readlink(path) == content
    with refused(errno.EEXIST):
        await tree.symlink(b"f", under(here, b"link0"))


@NAMES
async def only_a_link_can_be_read_as_one(tree: RemoteTree, here: RemotePath) -> None:
    await store(tree, under(here, b"f"), b"x")
    with refused(errno.EINVAL, errno.EIO):  # the kernel never asks for it
        await tree.readlink(under(here, b"f"))


@NAMES
async def a_loop_of_links_does_not_open(tree: RemoteTree, here: RemotePath) -> None:
    await tree.symlink(b"b", under(here, b"a"))
    await tree.symlink(b"a", under(here, b"b"))
    # OpenSSH: NO_SUCH_FILE, asyncssh: FAILURE; the kernel follows links itself.
    with refused(errno.ELOOP, errno.ENOENT, errno.EIO):
        await tree.open(under(here, b"a"), READ)
    assert await tree.readlink(under(here, b"a")) == b"b"


@NAMES
async def changes_are_to_the_link_itself(tree: RemoteTree, here: RemotePath) -> None:
    await store(tree, under(here, b"f"), b"x")
    await tree.symlink(b"f", under(here, b"link"))
    before = await tree.lstat(under(here, b"f"))
    change = AttrChange(atime_ns=5 * NANOS, mtime_ns=6 * NANOS)
    if tree.capabilities.lsetstat:
        await tree.set_attrs(under(here, b"link"), change)
        assert (await tree.lstat(under(here, b"link"))).mtime_ns == 6 * NANOS
    else:
        with refused(errno.EOPNOTSUPP):
            await tree.set_attrs(under(here, b"link"), change)
    # Linux keeps no mode on a link, whatever the server.
    with refused(errno.EOPNOTSUPP):
        await tree.set_attrs(under(here, b"link"), AttrChange(mode=0o600))
    assert (await tree.lstat(under(here, b"f"))).mode == before.mode
    assert (await tree.lstat(under(here, b"f"))).mtime_ns == before.mtime_ns


@NAMES
async def hard_links_share_content(tree: RemoteTree, here: RemotePath) -> None:
    await store(tree, under(here, b"f"), b"x")
    if not tree.capabilities.hardlink:
        with refused(errno.EOPNOTSUPP):
            await tree.link(under(here, b"f"), under(here, b"g"))
        return
    await tree.link(under(here, b"f"), under(here, b"g"))
    async with opened(tree, under(here, b"g"), WRITE) as file:
        await file.write_at(0, b"y")
    assert await content_of(tree, under(here, b"f")) == b"y"
    with refused(errno.EEXIST):
        await tree.link(under(here, b"f"), under(here, b"g"))
    with refused(errno.ENOENT):
        await tree.link(under(here, b"no"), under(here, b"h"))
    await tree.mkdir(under(here, b"d"), 0o755)
    with refused(errno.EPERM):
        await tree.link(under(here, b"d"), under(here, b"h"))


@NAMES
async def rename_between_two_names_of_one_file_keeps_both(
    tree: RemoteTree, here: RemotePath
) -> None:
    if not (tree.capabilities.hardlink and tree.capabilities.posix_rename):
        return
    await store(tree, under(here, b"f"), b"x")
    await tree.link(under(here, b"f"), under(here, b"g"))
    await tree.rename(under(here, b"f"), under(here, b"g"), replace=True)
    assert await names_in(tree, here) == {b"f", b"g"}


@NAMES
async def names_are_bytes(tree: RemoteTree, here: RemotePath) -> None:
    names = {
        b"caf\xe9",
        "日本".encode(),
        b"new\nline",
        b"[brackets]{%s}",
        b" space ",
        b"-rf",
        b"back\\slash",
        b"\x01\x7f\xff",
        b"n" * 255,
    }
    for name in names:
        await store(tree, under(here, name), name)
    assert await names_in(tree, here) == names
    for name in names:
        assert await content_of(tree, under(here, name)) == name


@NAMES
async def a_name_may_be_too_long(tree: RemoteTree, here: RemotePath) -> None:
    # OpenSSH says BAD_MESSAGE, asyncssh FAILURE; the tree above knows the limit.
    too_long = (errno.ENAMETOOLONG, errno.EINVAL, errno.EIO)
    long = under(here, b"n" * 256)
    with refused(*too_long):
        await tree.lstat(long)
    with refused(*too_long):
        await tree.mkdir(long, 0o755)
    with refused(*too_long):
        await tree.open(long, WRITE, 0o644)


@NAMES
async def a_listing_is_whole(tree: RemoteTree, here: RemotePath) -> None:
    assert list(await tree.list_dir(here)) == []
    wanted = {b"file %04d" % n for n in range(3000)}
    # Links are the quickest to make: one round trip each.
    async with trio.open_nursery() as nursery:
        for name in wanted:
            nursery.start_soon(tree.symlink, b"x", under(here, name))
    found = await tree.list_dir(here)
    assert len(found) == 3000
    assert {bytes(entry.name) for entry in found} == wanted


@NAMES
async def a_listing_tells_what_lstat_tells(tree: RemoteTree, here: RemotePath) -> None:
    await store(tree, under(here, b"f"), b"12345")
    await tree.mkdir(under(here, b"d"), 0o700)
    await tree.symlink(b"f", under(here, b"link"))
    for entry in await tree.list_dir(here):
        assert entry.attrs == await tree.lstat(under(here, entry.name))


@NAMES
async def real_paths_are_absolute(tree: RemoteTree, here: RemotePath) -> None:
    assert (await tree.real_path(RemotePath(b"."))).startswith(b"/")
    assert await tree.real_path(here) == here
    assert await tree.real_path(under(here, b"./../.")) == RemotePath(
        here.rpartition(b"/")[0] or b"/"
    )


@NAMES
async def space_is_sane_or_refused(tree: RemoteTree, here: RemotePath) -> None:
    if not tree.capabilities.statvfs:
        with refused(errno.EOPNOTSUPP):
            await tree.space(here)
        return
    space = await tree.space(here)
    assert space.fragment_bytes >= 512
    assert space.blocks >= space.blocks_free >= space.blocks_available > 0
    assert space.name_max >= 255
    with refused(errno.ENOENT):
        await tree.space(under(here, b"no"))


@NAMES
async def what_makes_a_name_tells_what_it_made(
    tree: RemoteTree, here: RemotePath
) -> None:
    folder, link, other = (under(here, name) for name in (b"d", b"link", b"g"))
    assert await tree.mkdir(folder, 0o755) == await tree.lstat(folder)
    assert await tree.symlink(b"f", link) == await tree.lstat(link)
    await store(tree, under(here, b"f"), b"12345")
    if tree.capabilities.hardlink:
        attrs = await tree.link(under(here, b"f"), other)
        assert attrs == await tree.lstat(other)
        assert attrs.size == 5
