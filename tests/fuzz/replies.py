"""Targets for what an SFTP server answers."""

from __future__ import annotations

import errno
import stat
from collections.abc import Awaitable, Callable
from typing import Final

import trio
import trio.testing

from pamfs.errors import RemoteError, SessionLostError
from pamfs.model import AttrChange, Attrs, RemotePath
from pamfs.transport.base import OpenMode
from pamfs.transport.sftp.server import extensions_of
from pamfs.transport.sftp.tree import SftpTree
from pamfs.transport.sftp.wire import START_FAILURES
from tests.fuzz.scripted import ScriptedBridge, Server
from tests.fuzz.target import target

PATH: Final = RemotePath(b"/a/f")
OTHER: Final = RemotePath(b"/a/g")
LONGEST: Final = (1 << 63) - 1
KINDS: Final = frozenset(
    {
        stat.S_IFBLK,
        stat.S_IFCHR,
        stat.S_IFDIR,
        stat.S_IFIFO,
        stat.S_IFLNK,
        stat.S_IFREG,
        stat.S_IFSOCK,
    }
)
OPENSSH: Final = b"\0\0\0\3" + b"".join(
    len(name).to_bytes(4, "big") + name + b"\0\0\0\1" + value
    for name, value in (
        (b"posix-rename@openssh.com", b"1"),
        (b"statvfs@openssh.com", b"2"),
        (b"fstatvfs@openssh.com", b"2"),
        (b"hardlink@openssh.com", b"1"),
        (b"fsync@openssh.com", b"1"),
        (b"lsetstat@openssh.com", b"1"),
        (b"limits@openssh.com", b"1"),
        (b"expand-path@openssh.com", b"1"),
    )
)

Act = Callable[[SftpTree], Awaitable[object]]


@target(1024)
def sftp_version(data: bytes) -> None:
    """A VERSION packet starts a session, or fails as a login reports it."""
    server = Server(b"", data)
    try:
        client = server.start()
    except START_FAILURES:
        return
    finally:
        server.end()
    assert 3 <= client.version <= 6
    assert all(isinstance(name, bytes) for name, _ in extensions_of(client))


def check_attrs(attrs: Attrs) -> None:
    """What the kernel is told of a file is what it can take."""
    assert stat.S_IFMT(attrs.mode) in KINDS, oct(attrs.mode)
    assert 0 <= attrs.size <= LONGEST
    assert 0 <= attrs.uid < 1 << 32
    assert 0 <= attrs.gid < 1 << 32
    assert 1 <= attrs.nlink < 1 << 32
    for at in (attrs.atime_ns, attrs.mtime_ns, attrs.ctime_ns or 0):
        assert abs(at // 10**9) < 1 << 63


async def listed(tree: SftpTree) -> None:
    names = set()
    for entry in await tree.list_dir(PATH):
        assert 0 < len(entry.name) <= 255
        assert entry.name not in {b".", b".."}
        assert not {b"/", b"\0"} & {entry.name[at : at + 1] for at in range(255)}
        assert entry.name not in names
        names.add(entry.name)
        check_attrs(entry.attrs)


async def looked(tree: SftpTree) -> None:
    check_attrs(await tree.lstat(PATH))


async def resolved(tree: SftpTree) -> None:
    assert isinstance(await tree.real_path(RemotePath(b".")), bytes)
    assert isinstance(await tree.readlink(PATH), bytes)


async def asked_space(tree: SftpTree) -> None:
    space = await tree.space(PATH)
    assert 0 < space.fragment_bytes <= LONGEST
    assert 0 <= space.blocks * space.fragment_bytes <= LONGEST
    assert 0 <= space.files <= LONGEST


async def made(tree: SftpTree) -> None:
    check_attrs(await tree.mkdir(PATH, 0o755))
    check_attrs(await tree.symlink(b"../x", PATH))
    check_attrs(await tree.link(PATH, OTHER))


async def removed(tree: SftpTree) -> None:
    await tree.unlink(PATH)
    await tree.rmdir(OTHER)


async def renamed(tree: SftpTree) -> None:
    await tree.rename(PATH, OTHER, replace=True)
    await tree.rename(PATH, OTHER, replace=False)


async def changed(tree: SftpTree) -> None:
    check_attrs(await tree.set_attrs(PATH, AttrChange(mode=0o600, mtime_ns=7)))
    sized = await tree.set_attrs(PATH, AttrChange(size=5))
    assert sized.size == 5


async def read(tree: SftpTree) -> None:
    file, attrs = await tree.open(PATH, OpenMode.READ)
    check_attrs(attrs)
    assert len(await file.read_at(0, 10)) <= 10
    assert len(await file.read_at(1 << 40, 100_000)) <= 100_000
    check_attrs(await file.stat())
    await file.close()


async def written(tree: SftpTree) -> None:
    mode = OpenMode.WRITE | OpenMode.CREATE | OpenMode.TRUNCATE
    file, attrs = await tree.open(PATH, mode, 0o600)
    check_attrs(attrs)
    await file.write_at(0, b"123")
    await file.write_at(3, bytes(70_000))
    await file.fsync()
    assert (await file.set_attrs(AttrChange(size=5))).size == 5
    await file.close()


async def appended(tree: SftpTree) -> None:
    file, attrs = await tree.open(PATH, OpenMode.WRITE | OpenMode.APPEND)
    check_attrs(attrs)
    await file.write_at(0, b"123")
    await file.close()


ACTS: Final[tuple[Act, ...]] = (
    listed,
    looked,
    resolved,
    asked_space,
    made,
    removed,
    renamed,
    changed,
    read,
    written,
    appended,
)


@target(4096)
def sftp_replies(data: bytes) -> None:
    """Whatever a server answers, a request ends with a sane value or one errno.

    The first byte chooses the request, and whether the server announces what OpenSSH
    does; the rest are the answers.
    """
    if not data:
        return
    server = Server(data[1:], OPENSSH if data[0] & 0x80 else None)
    client = server.start()

    async def ask() -> None:
        async with trio.open_nursery() as nursery:
            tree = SftpTree(ScriptedBridge(server.loop), client, nursery)
            await ask_for(ACTS[(data[0] & 0x7F) % len(ACTS)], tree)

    try:
        trio.run(ask, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        server.end()


async def ask_for(act: Act, tree: SftpTree) -> None:
    refusal: RemoteError | None = None
    try:
        await act(tree)
    except SessionLostError:
        return
    except RemoteError as exc:
        refusal = exc
    assert refusal is None or refusal.code in set(errno.errorcode) - {errno.ENOSYS}
