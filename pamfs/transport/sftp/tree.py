"""asyncssh's SFTP client behind ``RemoteTree``.

Law: whatever opens something on the server runs to its end (``obtain``) and is
closed there if the caller has gone; everything else may be cancelled. Attributes
after a change are asked for right behind it; if the answer does not show the change
(the server reordered the requests), they are requested again.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace as replaced
from typing import Final, TypeVar

import asyncssh
import trio
from asyncssh.constants import FILEXFER_ATTR_DEFINED_V4

from pamfs.config import Quirk
from pamfs.errors import RemoteError
from pamfs.model import AttrChange, Attrs, Entry, RemotePath, Space
from pamfs.transport import diagnosis
from pamfs.transport.base import Capabilities, OpenMode
from pamfs.transport.bridge import Bridge, Make
from pamfs.transport.rename_over import rename_over
from pamfs.transport.sftp.attributes import (
    attrs_of,
    is_complete,
    needs_known,
    sftp_attrs,
    shows,
    space_of,
    type_of,
)
from pamfs.transport.sftp.file import SftpFile
from pamfs.transport.sftp.handle_attrs import SETSTAT, OpenNames, shows_closed
from pamfs.transport.sftp.listing import is_directory, read_directory
from pamfs.transport.sftp.opening import Opener, close_quietly
from pamfs.transport.sftp.requests import Explain, Requests, together
from pamfs.transport.sftp.server import announces, keeps_shared_writes
from pamfs.transport.sftp.server_trials import (
    ResizeTrial,
    SymlinkRequests,
    no_link_made,
)
from pamfs.transport.sftp.striping import ChannelOpener, FurtherChannels
from pamfs.transport.ssh.asyncssh_compat import handler_of, supports

log = logging.getLogger(__name__)

V = TypeVar("V")

_POSIX_RENAME: Final = "posix-rename"
_ATTRIBUTES: Final = "attributes of a mkdir"
_REFUSED_ATTRIBUTES: Final = frozenset({errno.EIO, errno.EOPNOTSUPP, errno.EINVAL})
_REFUSED_LSETSTAT: Final = frozenset({errno.EIO, errno.EOPNOTSUPP})


class SftpTree:
    """The files of one target over one SFTP channel."""

    def __init__(
        self,
        bridge: Bridge,
        client: asyncssh.SFTPClient,
        nursery: trio.Nursery,
        further: ChannelOpener | None = None,
        quirks: frozenset[Quirk] = frozenset(),
    ) -> None:
        """``further`` says how writes may be spread over more channels."""
        self._is_known = keeps_shared_writes(client, quirks)
        self._requests = Requests(bridge, client)
        self._channels = FurtherChannels(bridge, self._requests, further)
        self._client = client
        self._handler = self._requests.handler
        self._nursery = nursery
        self._learned = self._requests.learned
        self._names = OpenNames()
        self._capabilities = _capabilities_of(client)
        is_openssh = keeps_shared_writes(client, frozenset())
        self._links = SymlinkRequests(self, self._requests, is_known=is_openssh)
        self._opener = Opener(
            self,
            self._requests,
            self._names,
            nursery,
            is_known=self._is_known,
        )
        if not self._is_known:
            self._opener.resizing = ResizeTrial(
                self, self._opener.open_plainly, self._setstat, self._requests
            )

    def call_device(self, name: str) -> None:
        """Have messages about this device call it ``name``."""
        self._requests.device = name

    @property
    def capabilities(self) -> Capabilities:
        """Return what the server can do."""
        limit = self._requests.handles.limit
        if limit and limit != self._capabilities.max_open_handles:
            self._note_limit(limit)
        return self._capabilities

    def _note_limit(self, limit: int) -> None:
        known = self._capabilities
        self._capabilities = replaced(known, max_open_handles=limit)
        log.warning(
            "%s: the server gives no more than %d handles that are distinct: no more "
            "are opened at once, and nothing is read ahead",
            self._requests.device,
            limit,
        )

    @property
    def round_trip_s(self) -> float:
        """Return how long the device takes to answer; 0.0 if it was not asked yet."""
        return self._requests.round_trip.seconds

    async def real_path(self, path: RemotePath) -> RemotePath:
        """Return ``path`` made absolute; ``.`` is the login's home."""
        real = await self._name("realpath", lambda: self._client.realpath(bytes(path)))
        return RemotePath(real)

    async def lstat(self, path: RemotePath) -> Attrs:
        """Return the attributes of ``path`` itself, links not followed."""
        try:
            found = await self._requests.ask("lstat", self._looking(path))
        except RemoteError as exc:
            hidden = self._names.hidden_at(path)
            if exc.code != errno.ENOENT or hidden is None or hidden.look is None:
                raise
            return await hidden.look()
        return (
            attrs_of(found)
            if is_complete(found)
            else await self._found_out(path, found)
        )

    async def _once_shown(self, path: RemotePath, ask: Callable[[], Awaitable[V]]) -> V:
        """Return ``ask()``.

        On ENOENT retry once, if the file was hidden until its close.

        It may be closed while the refusal is on its way, so it is looked up before.
        """
        hidden = self._names.hidden_at(path)
        try:
            return await ask()
        except RemoteError as exc:
            hidden = hidden or self._names.hidden_at(path)
            if exc.code != errno.ENOENT or not hidden or not await shows_closed(hidden):
                raise
        return await ask()

    async def _found_out(self, path: RemotePath, found: asyncssh.SFTPAttrs) -> Attrs:
        """Return the attributes if the server sent no type, mode or size in LSTAT.

        What can be opened as a directory is one. A file whose size is not known
        cannot be shown: the kernel reads no further than the size.
        """
        kind = type_of(found)
        if not kind:
            is_dir = await self._requests.ask(
                "opendir", lambda: is_directory(self._handler, path)
            )
            kind = stat.S_IFDIR if is_dir else stat.S_IFREG
        if kind == stat.S_IFREG and found.size is None:
            raise RemoteError(errno.EIO, "lstat", "the server tells no size")
        return attrs_of(found, kind)

    def _looking(self, path: RemotePath) -> Make[asyncssh.SFTPAttrs]:
        return lambda: self._handler.lstat(path, FILEXFER_ATTR_DEFINED_V4)

    async def _changed(
        self, operation: str, path: RemotePath, change: Make[None], explain: Explain
    ) -> Attrs:
        """Return the attributes of ``path`` after ``change``, in one round trip."""
        both = together(change, self._looking(path))
        _, seen = await self._requests.explained(operation, both, explain)
        if seen is None or not is_complete(seen):
            return await self.lstat(path)
        return attrs_of(seen)

    async def list_dir(self, path: RemotePath) -> Sequence[Entry]:
        """Return every entry but ``.`` and ``..``, or raise; never a part."""

        async def explain(code: int) -> int:
            if code not in {errno.ENOENT, errno.EIO}:
                return code
            is_dir = stat.S_ISDIR((await self.lstat(path)).mode)
            return code if is_dir else errno.ENOTDIR

        found = await self._requests.explained(
            "readdir", lambda: read_directory(self._handler, path), explain
        )
        if found.left_out and self._learned.first_time(f"left out of {path!r}"):
            log.warning(
                "%s: %d of %d entries of a listing are not shown: Linux allows no such "
                "names, or the server does not tell what they are",
                self._requests.device,
                found.left_out,
                found.left_out + len(found.entries),
            )
        return found.entries

    async def open(
        self, path: RemotePath, mode: OpenMode, permissions: int | None = None
    ) -> tuple[SftpFile, Attrs]:
        """Open a file. ``permissions`` count only when the call creates it."""
        file, attrs = await self._once_shown(
            path, lambda: self._opener.open(path, mode, permissions)
        )
        is_written = type(file) is SftpFile and OpenMode.WRITE in mode
        if is_written and self._is_known:
            file.allow_striping(self._nursery, self._channels)
        return file, attrs

    async def mkdir(self, path: RemotePath, permissions: int) -> Attrs:
        """Make a directory and return what it became."""
        if self._learned.may_ask(_ATTRIBUTES):
            try:
                attrs = await self._mkdir(path, permissions)
            except RemoteError as exc:
                has_worked = self._learned.has_worked(_ATTRIBUTES)
                if has_worked or exc.code not in _REFUSED_ATTRIBUTES:
                    raise
            else:
                self._learned.note_works(_ATTRIBUTES)
                return attrs
        attrs = await self._mkdir(path, None)
        self._learned.note_missing(_ATTRIBUTES)
        # If the mode cannot be set, the returned attributes show that; the folder
        # exists.
        with contextlib.suppress(RemoteError):
            attrs = await self.set_attrs(path, AttrChange(mode=permissions))
        return attrs

    async def _mkdir(self, path: RemotePath, permissions: int | None) -> Attrs:
        asked = asyncssh.SFTPAttrs(permissions=permissions)
        return await self._changed(
            "mkdir",
            path,
            lambda: self._handler.mkdir(path, asked),
            lambda code: diagnosis.explain_making(self, path, code),
        )

    async def rmdir(self, path: RemotePath) -> None:
        """Remove an empty directory; ENOTEMPTY otherwise, always."""
        await self._requests.explained(
            "rmdir",
            lambda: self._client.rmdir(path),
            lambda code: diagnosis.explain_rmdir(self, path, code),
        )

    async def unlink(self, path: RemotePath) -> None:
        """Remove a name that is not a directory."""
        remove = functools.partial(
            self._requests.explained,
            "remove",
            lambda: self._client.remove(path),
            lambda code: diagnosis.explain_unlink(self, path, code),
        )
        await self._once_shown(path, remove)
        self._names.removed(path)

    async def rename(self, old: RemotePath, new: RemotePath, *, replace: bool) -> None:
        """Rename; with ``replace`` as rename(2), else EEXIST if ``new`` exists."""
        try:
            move = functools.partial(self._rename, old, new, replace=replace)
            await self._once_shown(old, move)
        except RemoteError:
            raise
        except BaseException:
            # Whether it happened is not known.
            self._names.removed(old)
            self._names.removed(new)
            raise
        self._names.renamed(old, new)

    async def _rename(self, old: RemotePath, new: RemotePath, *, replace: bool) -> None:
        if not replace:
            await self._check_absent(new)
            await self._rename_to_new(old, new)
        elif not self._capabilities.posix_rename or not self._learned.may_ask(
            _POSIX_RENAME
        ):
            await rename_over(self, self._rename_to_new, old, new)
        else:
            await self._posix_rename(old, new)

    async def _check_absent(self, new: RemotePath) -> None:
        """Raise EEXIST if ``new`` is there: RENAME replaces it on some servers."""
        if not self._is_known:
            try:
                await self.lstat(new)
            except RemoteError as exc:
                if exc.code != errno.ENOENT:
                    raise
                return
            raise RemoteError(errno.EEXIST, "rename")

    async def _posix_rename(self, old: RemotePath, new: RemotePath) -> None:
        """Rename by posix-rename, or by ``rename_over`` if that is refused."""
        try:
            await self._requests.ask(
                _POSIX_RENAME, lambda: self._client.posix_rename(old, new)
            )
        except RemoteError as exc:
            code = await diagnosis.explain_rename(self, old, new, exc.code)
            if code != exc.code or not self._learned.may_be_missing(
                _POSIX_RENAME, code
            ):
                raise RemoteError(code, _POSIX_RENAME) from exc
            await rename_over(self, self._rename_to_new, old, new)
            self._learned.note_missing(_POSIX_RENAME)
        else:
            self._learned.note_works(_POSIX_RENAME)

    async def _rename_to_new(self, old: RemotePath, new: RemotePath) -> None:
        async def explain(code: int) -> int:
            if code in diagnosis.EXACT:
                return code
            try:
                await self.lstat(new)
            except RemoteError:
                return await diagnosis.explain_rename(self, old, new, code)
            return errno.EEXIST

        await self._requests.explained(
            "rename", lambda: self._client.rename(old, new), explain
        )

    async def symlink(self, content: bytes, path: RemotePath) -> Attrs:
        """Make a symbolic link at ``path`` to ``content``."""

        async def explain(code: int) -> int:
            return await diagnosis.explain_making(self, path, code)

        try:
            await self._links.find_order(path)
        except RemoteError as exc:
            raise RemoteError(await explain(exc.code), "symlink") from exc
        attrs = await self._made_link(content, path, explain)
        if not await self._links.is_right(content, path):
            await self.unlink(path)  # it was made just now
            attrs = await self._made_link(content, path, explain)
        return attrs

    async def _made_link(
        self, content: bytes, path: RemotePath, explain: Explain
    ) -> Attrs:
        to_send = self._links.to_send(content, path)
        make = together(lambda: self._links.make(to_send, path), self._looking(path))
        _, seen = await self._requests.explained("symlink", make, explain)
        if seen is not None and stat.S_ISLNK(type_of(seen)):
            return attrs_of(seen)
        return await self._attrs_of_link(path)

    async def _attrs_of_link(self, path: RemotePath) -> Attrs:
        """Return the attributes of a link that LSTAT does not show as one.

        ProFTPD's LSTAT follows the link.
        """
        try:
            attrs = await self.lstat(path)
            content = await self.readlink(path)
        except RemoteError as exc:
            if exc.code == errno.ENOENT:
                raise no_link_made() from exc
            raise
        if stat.S_ISLNK(attrs.mode):
            return attrs
        return replaced(attrs, mode=stat.S_IFLNK | 0o777, size=len(content))

    async def readlink(self, path: RemotePath) -> bytes:
        """Return the target of a symbolic link, unchanged."""
        return await self._name("readlink", lambda: self._client.readlink(bytes(path)))

    async def _name(self, operation: str, make: Make[bytes]) -> bytes:
        """Return the one name that the server answered."""

        async def first() -> bytes:
            try:
                return await make()
            except IndexError:  # asyncssh takes the first of none
                raise asyncssh.SFTPBadMessage("no name in the answer") from None

        return await self._requests.ask(operation, first)

    async def link(self, old: RemotePath, new: RemotePath) -> Attrs:
        """Make a hard link; EOPNOTSUPP where the server has none."""
        if not self._capabilities.hardlink:
            raise RemoteError(errno.EOPNOTSUPP, "link")
        return await self._changed(
            "link",
            new,
            lambda: self._handler.link(old, new),
            lambda code: diagnosis.explain_link(self, old, new, code),
        )

    async def set_attrs(self, path: RemotePath, change: AttrChange) -> Attrs:
        """Change attributes of ``path`` itself; return them as they are then."""
        return await self._once_shown(path, lambda: self._set_attrs(path, change))

    async def _set_attrs(self, path: RemotePath, change: AttrChange) -> Attrs:
        if change.size is not None and self._opener.resizing is not None:
            now = await self.lstat(path)
            change = await self._opener.resizing.allowed(path, change, now)
        known = await self.lstat(path) if needs_known(change) else None
        seen = known
        for attrs in sftp_attrs(change, known):
            # lsetstat has no size; the kernel never truncates a link.
            set_it = self._set_attrs_of_name if attrs.size is None else self._setstat
            seen = await set_it(path, attrs)
        if seen is None or not shows(seen, change):
            seen = await self.lstat(path)
        size = asyncssh.SFTPAttrs(size=change.size)
        return await self._requests.changed(
            SETSTAT, change, seen, lambda: self._setstat(path, size)
        )

    async def _set_attrs_of_name(
        self, path: RemotePath, attrs: asyncssh.SFTPAttrs
    ) -> Attrs:
        seen = None
        if self._capabilities.lsetstat:
            seen = await self._lsetstat(path, attrs)
        if seen is not None:
            self._check_mode_of_link(attrs, seen)
            return seen
        if stat.S_ISLNK((await self.lstat(path)).mode):
            raise RemoteError(errno.EOPNOTSUPP, "lsetstat")
        return await self._setstat(path, attrs)

    @staticmethod
    def _check_mode_of_link(wanted: asyncssh.SFTPAttrs, seen: Attrs) -> None:
        """Raise EOPNOTSUPP, as Linux does, if a link did not take the mode.

        asyncssh's server of version 2.22 and before says OK to it and does nothing.
        """
        mode = wanted.permissions
        if mode is None or not stat.S_ISLNK(seen.mode):
            return
        if stat.S_IMODE(seen.mode) != stat.S_IMODE(mode):
            raise RemoteError(errno.EOPNOTSUPP, "lsetstat", "the link keeps its mode")

    async def _setstat(self, path: RemotePath, attrs: asyncssh.SFTPAttrs) -> Attrs:
        """Set ``attrs`` by path; through a handle, if there is no SETSTAT."""
        refusal = RemoteError(errno.EOPNOTSUPP, SETSTAT)
        setting = together(
            lambda: self._handler.setstat(path, attrs), self._looking(path)
        )
        if self._learned.may_ask(SETSTAT):
            try:
                _, seen = await self._requests.ask(SETSTAT, setting)
            except RemoteError as exc:
                refusal = exc
            else:
                self._learned.note_works(SETSTAT)
                return attrs_of(seen) if seen is not None else await self.lstat(path)
        await self._set_by_handle(path, attrs, refusal)
        return await self.lstat(path)

    async def _set_by_handle(
        self, path: RemotePath, attrs: asyncssh.SFTPAttrs, refusal: RemoteError
    ) -> None:
        """Set ``attrs`` by FSETSTAT if ``refusal`` may mean that SETSTAT is missing."""
        code = refusal.code
        if self._learned.may_be_missing(SETSTAT, code):
            mode = OpenMode.READ if attrs.size is None else OpenMode.WRITE
            try:
                file, _ = await self.open(path, mode)
                try:
                    await file.fsetstat(attrs)
                finally:
                    await close_quietly((file, None))
            except RemoteError as exc:
                code = exc.code if code == errno.EOPNOTSUPP else code
            else:
                self._learned.note_missing(SETSTAT)
                return
        code = await self._explain_setting(path, attrs, code)
        raise RemoteError(code, SETSTAT) from refusal

    async def _explain_setting(
        self, path: RemotePath, attrs: asyncssh.SFTPAttrs, code: int
    ) -> int:
        if attrs.size is not None:
            how = OpenMode.WRITE | OpenMode.CREATE  # it may take room
            return await diagnosis.explain_opening(self, path, code, how)
        return await diagnosis.explain_setting(self, path, code)

    async def _lsetstat(
        self, path: RemotePath, attrs: asyncssh.SFTPAttrs
    ) -> Attrs | None:
        async def explain(code: int) -> int:
            # Old C libraries cannot change a mode without following links.
            if code in _REFUSED_LSETSTAT:
                return code
            return await diagnosis.explain_setting(self, path, code)

        try:
            return await self._changed(
                "lsetstat",
                path,
                lambda: self._handler.setstat(path, attrs, follow_symlinks=False),
                explain,
            )
        except RemoteError as exc:
            if exc.code not in _REFUSED_LSETSTAT:
                raise
            return None

    async def space(self, path: RemotePath) -> Space:
        """Return the room on the file system of ``path``; may be EOPNOTSUPP."""
        return space_of(
            await self._requests.ask("statvfs", lambda: self._client.statvfs(path))
        )


def _capabilities_of(client: asyncssh.SFTPClient) -> Capabilities:
    handler = handler_of(client)

    def has(extension: str, *, unknown: bool) -> bool:
        announced = announces(client, extension, unknown=unknown)
        return supports(handler, extension, unknown=announced)

    is_v6 = client.version >= 6  # noqa: PLR2004 - a protocol version
    return Capabilities(
        posix_rename=has("posix-rename", unknown=False),
        hardlink=has("hardlink", unknown=True) or is_v6,
        fsync=has("fsync", unknown=True),
        statvfs=has("statvfs", unknown=True),
        lsetstat=has("lsetstat", unknown=True),
        max_read_bytes=client.limits.max_read_len or 32768,
        max_write_bytes=client.limits.max_write_len or 32768,
        max_open_handles=client.limits.max_open_handles,
    )
