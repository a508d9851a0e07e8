"""The handles that one SFTP channel holds open, and how many are safe to hold.

Law: two open files or directories never have one handle. Some servers give a handle
twice: Erlang/OTP 25 does once three are open. What is asked by such a handle may be
answered from the other file, so neither is used any more: the new one is refused with
EIO, and each request by the old one fails with ESTALE from then on.

An unknown server is tested once for each channel: three handles of one folder are
requested at once, in the background. If two of them are equal, no more handles are held
at once than were distinct. A refusal during the test is ignored: its reason is unknown,
and a server without free handles will refuse later opens as well. A handle counts until
its close is answered. For the asyncio side alone.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from typing import Final, TypeVar, cast
from weakref import WeakKeyDictionary

from asyncssh.constants import FXP_CLOSE, FXP_OPENDIR
from asyncssh.packet import SSHPacket, String
from asyncssh.sftp import SFTPClientHandler

from pamfs.errors import RemoteError, ServerFaultError
from pamfs.model import Data
from pamfs.transport.bridge import Make
from pamfs.transport.sftp.packets import SentRequest
from pamfs.transport.ssh.asyncssh_compat import is_open

V = TypeVar("V")

# Erlang's third handle is the first that is given twice.
_TRIED: Final = 3
# How long an open waits for a place until it is refused with EMFILE.
PATIENCE_S: Final = 5.0


class DuplicateHandleError(ServerFaultError):
    """The server gave a handle that is held open already."""

    def __init__(self, handle: bytes) -> None:
        super().__init__(errno.EIO, "open", f"handle {handle!r} was given twice")
        self.handle = handle


class HeldHandle:
    """One handle that is open on the server."""

    __slots__ = ("handle", "handler", "is_ambiguous", "owner")

    def __init__(
        self,
        handles: Handles,
        handler: SFTPClientHandler,
        handle: bytes,
        *,
        is_ambiguous: bool,
    ) -> None:
        self.owner = handles
        self.handler = handler
        self.handle = handle
        self.is_ambiguous = is_ambiguous  # another file was given the same

    def check(self) -> None:
        """Raise ESTALE if the handle may lead to another file."""
        if self.is_ambiguous:
            raise RemoteError(
                errno.ESTALE, "handle", f"{self.handle!r} was given to another file too"
            )

    def close(self) -> SentRequest:
        """Give it back; its place is free once that is answered."""
        return self.owner.closed(self)

    def close_nowait(self) -> None:
        """As ``close``, without waiting for the reply."""
        if not is_open(self.handler):
            return
        self.close().reply.add_done_callback(forget_failure)


class Handles:
    """Which handles are open, and how many may be.

    The life of one: ``room`` takes a place, ``OpenRequest`` sends the request in that
    place, ``came`` notes the handle, ``closed`` sends its CLOSE and frees the place
    once that is answered. An open that fails frees its place as well. ``_taken`` counts
    places and ``_held`` handles; a handle that was given twice counts twice and is held
    once. Every change is synchronous, so there is no lock.
    """

    def __init__(self) -> None:
        self._held: dict[bytes, HeldHandle] = {}
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._trial: asyncio.Task[None] | None = None
        self.limit = 0  # none is known

    # -- places ------------------------------------------------------------------

    async def take_place(self) -> None:
        """Take a place for one more handle, waiting for it; EMFILE if there is none.

        The next ``OpenRequest`` has the place; nothing may be awaited in between.
        """
        await self.tried()
        if self._waiting or self._is_full:
            await self._wait_for_place()
        else:
            self._taken += 1

    @property
    def _is_full(self) -> bool:
        return 0 < self.limit <= self._taken

    async def _wait_for_place(self) -> None:
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await place
        except BaseException as exc:
            if place.done() and not place.cancelled():
                # Given in the same turn of the loop as the time-out or the
                # cancellation: it is unused, so the next in line gets it.
                self.release_place()
            if not isinstance(exc, TimeoutError):
                raise
            why = f"the server gives no more than {self.limit} distinct handles"
            raise RemoteError(errno.EMFILE, "open", why) from None

    def release_place(self) -> None:
        """Give a place back."""
        self._taken -= 1
        while self._waiting and not self._is_full:
            place = self._waiting.popleft()
            if not place.done():
                self._taken += 1
                place.set_result(None)

    # -- handles -----------------------------------------------------------------

    def register(self, handler: SFTPClientHandler, handle: bytes) -> HeldHandle:
        """Note that the server has given ``handle``."""
        other = self._held.get(handle)
        held = HeldHandle(self, handler, handle, is_ambiguous=other is not None)
        if other is None:
            self._held[handle] = held
        else:
            # Which of the two files a request by this handle reaches cannot be known.
            # From now on no more are held than are distinct now.
            other.is_ambiguous = True
            self._lower(len(self._held))
        return held

    def closed(self, held: HeldHandle) -> SentRequest:
        """Send the CLOSE of ``held``: once answered, the server may give it again."""
        sent = SentRequest(held.handler, FXP_CLOSE, String(held.handle))

        def answered(_: object) -> None:
            # Of two with one handle the first stands in the table.
            if self._held.get(held.handle) is held:
                del self._held[held.handle]
            self.release_place()

        sent.reply.add_done_callback(answered)
        return sent

    def _lower(self, limit: int) -> None:
        self.limit = min(limit, self.limit or limit)

    # -- the trial ---------------------------------------------------------------

    def begin_trial(self, handler: SFTPClientHandler) -> None:
        """Ask for some handles at once, to see whether they are distinct."""
        # Right behind VERSION, before a program can ask for anything: the places are
        # taken without ``room``, which waits for this very trial.
        self._taken += _TRIED
        folder = String(b".")
        opens = [OpenRequest(handler, FXP_OPENDIR, folder) for _ in range(_TRIED)]
        trial = self._try(handler, opens)
        self._trial = asyncio.get_running_loop().create_task(trial)

    async def tried(self) -> None:
        """Wait until the trial is over, if there is one."""
        if self._trial is not None:
            await asyncio.wait([self._trial])

    async def _try(self, handler: SFTPClientHandler, opens: list[OpenRequest]) -> None:
        try:
            given, distinct = await _given(opens)
            if distinct < given and is_open(handler):
                self._lower(distinct)
        finally:
            self._trial = None


async def _given(opens: list[OpenRequest]) -> tuple[int, int]:
    """Return how many handles came, and how many of them are distinct; close all."""
    answers = await asyncio.gather(
        *(one.arrived() for one in opens), return_exceptions=True
    )
    given = [answer for answer in answers if isinstance(answer, HeldHandle)]
    for held in given:
        held.close_nowait()
    return len(given), len({held.handle for held in given})


class OpenRequest:
    """An OPEN or OPENDIR on its way, in a place that was taken with ``Handles.room``.

    The handle is registered when the reply arrives, before any later reply is
    processed. If the caller was cancelled, it is closed.
    """

    def __init__(self, handler: SFTPClientHandler, kind: int, *args: Data) -> None:
        self._handler = handler
        self._handles = handles_of(handler)
        self._is_wanted = True
        self._held: HeldHandle | None = None
        self._failure: BaseException | None = None
        try:
            self._sent = SentRequest(handler, kind, *args)
        except BaseException:
            self._handles.release_place()
            raise
        self._sent.reply.add_done_callback(self._came)

    def _came(self, reply: asyncio.Future[tuple[int, SSHPacket]]) -> None:
        try:
            handle = cast("bytes", self._sent.decoded(*reply.result()))
        except BaseException as exc:  # noqa: BLE001 - ``arrived`` raises it
            self._failure = exc
            self._handles.release_place()
            return
        self._held = self._handles.register(self._handler, handle)
        if not self._is_wanted:
            self._held.close_nowait()

    async def arrived(self) -> HeldHandle:
        """Return the handle, also if another file has the same one."""
        try:
            # Shielded: the server gives the handle whether or not anyone waits for it,
            # and only the answer says which one is to be closed.
            await asyncio.shield(self._sent.reply)
        except BaseException:
            self._is_wanted = False
            if self._held is not None:
                self._held.close_nowait()
            raise
        if self._failure is not None:
            raise self._failure
        assert self._held is not None  # noqa: S101 - ``_came`` was called before
        return self._held

    async def held(self) -> HeldHandle:
        """Return the handle; ``DuplicateHandleError`` if another file has it."""
        held = await self.arrived()
        if held.is_ambiguous:
            held.close_nowait()
            raise DuplicateHandleError(held.handle)
        return held


_of_handlers: WeakKeyDictionary[SFTPClientHandler, Handles] = WeakKeyDictionary()


def handles_of(handler: SFTPClientHandler) -> Handles:
    """Return the handles of the channel that ``handler`` serves."""
    known = _of_handlers.get(handler)
    if known is None:
        known = _of_handlers[handler] = Handles()
    return known


def with_room(handler: SFTPClientHandler, make: Make[V]) -> Make[V]:
    """Return ``make``, which sends one ``OpenRequest``, run once there is room."""

    async def later() -> V:
        await handles_of(handler).take_place()
        return await make()

    return later


def forget_failure(reply: asyncio.Future[tuple[int, SSHPacket]]) -> None:
    """Ignore the failure of a close: asyncio logs one that is never read."""
    if not reply.cancelled():
        reply.exception()
