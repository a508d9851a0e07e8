"""Opens files so that nothing is lost by the open itself.

Law: whatever opens something on the server runs to its end (``obtain``) and is closed
there if the caller has gone. On a server that is not known, three faults are detected:
it empties a file that is opened to be changed (``server_trials.OpenTrial``), it opens
an existing file as new, or it keeps content that should be truncated. The attributes
are read before each open, in the same round trip, and after it.
"""

from __future__ import annotations

import contextlib
import errno
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import asyncssh
import trio
from asyncssh import constants
from asyncssh.constants import FILEXFER_ATTR_DEFINED_V4, FXP_OPEN
from asyncssh.packet import String, UInt32

from pamfs.errors import PamfsError, RemoteError, ServerFaultError
from pamfs.model import AttrChange, Attrs, RemotePath
from pamfs.tasks import obtain
from pamfs.transport import diagnosis
from pamfs.transport.base import OpenMode, RemoteTree
from pamfs.transport.bridge import Make
from pamfs.transport.sftp.attributes import attrs_of, is_complete
from pamfs.transport.sftp.file import AppendingFile, SftpFile
from pamfs.transport.sftp.handle_attrs import FSTAT, OpenNames
from pamfs.transport.sftp.handles import HeldHandle, OpenRequest, with_room
from pamfs.transport.sftp.requests import Requests, after_look, together
from pamfs.transport.sftp.server import SFTP_VERSION
from pamfs.transport.sftp.server_trials import OpenTrial, ResizeTrial, holds

_PFLAGS: Final[dict[OpenMode, int]] = {
    OpenMode.READ: constants.FXF_READ,
    OpenMode.WRITE: constants.FXF_WRITE,
    OpenMode.APPEND: constants.FXF_APPEND,
    OpenMode.CREATE: constants.FXF_CREAT,
    OpenMode.TRUNCATE: constants.FXF_TRUNC,
    OpenMode.EXCLUSIVE: constants.FXF_EXCL,
}
# Codes of servers that do not support a flag or the attributes of OPEN; EIO (FAILURE)
# may have other causes.
_REFUSED_FLAG: Final = frozenset({errno.EIO, errno.EOPNOTSUPP, errno.EINVAL})
_REFUSED_READ: Final = _REFUSED_FLAG | {errno.EACCES}
_ATTRIBUTES: Final = "attributes of an open"
_EXCLUSIVE: Final = "exclusive open"

Opened = tuple[SftpFile, Attrs]


@dataclass(frozen=True, slots=True)
class OpenArgs:
    """How a file is opened; ``permissions`` count only for a new one."""

    kind: type[SftpFile]
    mode: OpenMode
    permissions: int | None = None

    def with_mode(self, mode: OpenMode) -> OpenArgs:
        """Return the same with ``mode``."""
        return OpenArgs(self.kind, mode, self.permissions)


