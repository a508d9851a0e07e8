"""Sends a request over the bridge; returns its value or raises ``PamfsError``.

Laws:

* Every failure of asyncssh (``FAILURES``) leaves ``Requests`` as a ``PamfsError``.
* An end of file is a value for ``reply_or_eof`` alone; ``expect_ok`` raises it.
* ENOENT is about a name; of an open handle it is ESTALE.
* If the server confirms a new size but does not show it, the size is set twice more;
  then EIO.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import stat
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

import asyncssh
import trio
from asyncssh.packet import SSHPacket
from asyncssh.sftp import SFTPClientHandler

from pamfs.errors import (
    PamfsError,
    RemoteError,
    ServerFaultError,
    SessionLostError,
)
from pamfs.model import AttrChange, Attrs
from pamfs.transport.bridge import Bridge, Make
from pamfs.transport.sftp.attributes import shows
from pamfs.transport.sftp.handles import DuplicateHandleError, handles_of
from pamfs.transport.sftp.packets import StartedCall
from pamfs.transport.sftp.server import Learned
from pamfs.transport.sftp.status import FAILURES, error_of
from pamfs.transport.ssh.asyncssh_compat import handler_of, is_open

log = logging.getLogger(__name__)

# How often a size is set again that was confirmed and is not shown.
_SIZE_AGAIN: Final = 2

V = TypeVar("V")
W = TypeVar("W")
Explain = Callable[[int], Awaitable[int]]

# What is asked by an open handle; a name that is gone is no reason to refuse it.
_BY_HANDLE: Final = frozenset({
    "close", "fsetstat", "fstat", "fstatvfs", "fsync", "read", "write",
})  # fmt: skip
# Requests with small, quick replies: their duration is the round trip time.
_TIMED: Final = frozenset({"lstat", "fstat", "realpath", "open"})
# A shorter time is taken at once, a longer one is averaged over some 32 requests: a
# request that waits behind bulk data takes longer than a round trip.
_SMOOTHING: Final = 1 / 32


class Answerable(Protocol):
    """A request that was sent, or will be."""

    @property
    def reply(self) -> asyncio.Future[tuple[int, SSHPacket]]:
        """What the server answers."""
        ...

    def decoded(self, kind: int, packet: SSHPacket) -> object:
        """Return what ``reply`` means, or raise the status that it is."""
        ...


class RoundTripEstimate:
    """Estimate of the round trip time in seconds, from recent small requests."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def took(self, s: float) -> None:
        """Take note of one more request."""
        is_shorter = not self.seconds or s < self.seconds
        self.seconds = (
            s if is_shorter else self.seconds + (s - self.seconds) * _SMOOTHING
        )


