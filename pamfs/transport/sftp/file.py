"""One open SFTP handle behind ``RemoteFile``.

Laws:

* Fewer bytes than asked mean the end of the file: a short reply is followed by another
  read, and an empty one by a look at the size. A file is never cut off silently.
* Writes leave in the order of the calls; everything that is not a write is sent after
  all writes before it (``striping``).
* Each reply through a handle that the server gave twice is refused with ESTALE.
"""

from __future__ import annotations

import errno
import functools
import logging
from typing import Final, TypeVar, cast

import asyncssh
import trio
from asyncssh.constants import FXP_READ
from asyncssh.packet import String, UInt32, UInt64

from pamfs.errors import PamfsError, RemoteError
from pamfs.model import AttrChange, Attrs, Data, RemotePath, Space
from pamfs.transport import diagnosis
from pamfs.transport.base import RemoteTree
from pamfs.transport.bridge import Make
from pamfs.transport.sftp.attributes import needs_known, sftp_attrs, shows, space_of
from pamfs.transport.sftp.handle_attrs import HandleAttrs, OpenName
from pamfs.transport.sftp.handles import HeldHandle
from pamfs.transport.sftp.packets import SentRequest, give_up
from pamfs.transport.sftp.requests import Requests
from pamfs.transport.sftp.server_trials import ResizeTrial
from pamfs.transport.sftp.striping import (
    FurtherChannels,
    Stripe,
    StripedWrite,
    Stripes,
    add_stripes,
)

log = logging.getLogger(__name__)

V = TypeVar("V")

# If this much is in flight, the window of the channel (2 MiB with OpenSSH) limits the
# rate.
NARROW_BYTES: Final = 1536 << 10
FAR_S: Final = 0.005
# Opening further handles stops the writes for two round trips, in which one channel
# would carry 4 MiB. So a write is spread only after this many bytes.
LONG_BYTES: Final = 8 << 20