class Opener:
    """Opens the files of one session."""

    def __init__(
        self,
        tree: RemoteTree,
        requests: Requests,
        names: OpenNames,
        nursery: trio.Nursery,
        *,
        is_known: bool,
    ) -> None:
        """``is_known``: the server opens files as OpenSSH's does."""
        self._tree = tree
        self._requests = requests
        self._handler = requests.handler
        self._learned = requests.learned
        self._names = names
        self._nursery = nursery
        self._open_trial = (
            None if is_known else OpenTrial(tree, self.open_plainly, requests)
        )
        self.resizing: ResizeTrial | None = None  # set where the server is not known
        # Some servers refuse APPEND (facts/peers.md#append-flag); learned once.
        self._knows_append = True

    async def open(
        self, path: RemotePath, mode: OpenMode, permissions: int | None
    ) -> Opened:
        """Open a file. ``permissions`` count only when the call creates it."""
        if OpenMode.APPEND not in mode:
            return await self._careful(path, OpenArgs(SftpFile, mode, permissions))
        how = OpenArgs(AppendingFile, mode, permissions)
        refusal: RemoteError | None = None
        if self._knows_append:
            try:
                return await self._careful(path, how)
            except RemoteError as exc:
                if not _may_mean(exc, _REFUSED_FLAG):
                    raise
                refusal = exc
        opened = await self._careful(path, how.with_mode(mode & ~OpenMode.APPEND))
        if refusal is not None and refusal.code != errno.EIO:
            self._knows_append = False
        return opened

    async def open_plainly(self, path: RemotePath, mode: OpenMode) -> SftpFile:
        """Open ``path`` with just these flags."""
        return (await self._open(path, OpenArgs(SftpFile, mode)))[0]

    # -- servers that are not known ----------------------------------------------

    async def _careful(self, path: RemotePath, how: OpenArgs) -> Opened:
        if self._open_trial is None or OpenMode.WRITE not in how.mode:
            return await self._open(path, how)
        if OpenMode.EXCLUSIVE in how.mode:
            return await self._make(path, how)
        if OpenMode.TRUNCATE in how.mode:
            return await self._empty(path, how, self._open_trial)
        return await self._change(path, how, self._open_trial)

    async def _change(
        self, path: RemotePath, how: OpenArgs, trial: OpenTrial
    ) -> Opened:
        """Open a file whose content must stay: with READ, which keeps it on some."""
        wide = how.with_mode(how.mode | OpenMode.READ)
        try:
            return await self._kept(path, wide, trial)
        except RemoteError as exc:
            if wide == how or exc.code != errno.EACCES:
                raise
        return await self._kept(path, how, trial)

    async def _kept(self, path: RemotePath, how: OpenArgs, trial: OpenTrial) -> Opened:
        before: Attrs | None = None
        if not trial.has_kept(how.mode):
            before = await self._look(path)
            if holds(before):
                await trial.check(path, how.mode)
        seen: list[Attrs] = [] if before is None else [before]
        try:
            opened = await self._open(path, how, seen)
        except RemoteError as exc:
            if exc.code != errno.ENOENT or not seen:
                raise
            why = "the server opens no file to be changed in place"
            raise RemoteError(errno.EOPNOTSUPP, "open", why) from exc
        async with _closed_on_failure(opened):
            had_content = any(map(holds, seen))
            if (
                had_content
                and not holds(opened[1])
                and not holds(await opened[0].stat())
            ):
                raise trial.emptied(path)
        return opened

    async def _make(self, path: RemotePath, how: OpenArgs) -> Opened:
        """Create a file that must not exist; some servers ignore EXCL.

        They open the existing file.
        """
        if not self._learned.may_ask(_EXCLUSIVE) and await self._look(path) is not None:
            raise RemoteError(errno.EEXIST, "open")
        seen: list[Attrs] = []
        wide = how.with_mode(how.mode | OpenMode.READ)
        try:
            opened = await self._open(path, wide, seen)
        except RemoteError as exc:
            if seen:
                raise RemoteError(errno.EEXIST, "open") from exc
            if wide == how or not _may_mean(exc, _REFUSED_READ):
                raise
            opened = await self._open(path, how, seen)
        if seen:
            self._learned.note_missing(_EXCLUSIVE)
            await self._close_unless_it_replaces(path, opened)
            raise RemoteError(errno.EEXIST, "open", "the server has opened it as new")
        return opened

    async def _close_unless_it_replaces(self, path: RemotePath, opened: Opened) -> None:
        """Close what was opened beside a file that is there, where handles are few.

        Else it stays open: ProFTPD's HiddenStores would put the new file in the place
        of the other at its close. Closing is safe if the handle has the content of the
        existing file, or if that file is empty.
        """
        if not self._requests.handles.limit:
            return
        with contextlib.suppress(RemoteError):
            is_it = holds(await opened[0].stat()) and self._learned.may_ask(FSTAT)
            if is_it or not holds(await self._look(path)):
                await close_quietly(opened)

    async def _empty(self, path: RemotePath, how: OpenArgs, trial: OpenTrial) -> Opened:
        """Open a file to be emptied, and see that it was.

        Some servers ignore TRUNC: then the old end would stay behind what is written.
        """
        has_emptied = await self._empties(path, trial)
        try:
            opened = await self._open(path, how)
        except RemoteError as exc:
            # ProFTPD's HiddenStores open no existing file without CREAT.
            if exc.code != errno.ENOENT or await self._look(path) is None:
                raise
            opened = await self._open(path, how.with_mode(how.mode | OpenMode.CREATE))
        file, attrs = opened
        if attrs.size and self._learned.may_ask(FSTAT):
            # rclone shows the old size until the close; then the size is left as it is.
            async with _closed_on_failure(opened):
                with contextlib.suppress(RemoteError):
                    await file.fsetstat(asyncssh.SFTPAttrs(size=0))
                    opened = file, await file.stat()
        if not has_emptied:
            async with _closed_on_failure(opened):
                await self._check_emptied(path, file)
                return file, await file.stat()
        return opened

    async def _empties(self, path: RemotePath, trial: OpenTrial) -> bool:
        """Whether opens with TRUNC empty a file, or there is none to be emptied."""
        if trial.has_emptied_with_truncate:
            return True
        if await self._look(path) is None:
            return True
        return await trial.empties(path)

    async def _check_emptied(self, path: RemotePath, file: SftpFile) -> None:
        """Set the size to nothing; raise EIO if the file at ``path`` still holds any.

        It is read for that: of a server that ignores TRUNC no size is believed.
        """
        with contextlib.suppress(RemoteError):
            await file.try_size(0)
        reader = await self.open_plainly(path, OpenMode.READ)
        try:
            is_empty = not len(await reader.read_at(0, 1))
        finally:
            await close_quietly((reader, None))
        if not is_empty:
            why = "the server has not emptied the file"
            raise RemoteError(errno.EIO, "open", why)

    async def _look(self, path: RemotePath) -> Attrs | None:
        try:
            attrs = await self._tree.lstat(path)
            if stat.S_ISLNK(attrs.mode):
                find = self._stat(path)
                return attrs_of(await self._requests.ask("stat", find))
        except RemoteError as exc:
            # No other error means that there is nothing to lose.
            if exc.code in {errno.ENOENT, errno.ENOTDIR}:
                return None
            raise
        return attrs

    def _stat(self, path: RemotePath) -> Make[asyncssh.SFTPAttrs]:
        return lambda: self._handler.stat(path, FILEXFER_ATTR_DEFINED_V4)

    # -- one open ----------------------------------------------------------------

    async def _open(
        self, path: RemotePath, how: OpenArgs, before: list[Attrs] | None = None
    ) -> Opened:
        """Open ``path``; what was there goes to ``before``, if it is still empty."""
        if how.permissions is None or self._learned.may_ask(_ATTRIBUTES):
            try:
                return await self._open_once(path, how, before)
            except RemoteError as exc:
                is_meant = _may_mean(exc, _REFUSED_FLAG)
                if how.permissions is None or not is_meant or before:
                    raise
        bare = OpenArgs(how.kind, how.mode)
        file, attrs = await self._open_once(path, bare, before)
        self._learned.note_missing(_ATTRIBUTES)
        if OpenMode.EXCLUSIVE in how.mode and how.permissions is not None:
            # A mode that cannot be set is the caller's to see: the file is there.
            async with _closed_on_failure((file, attrs)):
                with contextlib.suppress(RemoteError):
                    attrs = await file.set_attrs(AttrChange(mode=how.permissions))
        return file, attrs

    async def _open_once(
        self, path: RemotePath, how: OpenArgs, before: list[Attrs] | None
    ) -> Opened:
        look: Make[asyncssh.SFTPAttrs] = lambda: self._handler.lstat(  # noqa: E731
            path, FILEXFER_ATTR_DEFINED_V4
        )
        both = together(lambda: self._opening(path, how), look)
        is_looked_at = before is not None and not before

        async def explain(code: int) -> int:
            if OpenMode.EXCLUSIVE in how.mode:
                return await diagnosis.explain_making(self._tree, path, code)
            return await diagnosis.explain_opening(self._tree, path, code, how.mode)

        async def get() -> tuple[SftpFile, Attrs]:
            make = both
            if is_looked_at and before is not None:
                make = after_look(
                    look, both, lambda seen: before.append(attrs_of(seen))
                )
            make = with_room(self._handler, make)
            held, seen = await self._requests.explained("open", make, explain)
            name = self._names.opened(path)
            file = how.kind(self._tree, self._requests, name, held)
            if seen is None and OpenMode.CREATE in how.mode:
                self._names.hide(name)
            file.resizing = self.resizing
            async with _closed_on_failure((file, seen)):
                return file, await _attrs_of_opened(file, how.mode, seen)

        opened = await obtain(self._nursery, get, close_quietly)
        if how.permissions is not None:
            self._learned.note_works(_ATTRIBUTES)
        return opened

    async def _opening(self, path: RemotePath, how: OpenArgs) -> HeldHandle:
        pflags = sum(bit for flag, bit in _PFLAGS.items() if flag in how.mode)
        attrs = asyncssh.SFTPAttrs(permissions=how.permissions)
        asked = UInt32(pflags) + attrs.encode(SFTP_VERSION)
        return await OpenRequest(self._handler, FXP_OPEN, String(path), asked).held()


