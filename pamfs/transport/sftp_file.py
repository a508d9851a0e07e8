"""One open SFTP handle behind ``RemoteFile``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import asyncssh
import trio

from pamfs.model import AttrChange, Attrs, RemotePath, Space
from pamfs.transport import diagnosis
from pamfs.transport.base import RemoteTree
from pamfs.transport.requests import Requests
from pamfs.transport.wire import attrs_of, needs_known, sftp_attrs, space_of


class SftpFile:
    """An open handle; its requests may be in flight side by side."""

    def __init__(
        self,
        tree: RemoteTree,
        requests: Requests,
        path: RemotePath,
        file: asyncssh.SFTPClientFile,
    ) -> None:
        self._tree = tree
        self._requests = requests
        self._path = path
        self._file = file

    async def read_at(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes; fewer only at the end of the file."""
        step = self._tree.capabilities.max_read_bytes

        async def read_part(at: int) -> bytes:
            length = min(step, offset + size - at)
            # Opened without an encoding, so asyncssh's str is bytes.
            return cast("bytes", await self._file.read(length, at))

        async def read_parts() -> bytes:
            if size <= step:
                return await read_part(offset)
            starts = range(offset, offset + size, step)
            return _joined(await asyncio.gather(*map(read_part, starts)), step)

        return await self._requests.ask("read", read_parts)

    async def write_at(self, offset: int, data: bytes) -> None:
        """Store all of ``data``; a file opened with APPEND stores it at its end."""

        async def write() -> None:
            await self._file.write(cast("str", data), offset)

        await self._requests.explained("write", write, self._explain_storing)

    async def fsync(self) -> None:
        """Have the server make the file durable, as far as it can.

        Without ``fsync@openssh.com`` the acknowledgement of every write is all
        that the protocol offers, and that has come (docs/posix.md).
        """
        if self._tree.capabilities.fsync:
            await self._requests.explained(
                "fsync", self._file.fsync, self._explain_storing
            )

    async def stat(self) -> Attrs:
        """Return the attributes of the open file, even if it has no name left."""
        return attrs_of(await self._requests.ask("fstat", self._file.stat))

    async def set_attrs(self, change: AttrChange) -> None:
        """Change attributes of the open file, even if it has no name left."""
        known = await self.stat() if needs_known(change) else None
        for attrs in sftp_attrs(change, known):
            await self._set(attrs)

    async def _set(self, attrs: asyncssh.SFTPAttrs) -> None:
        await self._requests.explained(
            "fsetstat", lambda: self._file.setstat(attrs), self._explain_storing
        )

    async def _explain_storing(self, code: int) -> int:
        # Asked of the open file: its path may be another one by now.
        async def space(_: RemotePath) -> Space:
            found = await self._requests.ask("fstatvfs", self._file.statvfs)
            return space_of(found)

        return await diagnosis.explain_storing(space, self._path, code)

    async def close(self) -> None:
        """Give the handle back; raise what the server says about it."""
        await self._requests.ask("close", self._file.close)


class AppendingFile(SftpFile):
    """O_APPEND: each write goes where the end is now.

    The kernel's offset is a guess from the time of open. A server that knows the
    flag ignores ours; some accept the flag and go by the offset, so that the
    real end must be looked up. There, another client's append between the look
    and the write can be overwritten (docs/posix.md); one handle's own appends
    keep their order.
    """

    def __init__(
        self,
        tree: RemoteTree,
        requests: Requests,
        path: RemotePath,
        file: asyncssh.SFTPClientFile,
    ) -> None:
        super().__init__(tree, requests, path, file)
        self._order = trio.Lock()

    async def write_at(self, offset: int, data: bytes) -> None:
        """Store all of ``data`` at the end of the file, whatever ``offset`` says."""
        del offset
        async with self._order:
            await super().write_at((await self.stat()).size, data)


def _joined(parts: Sequence[bytes], step: int) -> bytes:
    """Join ``parts`` up to the first short one.

    A later part may hold data if the file grew meanwhile; it must not be moved
    up to an earlier end of file, nor a hole be filled with zeros.
    """
    whole: list[bytes] = []
    for part in parts:
        whole.append(part)
        if len(part) < step:
            break
    return b"".join(whole)
