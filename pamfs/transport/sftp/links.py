"""In which order a server reads the two paths of SYMLINK.

The draft has the new name first; OpenSSH has it last (its PROTOCOL file, 4.1), and
many followed. In the wrong order a link is made where the content points, often far
from the folder that was meant, or refused because something is there. So a server
that is not known makes a link of ours first, whose content and name are two unused
names of one folder: the one that comes to be is what the server reads as the name.

Some (Erlang, Conch) also resolve what a link says, against the login's home: then it
leads elsewhere. There a link says where it leads with its whole path.
"""

from __future__ import annotations

import errno
import posixpath
import secrets
from typing import Final

import trio

from pamfs.errors import RemoteError
from pamfs.model import RemotePath
from pamfs.transport.base import RemoteTree
from pamfs.transport.diagnosis import parent_of
from pamfs.transport.sftp.packets import symlink
from pamfs.transport.sftp.requests import Requests

_TRY_S: Final = 30.0


class Links:
    """Makes symbolic links in the order that the server of one session reads."""

    def __init__(self, tree: RemoteTree, requests: Requests, *, is_known: bool) -> None:
        """``is_known``: the server reads the name last, as OpenSSH's does."""
        self._tree = tree
        self._requests = requests
        self._handler = requests.handler
        self._is_seen = is_known
        self._trying = trio.Lock()
        self._keeps_relative: bool | None = True if is_known else None
        # asyncssh goes by the banner, but behind a proxy that is the proxy's.
        self._is_name_last = True

    async def find_order(self, path: RemotePath) -> None:
        """Have the server make a link beside ``path``, once, and see which it is."""
        async with self._trying:
            if not self._is_seen:
                with trio.fail_after(_TRY_S, shield=True):
                    self._is_name_last = await self._try(path)
                self._is_seen = True

    def to_send(self, content: bytes, path: RemotePath) -> bytes:
        """Return the content to send for a link at ``path`` that says ``content``."""
        return (
            content if self._keeps_relative in {None, True} else _whole(content, path)
        )

    async def is_right(self, content: bytes, path: RemotePath) -> bool:
        """Whether the link at ``path`` leads where ``content`` does; seen once."""
        if self._keeps_relative is not None or content.startswith(b"/"):
            return True
        told = await self._tree.readlink(path)
        if told == content:
            self._keeps_relative = True
        elif told != _whole(content, path):  # ProFTPD tells where it leads
            self._keeps_relative = False
        return self._keeps_relative is not False

    async def make(self, content: bytes, path: RemotePath) -> None:
        """Make a link, as one request; for the asyncio side."""
        is_name_last = self._is_name_last
        await symlink(self._handler, content, path, is_name_last=is_name_last)

    async def _try(self, path: RemotePath) -> bool:
        folder = parent_of(path).rstrip(b"/") + b"/.pamfs-"
        # Nobody else has these names: what comes to be at one of them is ours.
        first, last = (
            RemotePath(folder + secrets.token_hex(8).encode()) for _ in range(2)
        )
        await self._requests.ask("symlink", lambda: self.make(first, last))
        for place in (last, first):
            if await self._is_there(place):
                await self._tree.unlink(place)
                return place == last
        raise made_nothing()

    async def _is_there(self, place: RemotePath) -> bool:
        try:
            await self._tree.lstat(place)
        except RemoteError as exc:
            if exc.code != errno.ENOENT:
                raise
            return False
        return True


def _whole(content: bytes, path: RemotePath) -> bytes:
    """Return where ``content`` leads, from a link at ``path``."""
    return posixpath.normpath(posixpath.join(parent_of(path), content))


def made_nothing() -> RemoteError:
    """Return the error of a link that is not there though the server said OK."""
    return RemoteError(errno.EIO, "symlink", "the server said OK and made no link")
