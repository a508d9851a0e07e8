"""A small file that was read whole before it was opened, as an open file.

Law: its content is told for as long as it counts, and after that only if the file
is gone from its name. Whatever else is asked of it goes to the device, through a
handle that is opened then, and only if that leads to the same file.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from pamfs.errors import RemoteError
from pamfs.model import AttrChange, Attrs, Data
from pamfs.transport.base import RemoteFile
from pamfs.vfs.opening import closed_on_error

Open = Callable[[], Awaitable[tuple[RemoteFile, Attrs]]]


@dataclass(frozen=True, slots=True)
class Content:
    """What a file held, and what the device said of it before and after."""

    data: memoryview
    attrs: Attrs
    until: float


class Prefetched:
    """An open file that needs no handle on the device unless it is used for long."""

    def __init__(
        self, content: Content, open_it: Open, let_go: Callable[[], object]
    ) -> None:
        """``open_it`` opens the file on the device, by its name.

        ``let_go`` is called once, when the content is held no longer.
        """
        self.attrs = content.attrs
        self._content: Content | None = content
        self._open_it = open_it
        self._let_go = let_go
        self._real: RemoteFile | None = None
        self._opening = trio.Lock()

    async def read_at(self, offset: int, size: int) -> Data:
        """Return up to ``size`` bytes; fewer only at the end of the file."""
        found = await self._wanted()
        if isinstance(found, Content):
            await trio.lowlevel.checkpoint()
            return found.data[offset : offset + size]
        return await found.read_at(offset, size)

    async def stat(self) -> Attrs:
        """Return the attributes, those of the content while it counts."""
        found = await self._wanted()
        return found.attrs if isinstance(found, Content) else await found.stat()

    async def write_at(self, offset: int, data: Data) -> None:
        """Refuse: it was opened to read."""
        raise RemoteError(errno.EBADF, "write", f"{len(data)} bytes at {offset}")

    async def fsync(self) -> None:
        """Do nothing: nothing was written."""

    async def set_attrs(self, change: AttrChange) -> Attrs:
        """Change attributes through a handle of the device's."""
        real = await self._opened()
        if real is None:
            raise RemoteError(errno.ESTALE, "setattr", "it is gone from its name")
        return await real.set_attrs(change)

    async def close(self) -> None:
        """Give the handle back, if there is one."""
        self.drop()
        if self._real is not None:
            await self._real.close()

    def drop(self) -> None:
        """Let go of the content: from now on only the device is asked."""
        if self._content is not None:
            self._content = None
            self._let_go()

    async def _wanted(self) -> RemoteFile | Content:
        """Return the device's handle once the content no longer counts."""
        content = self._content
        if content is not None and trio.current_time() < content.until:
            return content
        found = await self._opened() or content
        if found is None:
            raise RemoteError(errno.ESTALE, "open", "it is gone from its name")
        return found

    async def _opened(self) -> RemoteFile | None:
        async with self._opening:
            if self._real is None:
                try:
                    real, attrs = await self._open_it()
                except RemoteError as exc:
                    if exc.code in {errno.ENOENT, errno.ESTALE}:
                        return None
                    raise
                async with closed_on_error(real):
                    await self._check_same(real, attrs)
                self._real = real
                self.drop()
        return self._real

    async def _check_same(self, real: RemoteFile, attrs: Attrs) -> None:
        """Raise ESTALE unless ``real`` holds what was read, or has grown since."""
        known, content = self.attrs, self._content
        if (attrs.size, attrs.mtime_ns) == (known.size, known.mtime_ns):
            return
        data = (
            content.data if content is not None and attrs.size >= known.size else None
        )
        if data is None or await real.read_at(0, len(data)) != data:
            raise RemoteError(errno.ESTALE, "open", "it was replaced meanwhile")
