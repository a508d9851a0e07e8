"""Attributes of an open file: by its handle, or by its path where that is refused.

Law: a request by path replaces one by handle only if the path leads to the file that is
open. ``OpenNames`` keeps the path of each open file of this session: renames and
removals of this session change it. Changes by other clients are detected by comparing
the attributes by handle with those by path. Without FSTAT they cannot be detected, and
the path is used (docs/posix.md).
"""

from __future__ import annotations

import errno
import functools
import stat
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

import asyncssh
import trio
from asyncssh.constants import FILEXFER_ATTR_DEFINED_V4

from pamfs.errors import RemoteError
from pamfs.model import Attrs, RemotePath
from pamfs.transport.bridge import Make
from pamfs.transport.sftp.attributes import attrs_of
from pamfs.transport.sftp.requests import Requests, together

Look = Callable[[], Awaitable[Attrs]]

# How long a request waits, in seconds, for the close of a file that the server shows
# only after it.
_CLOSE_S: Final = 5.0


@dataclass(slots=True, eq=False, weakref_slot=True)
class OpenName:
    """The name of one open file; None once it has none that is known."""

    path: RemotePath | None
    look: Look | None = None
    # The server does not show the file by its name before it is closed.
    is_hidden: bool = False
    closed: trio.Event = field(default_factory=trio.Event)


class OpenNames:
    """The names of all open files of one session."""

    def __init__(self) -> None:
        self._names: weakref.WeakSet[OpenName] = weakref.WeakSet()
        self._hides = False  # whether the server was seen to hide a file

    def opened(self, path: RemotePath) -> OpenName:
        """Return the name of a file that was opened by ``path``; it is kept current."""
        name = OpenName(path)
        self._names.add(name)
        return name

    def hide(self, name: OpenName) -> None:
        """Note that the server does not show the file of ``name`` by its path."""
        name.is_hidden = self._hides = True

    def removed(self, path: RemotePath) -> None:
        """Note that ``path`` leads to nothing, or to another file, from now on."""
        for name in self._names:
            if name.path is not None and _is_at(name.path, path):
                name.path = None

    def renamed(self, old: RemotePath, new: RemotePath) -> None:
        """Note that what was at ``old``, and below it, is at ``new``."""
        if old == new:
            return
        self.removed(new)
        for name in self._names:
            if name.path is not None and _is_at(name.path, old):
                name.path = RemotePath(new + name.path[len(old) :])

    def hidden_at(self, path: RemotePath) -> OpenName | None:
        """Return the open file at ``path`` that the server does not show."""
        for name in self._names if self._hides else ():
            if name.is_hidden and name.path == path:
                return name
        return None


async def shows_closed(hidden: OpenName) -> bool:
    """Wait for the close of ``hidden``, ``_CLOSE_S`` at most.

    Return whether it is closed.
    """
    with trio.move_on_after(_CLOSE_S):
        await hidden.closed.wait()
    return hidden.closed.is_set()


def _is_at(path: RemotePath, place: RemotePath) -> bool:
    return path == place or path.startswith(place + b"/")


V = TypeVar("V")

FSTAT: Final = "fstat"
FSETSTAT: Final = "fsetstat"
SETSTAT: Final = "setstat"


class Ask(Protocol):
    """Sends a request behind all writes of the file."""

    async def __call__(self, operation: str, make: Make[V], /) -> V:
        """Return what ``make()`` does, or raise an error of ours."""
        ...


class HandleAttrs:
    """What is asked and changed of one open file's attributes."""

    def __init__(
        self, requests: Requests, name: OpenName, handle: bytes, ask: Ask
    ) -> None:
        self._handler = requests.handler
        self._learned = requests.learned
        self._name = name
        self._handle = handle
        self._ask = ask

    async def look(self) -> Attrs:
        """Return the attributes of the open file."""
        if not self._learned.may_ask(FSTAT):
            return await self._look_by_path()
        try:
            found = await self._ask(FSTAT, self._fstat)
        except RemoteError as exc:
            if self._name.path is None or not self._learned.may_be_missing(
                FSTAT, exc.code
            ):
                raise
            attrs = await self._look_by_path()
            self._learned.note_missing(FSTAT)
            return attrs
        self._learned.note_works(FSTAT)
        return attrs_of(found)

    async def change(self, attrs: asyncssh.SFTPAttrs) -> Attrs | None:
        """Set ``attrs``.

        Return the attributes after it, None if the server sent none.
        """
        refusal: RemoteError | None = None
        if self._learned.may_ask(FSETSTAT):
            try:
                seen = await self.fsetstat(attrs)
            except RemoteError as exc:
                if not self._learned.may_be_missing(FSETSTAT, exc.code):
                    raise
                refusal = exc
            else:
                self._learned.note_works(FSETSTAT)
                return seen
        path = await self._path_of_same(refusal)
        seen = await self._set(SETSTAT, lambda: self._handler.setstat(path, attrs))
        self._learned.note_missing(FSETSTAT)
        return seen

    async def fsetstat(self, attrs: asyncssh.SFTPAttrs) -> Attrs | None:
        """As ``change``, but only by FSETSTAT."""
        return await self._set(
            FSETSTAT, lambda: self._handler.fsetstat(self._handle, attrs)
        )

    async def _set(self, operation: str, setting: Make[None]) -> Attrs | None:
        _, seen = await self._ask(operation, together(setting, self._looking()))
        return None if seen is None else attrs_of(seen)

    def _looking(self) -> Make[asyncssh.SFTPAttrs]:
        path = self._name.path
        if self._learned.may_ask(FSTAT) or path is None:
            return self._fstat
        return functools.partial(self._handler.lstat, path, FILEXFER_ATTR_DEFINED_V4)

    async def _fstat(self) -> asyncssh.SFTPAttrs:
        return await self._handler.fstat(self._handle, FILEXFER_ATTR_DEFINED_V4)

    async def _look_by_path(self) -> Attrs:
        path = self._name.path
        if path is None:
            raise RemoteError(errno.EOPNOTSUPP, FSTAT, "and it has no name any more")
        # A name that was a link when it was opened leads to the file all the same.
        find = functools.partial(self._handler.stat, path, FILEXFER_ATTR_DEFINED_V4)
        try:
            return attrs_of(await self._ask("stat", find))
        except RemoteError as exc:
            if exc.code != errno.ENOENT:
                raise
            why = "its name is gone, and FSTAT is refused"
            raise RemoteError(errno.ESTALE, FSTAT, why) from exc

    async def _path_of_same(self, refusal: RemoteError | None) -> RemotePath:
        """Return the path of the open file, or raise ``refusal``."""
        path = self._name.path
        if path is not None and self._learned.may_ask(SETSTAT):
            by_path = await self._look_by_path()
            held = await self.look() if self._learned.may_ask(FSTAT) else by_path
            if stat.S_ISREG(by_path.mode) and _is_same(held, by_path):
                return path
        raise refusal or RemoteError(
            errno.EOPNOTSUPP, FSETSTAT, "and its name leads elsewhere"
        )


def _is_same(held: Attrs, named: Attrs) -> bool:
    """Whether these may be the attributes of one file; its access time may move."""
    return (held.mode, held.size, held.mtime_ns, held.uid, held.gid) == (
        named.mode,
        named.size,
        named.mtime_ns,
        named.uid,
        named.gid,
    )