class SftpFile:
    """An open handle; its requests may be in flight side by side."""

    def __init__(
        self,
        tree: RemoteTree,
        requests: Requests,
        name: OpenName,
        held: HeldHandle,
    ) -> None:
        self._tree = tree
        self._requests = requests
        self._handler = requests.handler
        self._name = name
        self._held = held
        self._handle = held.handle
        self._attrs = HandleAttrs(requests, name, held.handle, self._ask_behind)
        name.look = self._attrs.look
        # The last known size; -1: unknown. A read that ends there is at the end of the
        # file; a shorter one may be a short reply of the server.
        self._size = -1
        self._stripes = Stripes(Stripe(held))
        self._nursery: trio.Nursery | None = None
        self._channels: FurtherChannels | None = None
        self._widened: trio.Event | None = None
        self._writing_bytes = 0
        self._written_bytes = 0
        self._is_closing = False
        self.resizing: ResizeTrial | None = None

    async def read_at(self, offset: int, size: int) -> Data:
        """Return up to ``size`` bytes; fewer only at the end of the file."""
        self._held.check()
        part: Data = b""
        if size <= self._tree.capabilities.max_read_bytes and self._stripes.is_ordered:
            found = await self._read_one(offset, size)
            if found is None:
                return b""
            part, is_end = found
            if is_end or len(part) == size or offset + len(part) == self._size:
                return part
        start = offset + len(part)
        make = self._stripes.behind(lambda: self._read(start, offset + size - start))
        rest, is_end = await self._requests.ask("read", make)
        self._held.check()
        if not is_end:
            await self._check_end(start + len(rest))
        return b"".join((part, rest)) if len(part) else rest

    async def _check_end(self, offset: int) -> None:
        """Raise EIO if the file goes on at ``offset``, where a read brought nothing.

        The end of a file has a status of its own. Some servers send no data instead;
        where there is more to come, that would cut the file off.
        """
        if (await self.stat()).size > offset:
            raise RemoteError(errno.EIO, "read", f"no data, and no end, at {offset}")

    async def _read_one(self, offset: int, size: int) -> tuple[Data, bool] | None:
        """Return what one request brings; None at the end of the file."""
        where = UInt64(offset) + UInt32(size)
        found = await self._requests.reply_or_eof("read", lambda: self._read_at(where))
        self._held.check()
        return None if found is None else _checked(found, size)

    async def _read(self, offset: int, size: int) -> tuple[Data, bool]:
        """Return the data, and whether the end of the file was reached."""
        parts: list[Data] = []
        end = offset + size
        at, before, is_end = offset, -1, False
        while not is_end and at != before:
            before = at
            found, is_end = await self._read_parts(at, end)
            parts += found
            at += sum(map(len, found))
            is_end = is_end or at in {end, self._size}
        return parts[0] if len(parts) == 1 else b"".join(parts), is_end

    async def _read_parts(self, start: int, end: int) -> tuple[list[Data], bool]:
        """Return the data up to the first short reply, and whether the file ends there.

        A later part may hold data if the file grew meanwhile; it must not be moved up
        to an earlier end of file, nor a hole be filled with zeros.
        """
        step = self._tree.capabilities.max_read_bytes
        starts = range(start, max(end, start + 1), step)
        sizes = [min(step, end - at) for at in starts]
        where = (UInt64(at) + UInt32(n) for at, n in zip(starts, sizes, strict=True))
        sent = [self._read_at(at) for at in where]
        parts: list[Data] = []
        try:
            for request, size in zip(sent, sizes, strict=True):
                part, is_end = _checked(await request.answer(), size)
                parts.append(part)
                if len(part) < size:
                    return parts, is_end
        except asyncssh.SFTPEOFError:
            return parts, True
        finally:
            give_up(sent)
        return parts, False

    def _read_at(self, where: bytes) -> SentRequest:
        return SentRequest(self._handler, FXP_READ, String(self._handle) + where)

    async def write_at(self, offset: int, data: Data) -> None:
        """Store all of ``data``; a file opened with APPEND stores it at its end.

        The request is sent before the first await, so writes are sent in the order of
        the calls.
        """
        self._held.check()
        self._writing_bytes += len(data)
        self._written_bytes += len(data)
        self._stripe_if_narrow()
        try:
            await self._write(offset, memoryview(data))
            self._held.check()
        except RemoteError as exc:
            code = await self._explain_storing(exc.code)
            raise RemoteError(code, "write") from exc
        finally:
            self._writing_bytes -= len(data)

    async def _write(self, offset: int, data: memoryview) -> None:
        step = self._tree.capabilities.max_write_bytes
        if len(data) <= step:
            await self._requests.expect_ok(
                "write", lambda: self._stripes.write(offset, data)
            )
            return
        starts = range(0, len(data), step)

        def send() -> list[SentRequest | StripedWrite]:
            return [
                self._stripes.write(offset + at, data[at : at + step]) for at in starts
            ]

        await self._requests.expect_all_ok("write", send)

    def allow_striping(self, nursery: trio.Nursery, channels: FurtherChannels) -> None:
        """Let writes be spread over ``channels`` once the first is too narrow."""
        self._nursery, self._channels = nursery, channels

    def _stripe_if_narrow(self) -> None:
        channels = self._channels
        if channels is None or self._nursery is None or self._widened is not None:
            return
        is_far = self._tree.round_trip_s >= FAR_S
        is_long = self._written_bytes > LONG_BYTES
        is_full = self._writing_bytes >= NARROW_BYTES
        if is_far and is_long and is_full and channels.may_grow:
            self._widened = trio.Event()
            self._nursery.start_soon(self._stripe, channels, self._widened)

    async def _stripe(self, channels: FurtherChannels, widened: trio.Event) -> None:
        try:
            handlers = [channel.handler for channel in await channels.all()]
            path = self._name.path
            if handlers and path is not None and not self._is_closing:
                find = functools.partial(add_stripes, self._stripes, path, handlers)
                await self._requests.ask("widen", find)
        except PamfsError as exc:
            log.debug("a file keeps its one channel: %s", exc)
        finally:
            widened.set()

    async def _ask_behind(self, operation: str, make: Make[V]) -> V:
        """As ``ask``, after all writes so far, on whichever channel."""
        self._held.check()
        found = await self._requests.ask(operation, self._stripes.behind(make))
        self._held.check()
        return found

    async def fsync(self) -> None:
        """Have the server make the file durable, as far as it can.

        Without ``fsync@openssh.com`` the acknowledgement of every write is all
        that the protocol offers, and that has come (docs/posix.md).
        """
        learned = self._requests.learned
        if not self._tree.capabilities.fsync or not learned.may_ask("fsync"):
            return
        try:
            await self._explained("fsync", lambda: self._handler.fsync(self._handle))
        except RemoteError as exc:
            if exc.code != errno.EOPNOTSUPP or learned.has_worked("fsync"):
                raise
            learned.note_missing("fsync")  # announced, and not there
        else:
            learned.note_works("fsync")

    async def stat(self) -> Attrs:
        """Return the attributes of the open file, even if it has no name left."""
        return self.saw(await self._attrs.look())

    def saw(self, attrs: Attrs) -> Attrs:
        """Take note of ``attrs`` as those of this file, and return them."""
        self._size = attrs.size
        return attrs

    async def set_attrs(self, change: AttrChange) -> Attrs:
        """Change attributes of the open file; return them as they are then."""
        if change.size is not None and self.resizing is not None:
            path = self._name.path or RemotePath(b"./file")
            change = await self.resizing.allowed(path, change, await self.stat())
        known = await self.stat() if needs_known(change) else None
        seen = known
        for attrs in sftp_attrs(change, known):
            seen = await self._set(attrs)
        if seen is None or not shows(seen, change):
            seen = await self.stat()

        async def set_size() -> Attrs:
            return await self._set(size) or await self.stat()

        size = asyncssh.SFTPAttrs(size=change.size)
        return await self._requests.changed("fsetstat", change, seen, set_size)

    async def try_size(self, size: int) -> None:
        """Ask for another size, whatever becomes of the file."""
        await self._attrs.change(asyncssh.SFTPAttrs(size=size))

    async def fsetstat(self, attrs: asyncssh.SFTPAttrs) -> None:
        """Set ``attrs`` through the handle and in no other way."""
        await self._attrs.fsetstat(attrs)

    async def _set(self, attrs: asyncssh.SFTPAttrs) -> Attrs | None:
        try:
            seen = await self._attrs.change(attrs)
        except RemoteError as exc:
            code = await self._explain_storing(exc.code)
            if attrs.size is None and code in {errno.EIO, errno.EACCES}:
                code = errno.EPERM  # as chmod(2) says
            raise RemoteError(code, exc.operation) from exc
        return None if seen is None else self.saw(seen)

    async def _explained(self, operation: str, make: Make[V]) -> V:
        try:
            return await self._ask_behind(operation, make)
        except RemoteError as exc:
            code = await self._explain_storing(exc.code)
            raise RemoteError(code, operation) from exc

    async def _explain_storing(self, code: int) -> int:
        # Asked of the open file: its path may be another one by now.
        async def space(_: RemotePath) -> Space:
            found = await self._requests.ask(
                "fstatvfs", lambda: self._handler.fstatvfs(self._handle)
            )
            return space_of(found)

        # The path is not looked at.
        return await diagnosis.explain_storing(space, RemotePath(b""), code)

    async def close(self) -> None:
        """Give the handle back; raise what the server says about it."""
        self._is_closing = True
        try:
            await self._close()
        finally:
            self._name.is_hidden = False
            self._name.closed.set()

    async def _close(self) -> None:
        if not self._requests.is_open:
            return  # the handle went with the session
        if self._stripes.is_ordered:
            await self._requests.reply_or_eof("close", self._held.close)
        else:
            close = self._stripes.behind(self._stripes.close)
            await self._requests.ask("close", close)


class AppendingFile(SftpFile):
    """A file opened with O_APPEND: each write goes to the current end of the file.

    The kernel's offset is a guess from the time of open. A server that implements the
    flag ignores the offset; some accept the flag and use the offset, so the size is
    requested first. On those, an append of another client between the two requests can
    be overwritten (docs/posix.md); one handle's own appends keep their order.
    """

    def __init__(
        self,
        tree: RemoteTree,
        requests: Requests,
        name: OpenName,
        held: HeldHandle,
    ) -> None:
        super().__init__(tree, requests, name, held)
        self._order = trio.Lock()

    async def write_at(self, offset: int, data: Data) -> None:
        """Store all of ``data`` at the end of the file, whatever ``offset`` says."""
        del offset
        async with self._order:
            await super().write_at((await self.stat()).size, data)


def _checked(found: object, size: int) -> tuple[Data, bool]:
    """Return the data of an answer and whether the file ends there (version 6)."""
    part, is_end = cast("tuple[Data, bool]", found)
    if len(part) > size:
        raise RemoteError(errno.EIO, "read", f"{len(part)} bytes where {size} were due")
    return part, is_end
