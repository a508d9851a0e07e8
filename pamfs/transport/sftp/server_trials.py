"""Trials of unknown servers: opens, changes of size, and the order of SYMLINK's paths.

Opens. By the draft (filexfer-02, 6.3) only the flag TRUNC empties a file. In the field
some servers empty it at each open for writing, some only without READ beside WRITE
(Erlang), some put a new file in its place at the close (ProFTPD's HiddenStores), and
some replace the content by zeros when the size is set (paramiko). A program that
appends one line would lose all the rest.

A server is known if its list of extensions is that of OpenSSH 8.7 or newer, or if the
tenant has the quirk ``shared-writes``. Any other server is tried, once a session and
for each kind of open (its READ, WRITE and APPEND flags): a file of ours with a random
name is made beside the user's file, else in the login's home; it is opened in this
way, looked at through the handle, closed, looked at by its path, and removed.

Links. The draft has the new name first; OpenSSH has it last (its PROTOCOL file, 4.1),
and many followed. In the wrong order a link is made where the content points, or the
request is refused because something is there. So an unknown server makes a link of
ours first, whose content and name are two unused names of one folder: the name that
exists afterwards is the one that the server reads as the name. Some servers (Erlang,
Conch) resolve a relative content against the login's home: they get the whole path.

Laws:

* A file with content is opened to be changed in place only if an open of that kind has
  kept the content of our file. If the trial cannot be made, the open is EOPNOTSUPP.
* An open with TRUNC is believed only if it has emptied our file, read back. Else the
  size is set, and the user's file is read: what still holds something is EIO.
* The trial is no proof for another file: each later open is checked as well, and the
  first that emptied a file ends all such opens of the session (``emptied``).
* A change of size that could lose content is EOPNOTSUPP unless the trial has kept it.
  Truncating to nothing, and resizing an empty file, are always allowed.
* The file of a trial is removed under a shield with a deadline.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import posixpath
import secrets
import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace as replaced
from typing import Final, Protocol

import asyncssh
import trio

from pamfs.errors import PamfsError, RemoteError, ServerFaultError
from pamfs.model import AttrChange, Attrs, Data, RemotePath
from pamfs.transport.base import OpenMode, RemoteTree
from pamfs.transport.diagnosis import parent_of
from pamfs.transport.sftp.packets import symlink
from pamfs.transport.sftp.requests import Requests

log = logging.getLogger(__name__)

# Time limit of one trial in seconds; the trial is shielded, so that its file is
# removed.
_TRY_S: Final = 30.0
_TRIED: Final = b"123"
_NEW: Final = OpenMode.READ | OpenMode.WRITE | OpenMode.CREATE | OpenMode.EXCLUSIVE


class EmptiedError(ServerFaultError):
    """The server emptied a file that it opened to be changed."""


class TrialFile(Protocol):
    """An open file, as far as a trial needs it."""

    async def read_at(self, offset: int, size: int) -> Data:
        """Return what it holds."""
        ...

    async def write_at(self, offset: int, data: Data) -> None:
        """Store ``data``."""
        ...

    async def stat(self) -> Attrs:
        """Return its attributes."""
        ...

    async def try_size(self, size: int) -> None:
        """Ask for another size, whatever becomes of the file."""
        ...

    async def close(self) -> None:
        """Give the handle back."""
        ...


SetByPath = Callable[[RemotePath, asyncssh.SFTPAttrs], Awaitable[object]]
OpenPlainly = Callable[[RemotePath, OpenMode], Awaitable[TrialFile]]


class OpenTrial:
    """Which opens for writing keep content, as seen in one session."""

    def __init__(
        self, tree: RemoteTree, open_plainly: OpenPlainly, requests: Requests
    ) -> None:
        """``open_plainly`` opens a path with just the flags that it is given."""
        self._tree = tree
        self._open_plainly = open_plainly
        self._requests = requests
        self._keeps: dict[OpenMode, bool] = {}
        self._has_emptied = False
        # Whether an open with TRUNC empties a file; None before it was tried.
        self._obeys_truncate: bool | None = None
        self._trying = trio.Lock()

    def has_kept(self, mode: OpenMode) -> bool:
        """Whether an open with ``mode`` was seen to keep content."""
        return self._keeps.get(_kind_of(mode), False) and not self._has_emptied

    async def check(self, path: RemotePath, mode: OpenMode) -> None:
        """Raise EOPNOTSUPP unless an open with ``mode`` is known to keep content."""
        kind = _kind_of(mode)
        async with self._trying:
            if kind not in self._keeps and not self._has_emptied:
                self._keeps[kind] = await self._try(path, kind)
        if not self.has_kept(kind):
            raise _refusal()

    @property
    def has_emptied_with_truncate(self) -> bool:
        """Whether an open with TRUNC was seen to empty a file."""
        return self._obeys_truncate is True

    async def empties(self, path: RemotePath) -> bool:
        """Whether an open with TRUNC empties a file; tried once.

        False also if it cannot be tried: then the file itself is to be looked at.
        """
        async with self._trying:
            if self._obeys_truncate is None:
                try:
                    found = await _tried(self._tree, path, self._try_truncate)
                except RemoteError:
                    found = False
                self._obeys_truncate = found
        return self._obeys_truncate

    async def _try_truncate(self, path: RemotePath) -> bool:
        content: list[Data] = []

        async def leave(file: TrialFile) -> None:
            del file

        async def read(file: TrialFile) -> None:
            content.append(await file.read_at(0, 1))

        emptying = OpenMode.WRITE | OpenMode.CREATE | OpenMode.TRUNCATE
        try:
            await _use_and_close(self._open_plainly(path, _NEW), _store(b"1"))
            await _use_and_close(self._open_plainly(path, emptying), leave)
            await _use_and_close(self._open_plainly(path, OpenMode.READ), read)
        finally:
            with contextlib.suppress(PamfsError):
                await self._tree.unlink(path)
        return not any(map(len, content))

    def emptied(self, path: RemotePath) -> EmptiedError:
        """Note that an open has emptied ``path``; return the error."""
        self._has_emptied = True
        self._warn("the server emptied %r when it was opened to be changed", path)
        return EmptiedError(errno.EIO, "open", "the server has emptied the file")

    def _warn(self, text: str, *facts: object) -> None:
        rest = "%s: " + text + "; appending and changing in place are refused"
        if self._requests.learned.first_time(text):
            log.warning(rest, self._requests.device, *facts)

    async def _try(self, path: RemotePath, kind: OpenMode) -> bool:
        try:
            return await _tried(self._tree, path, lambda at: self._try_with(at, kind))
        except RemoteError as exc:
            self._warn(
                "whether the server empties a file when it is opened to be changed "
                "could not be tried (%s)",
                exc,
            )
            raise _refusal() from exc

    async def _try_with(self, path: RemotePath, kind: OpenMode) -> bool:
        try:
            await _use_and_close(self._open_plainly(path, _NEW), _store(b"1"))
            keeps = await self._keeps_byte(path, kind)
        finally:
            with contextlib.suppress(PamfsError):
                await self._tree.unlink(path)
        if not keeps:
            self._warn("the server empties a file when it is opened to be changed")
        return keeps

    async def _keeps_byte(self, path: RemotePath, kind: OpenMode) -> bool:
        sizes: list[int] = []

        async def look(file: TrialFile) -> None:
            sizes.append((await file.stat()).size)

        try:
            await _use_and_close(self._open_plainly(path, kind), look)
            # Some put another file in its place at the close.
            sizes.append((await self._tree.lstat(path)).size)
        except RemoteError:
            return False  # an open that is refused counts as not keeping content
        return sizes == [1, 1]


class ResizeTrial:
    """Whether a change of size keeps the bytes before it, as seen in one session."""

    def __init__(
        self,
        tree: RemoteTree,
        open_plainly: OpenPlainly,
        set_by_path: SetByPath,
        requests: Requests,
    ) -> None:
        """``set_by_path`` sends SETSTAT and returns once it is answered."""
        self._tree = tree
        self._open_plainly = open_plainly
        self._set_by_path = set_by_path
        self._requests = requests
        self._keeps: bool | None = None
        self._trying = trio.Lock()

    async def allowed(
        self, path: RemotePath, change: AttrChange, now: Attrs
    ) -> AttrChange:
        """Return what of ``change`` is to be sent; EOPNOTSUPP if it may lose content.

        Cutting a file to nothing, and changing one that holds nothing, loses nothing.
        Setting the present size could lose content too, so that size is not sent.
        """
        if not change.size or not holds(now):
            return change
        async with self._trying:
            if self._keeps is None:
                self._keeps = await self._try(path)
        if self._keeps:
            return change
        if change.size == now.size:
            return replaced(change, size=None)
        raise _resize_refusal()

    async def _try(self, path: RemotePath) -> bool:
        try:
            keeps = await _tried(self._tree, path, self._try_with)
        except RemoteError as exc:
            self._warn("could not be tried to keep what it holds (%s)", exc)
            raise _resize_refusal() from exc
        if not keeps:
            self._warn("loses what it holds%s", "")
        return keeps

    def _warn(self, text: str, fact: object) -> None:
        whole = "%s: a file whose size is changed " + text + "; changes are refused"
        log.warning(whole, self._requests.device, fact)

    async def _try_with(self, path: RemotePath) -> bool:
        content: list[Data] = []

        async def cut(file: TrialFile) -> None:
            with contextlib.suppress(RemoteError):  # what is refused does no harm
                await file.try_size(1)

        async def read(file: TrialFile) -> None:
            content.append(await file.read_at(0, len(_TRIED)))

        try:
            await _use_and_close(self._open_plainly(path, _NEW), _store(_TRIED))
            with contextlib.suppress(RemoteError):
                await self._set_by_path(path, asyncssh.SFTPAttrs(size=2))
            await _use_and_close(self._open_plainly(path, OpenMode.READ), read)
            changed = OpenMode.READ | OpenMode.WRITE
            await _use_and_close(self._open_plainly(path, changed), cut)
            await _use_and_close(self._open_plainly(path, OpenMode.READ), read)
        finally:
            with contextlib.suppress(PamfsError):
                await self._tree.unlink(path)
        return all(found and _TRIED.startswith(bytes(found)) for found in content)


async def _tried(
    tree: RemoteTree,
    path: RemotePath,
    try_with: Callable[[RemotePath], Awaitable[bool]],
) -> bool:
    """Try with a new name beside ``path``, else in the login's home."""
    refused = RemoteError(errno.EOPNOTSUPP, "open")
    home = RemotePath(b".")
    for place in (parent_of(path), home):
        folder = place if place != home else await tree.real_path(home)
        name = b"/.pamfs-" + secrets.token_hex(8).encode()
        try:
            with trio.fail_after(_TRY_S, shield=True):
                return await try_with(RemotePath(folder.rstrip(b"/") + name))
        except RemoteError as exc:
            refused = exc
    raise refused