def _may_mean(exc: RemoteError, codes: frozenset[int]) -> bool:
    """Whether the server may have refused a flag, or attributes, with ``exc``."""
    return exc.code in codes and not isinstance(exc, ServerFaultError)


async def _attrs_of_opened(
    file: SftpFile, mode: OpenMode, seen: asyncssh.SFTPAttrs | None
) -> Attrs:
    """Return the attributes of ``file``, of which ``seen`` was read by its path.

    ``seen`` is not used if the path is a link, or if a new or truncated file has a
    size: then it is out of date.
    """
    if seen is not None:
        attrs = attrs_of(seen)
        is_empty = bool(mode & (OpenMode.EXCLUSIVE | OpenMode.TRUNCATE))
        is_whole = is_complete(seen) and not stat.S_ISLNK(attrs.mode)
        if is_whole and not (is_empty and attrs.size):
            return file.saw(attrs)
    return await file.stat()


@contextlib.asynccontextmanager
async def _closed_on_failure(opened: tuple[SftpFile, object]) -> AsyncIterator[None]:
    """Close what was opened if the body fails or is cancelled."""
    try:
        yield
    except BaseException:
        await close_quietly(opened)
        raise


async def close_quietly(opened: tuple[SftpFile, object]) -> None:
    """Close what was opened and will not be used; ignore how that ends."""
    with (
        trio.CancelScope(shield=True),
        trio.move_on_after(10),
        contextlib.suppress(PamfsError),
    ):
        await opened[0].close()