class Requests:
    """Sends the requests of one SFTP channel, from the trio side."""

    def __init__(self, bridge: Bridge, client: asyncssh.SFTPClient) -> None:
        self._bridge = bridge
        self.handler: SFTPClientHandler = handler_of(client)
        self.round_trip = RoundTripEstimate()
        self.learned = Learned()
        self.handles = handles_of(self.handler)
        self.device = "the server"  # as messages call it

    async def ask(self, operation: str, make: Make[V]) -> V:
        """Return the result of ``make()``; raise ``PamfsError`` if it fails."""
        asked_at = trio.current_time()
        try:
            return await self._bridge.call(make)
        except DuplicateHandleError as exc:
            self._note_duplicate(exc)
            raise
        except FAILURES as exc:
            raise self._error_of(operation, exc) from exc
        finally:
            if operation in _TIMED:
                self.round_trip.took(trio.current_time() - asked_at)

    def _note_duplicate(self, exc: DuplicateHandleError) -> None:
        log.error(
            "%s: the server gave handle %r while another file or folder had it: what "
            "was opened is refused with EIO, and the other one fails with ESTALE",
            self.device,
            exc.handle,
        )

    async def reply_or_eof(
        self, operation: str, send: Callable[[], Answerable]
    ) -> object:
        """As ``ask``, for one request, without a task; None for an end of file."""
        try:
            return await self._answer(send)
        except asyncssh.SFTPEOFError:
            return None
        except FAILURES as exc:
            raise self._error_of(operation, exc) from exc

    async def expect_ok(self, operation: str, send: Callable[[], Answerable]) -> None:
        """Send one request and wait for its OK; an end of file is a failure."""
        try:
            await self._answer(send)
        except FAILURES as exc:
            raise self._error_of(operation, exc) from exc

    async def expect_all_ok(
        self, operation: str, send: Callable[[], Sequence[Answerable]]
    ) -> None:
        """As ``expect_ok``, for several requests that are sent at once."""
        sent: list[Answerable] = []

        def begin() -> asyncio.Future[list[tuple[int, SSHPacket]]]:
            sent.extend(send())
            return asyncio.gather(*(one.reply for one in sent))

        try:
            found = await self._bridge.wait_future(begin)
            for one, answer in zip(sent, found, strict=True):
                one.decoded(*answer)
        except FAILURES as exc:
            raise self._error_of(operation, exc) from exc

    async def _answer(self, send: Callable[[], Answerable]) -> object:
        sent: list[Answerable] = []

        def begin() -> asyncio.Future[tuple[int, SSHPacket]]:
            sent.append(send())
            return sent[0].reply

        kind, packet = await self._bridge.wait_future(begin)
        return sent[0].decoded(kind, packet)

    def _error_of(self, operation: str, exc: Exception) -> PamfsError:
        error = error_of(operation, exc)
        if isinstance(error, RemoteError) and not self.is_open:
            # asyncssh ended the session over a reply that makes no sense, and
            # says so with the class that a server's BAD_MESSAGE has.
            return SessionLostError(f"{operation}: a bad reply")
        if operation in _BY_HANDLE and error.code == errno.ENOENT:
            # Some servers go by the name (Erlang): the file is open, and has none.
            why = "the server does not find the open file any more"
            return RemoteError(errno.ESTALE, operation, why)
        return error

    async def changed(
        self,
        operation: str,
        change: AttrChange,
        seen: Attrs,
        set_size: Callable[[], Awaitable[Attrs]],
    ) -> Attrs:
        """Return the attributes after ``change``; raise EIO if the size was not set.

        A program on the device may have written between the change and the look: a log
        that is cut to nothing has its next line at once. So a size that is not seen is
        set again before the server is taken for one that says OK and does nothing.
        """
        for _ in range(_SIZE_AGAIN):
            if change.size in {None, seen.size} or stat.S_ISDIR(seen.mode):
                break
            seen = await set_size()
        self._check_changed(operation, change, seen)
        return seen

    def _check_changed(self, operation: str, change: AttrChange, seen: Attrs) -> None:
        """Raise EIO if the server said OK to a size that the file does not have.

        Mode, owner and times that it did not set are shown as they are; some cloud
        services take no such change, and the content of the file is right.
        """
        if shows(seen, change):
            return
        is_false = change.size is not None and seen.size != change.size
        if is_false and stat.S_ISDIR(seen.mode):
            raise RemoteError(errno.EISDIR, operation)
        self._note_false_answer(operation, "size" if is_false else "attributes")
        if is_false:
            why = f"said OK, and the size is {seen.size} and not {change.size}"
            raise RemoteError(errno.EIO, operation, why)

    def _note_false_answer(self, operation: str, what: str) -> None:
        if self.learned.first_time(what):
            level = logging.WARNING if what == "size" else logging.INFO
            text = "%s: the server says OK to %s and leaves the %s as before"
            log.log(level, text, self.device, operation.upper(), what)

    @property
    def is_open(self) -> bool:
        """Whether the channel can still be asked."""
        return is_open(self.handler)

    async def explained(self, operation: str, make: Make[V], explain: Explain) -> V:
        """As ``ask``; a refusal has the errno that ``explain`` returns."""
        try:
            return await self.ask(operation, make)
        except ServerFaultError:
            raise
        except RemoteError as exc:
            code = await explain(exc.code)
            raise RemoteError(code, operation) from exc


def together(first: Make[V], second: Make[W]) -> Make[tuple[V, W | None]]:
    """Send ``second`` right behind ``first``: two answers in one round trip.

    A refusal of the first is raised, one of the second is None. The server takes
    requests about one file in their order (draft-ietf-secsh-filexfer-02, 6.1).
    """

    async def both() -> tuple[V, W | None]:
        one, other = StartedCall(first()), StartedCall(second())
        try:
            found = await one
        except BaseException:
            other.give_up()
            raise
        try:
            return found, await other
        except FAILURES:
            return found, None

    return both


def after_look(look: Make[W], make: Make[V], saw: Callable[[W], object]) -> Make[V]:
    """Send ``look`` right before ``make``; ``saw`` is called with its answer, if any.

    ``saw`` is called before ``make`` is awaited, also if ``make`` is refused.
    """

    async def both() -> V:
        before, wanted = StartedCall(look()), StartedCall(make())
        try:
            with contextlib.suppress(asyncssh.SFTPError):
                saw(await before)
        except BaseException:
            wanted.give_up()
            raise
        return await wanted

    return both