async def _use_and_close(
    opening: Awaitable[TrialFile], use: Callable[[TrialFile], Awaitable[None]]
) -> None:
    file = await opening
    try:
        await use(file)
    finally:
        await file.close()


def _store(data: bytes) -> Callable[[TrialFile], Awaitable[None]]:
    return lambda file: file.write_at(0, data)


def holds(attrs: Attrs | None) -> bool:
    """Whether ``attrs`` are of a file that has content to lose."""
    return attrs is not None and stat.S_ISREG(attrs.mode) and attrs.size > 0


def _kind_of(mode: OpenMode) -> OpenMode:
    return mode & (OpenMode.READ | OpenMode.WRITE | OpenMode.APPEND)


def _refusal() -> RemoteError:
    why = "the server may empty a file that it opens to be changed"
    return RemoteError(errno.EOPNOTSUPP, "open", why)


def _resize_refusal() -> RemoteError:
    why = "the server may lose what a file holds when its size is changed"
    return RemoteError(errno.EOPNOTSUPP, "setstat", why)


class SymlinkRequests:
    """Makes symbolic links in the order that the server of one session reads."""

    def __init__(self, tree: RemoteTree, requests: Requests, *, is_known: bool) -> None:
        """``is_known``: the server reads the name last, as OpenSSH's does."""
        self._tree = tree
        self._requests = requests
        self._handler = requests.handler
        self._is_seen = is_known
        self._trying = trio.Lock()
        self._keeps_relative: bool | None = True if is_known else None
        # asyncssh chooses the order by the SSH banner, but behind a proxy that is the
        # proxy's banner.
        self._is_name_last = True

    async def find_order(self, path: RemotePath) -> None:
        """Find the order of SYMLINK's paths by a link made beside ``path``.

        Once a session.
        """
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
        # The names are random: a file that appears at one of them is our link.
        first, last = (
            RemotePath(folder + secrets.token_hex(8).encode()) for _ in range(2)
        )
        await self._requests.ask("symlink", lambda: self.make(first, last))
        for place in (last, first):
            if await self._is_there(place):
                await self._tree.unlink(place)
                return place == last
        raise no_link_made()

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


def no_link_made() -> RemoteError:
    """Return the error of a link that is not there though the server said OK."""
    return RemoteError(errno.EIO, "symlink", "the server said OK and made no link")
