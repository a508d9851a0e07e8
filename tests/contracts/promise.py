"""How a promise of ``RemoteTree`` is written: an async function of (tree, folder).

A promise knows nothing of what is behind the tree. It gets an empty folder, and
fails with an ``AssertionError`` or with the error that the tree should not have
raised.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from pamfs.errors import RemoteError
from pamfs.model import RemotePath
from pamfs.transport.base import OpenMode, RemoteFile, RemoteTree

Promise = Callable[[RemoteTree, RemotePath], Awaitable[None]]

READ = OpenMode.READ
WRITE = OpenMode.WRITE
NEW = OpenMode.WRITE | OpenMode.CREATE | OpenMode.EXCLUSIVE


class Promises(dict[str, Promise]):
    """One family of promises, each by its name."""

    def __call__(self, check: Promise) -> Promise:
        """Add ``check``; for use as a decorator."""
        name: str = getattr(check, "__name__", "")
        assert name not in self
        self[name] = check
        return check


def under(folder: RemotePath, name: bytes) -> RemotePath:
    return RemotePath(folder + b"/" + name)


@contextlib.contextmanager
def refused(*codes: int) -> Iterator[None]:
    """Hold that the block is answered with one of ``codes``."""
    right = " or ".join(errno.errorcode[code] for code in codes)
    found: RemoteError | None = None
    try:
        yield
    except RemoteError as exc:
        found = exc
    assert found, f"allowed, where {right} is right"
    assert found.code in codes, f"{found}, where {right} is right"


@contextlib.asynccontextmanager
async def opened(
    tree: RemoteTree, path: RemotePath, mode: OpenMode, permissions: int | None = None
) -> AsyncIterator[RemoteFile]:
    file, _ = await tree.open(path, mode, permissions)
    try:
        yield file
    finally:
        await file.close()


async def store(tree: RemoteTree, path: RemotePath, content: bytes) -> None:
    async with opened(tree, path, WRITE | OpenMode.CREATE, 0o644) as file:
        await file.write_at(0, content)


async def content_of(tree: RemoteTree, path: RemotePath) -> bytes:
    async with opened(tree, path, READ) as file:
        return bytes(await file.read_at(0, 1 << 22))


async def names_in(tree: RemoteTree, folder: RemotePath) -> set[bytes]:
    return {bytes(entry.name) for entry in await tree.list_dir(folder)}
