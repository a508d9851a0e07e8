"""SFTP requests that are sent at once and awaited later, without a task for each.

asyncssh's own coroutines send when they are first run. Here a
request is in flight as soon as its ``SentRequest`` or ``StartedCall`` exists, in the
order of making; the reply may be awaited later, or never.

Law: a reply that is no longer wanted is given up (``give_up``): a future whose error is
never read makes asyncio log it. For the asyncio side alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Coroutine, Generator, Sequence
from typing import Final, Generic, TypeVar, cast

from asyncssh import constants
from asyncssh.packet import SSHPacket, String
from asyncssh.sftp import SFTPBadMessage, SFTPClientHandler

from pamfs.model import Data

V = TypeVar("V")

# What a request is answered with if not with a status: draft-ietf-secsh-filexfer-02
# section 6. A request that is not here has no other answer than a status.
_ANSWERS: Final[dict[int, int]] = {
    constants.FXP_OPEN: constants.FXP_HANDLE,
    constants.FXP_OPENDIR: constants.FXP_HANDLE,
    constants.FXP_READ: constants.FXP_DATA,
    constants.FXP_READDIR: constants.FXP_NAME,
    constants.FXP_READLINK: constants.FXP_NAME,
    constants.FXP_REALPATH: constants.FXP_NAME,
    constants.FXP_STAT: constants.FXP_ATTRS,
    constants.FXP_LSTAT: constants.FXP_ATTRS,
    constants.FXP_FSTAT: constants.FXP_ATTRS,
}
_DRAFT_02: Final = 3


class SentRequest:
    """One request on its way."""

    def __init__(self, handler: SFTPClientHandler, kind: int, *args: Data) -> None:
        self._handler = handler
        self._kind = kind
        loop = asyncio.get_running_loop()
        self.reply: asyncio.Future[tuple[int, SSHPacket]] = loop.create_future()
        # asyncssh says bytes, and joins whatever can be joined.
        handler._send_request(kind, cast("tuple[bytes]", args), self.reply)

    async def answer(self) -> object:
        """Return what the server answers, or raise the status that it answers."""
        return self.decoded(*await self.reply)

    def decoded(self, kind: int, packet: SSHPacket) -> object:
        """Return what ``reply`` means, or raise the status that it is."""
        wanted = _ANSWERS.get(self._kind)
        if kind not in {wanted, constants.FXP_STATUS}:
            raise SFTPBadMessage(f"unexpected response type: {kind}")
        decode = self._handler._packet_handlers[kind]
        found: object = decode(self._handler, packet)
        if found is None and wanted is not None:
            raise SFTPBadMessage("an OK without what was asked for")
        return found

    def give_up(self) -> None:
        """Wait for the reply no longer, and ignore its failure."""
        if not self.reply.cancel() and not self.reply.cancelled():
            self.reply.exception()


class StartedCall(Generic[V]):
    """A coroutine of asyncssh's that has run up to its first wait; to be awaited once.

    A task would begin only with the next turn of the loop, and costs as much as
    the request itself.
    """

    def __init__(self, coroutine: Coroutine[asyncio.Future[object], None, V]) -> None:
        self._coroutine = coroutine
        self._waits_for: asyncio.Future[object] | None = None
        self._failure: Exception | None = None
        self._found: list[V] = []
        try:
            self._waits_for = coroutine.send(None)
        except StopIteration as end:
            self._found.append(end.value)
        except Exception as exc:  # noqa: BLE001 - raised by ``__await__``
            self._failure = exc

    def __await__(self) -> Generator[object, object, V]:
        """Run it to its end; return its result or raise its exception."""
        if self._failure is not None:
            raise self._failure
        while self._waits_for is not None:
            try:
                yield self._waits_for
            except BaseException as exc:  # noqa: BLE001 - passed to the coroutine
                step = functools.partial(self._coroutine.throw, exc)
            else:
                step = functools.partial(self._coroutine.send, None)
            try:
                self._waits_for = step()
            except StopIteration as end:
                return cast("V", end.value)
        return self._found[0]

    def give_up(self) -> None:
        """Wait for it no longer, and ignore its failure."""
        waits_for, self._waits_for = self._waits_for, None
        if waits_for is not None and not waits_for.cancel():
            with contextlib.suppress(asyncio.CancelledError):
                waits_for.exception()
        self._coroutine.close()


def give_up(sent: Sequence[SentRequest]) -> None:
    """Wait no longer for any of ``sent``."""
    for request in sent:
        request.give_up()


async def symlink(
    handler: SFTPClientHandler, content: bytes, path: bytes, *, is_name_last: bool
) -> None:
    """Make a symbolic link.

    ``is_name_last``: the server expects the name as the second path.
    """
    if handler.version != _DRAFT_02:
        await handler.symlink(content, path)
        return
    first, last = (content, path) if is_name_last else (path, content)
    await SentRequest(
        handler, constants.FXP_SYMLINK, String(first) + String(last)
    ).answer()
