"""Striping: the writes of one open file go through handles on several channels.

A server grants each channel a window (OpenSSH: 2 MiB), and no more than that is in
flight at once: 20 MB/s at a round trip of 100 ms. ``FurtherChannels`` opens more
channels of the connection, ``add_stripes`` opens the file on each and checks that it is
the same, and ``Stripes`` decides which handle a write takes. Some proxies allow one
channel only: such a proxy is not asked again while the mount lasts. If a channel could
not be opened for another reason, that session keeps the channels it has.

Laws:

* Writes leave in the order of the calls. ``write`` sends at once, or queues the write
  behind all that have to wait.
* With one handle the server keeps the order of its channel. With several it does not:
  so a write that overlaps one in flight waits until that is answered.
* Every request that is not a write waits for all writes before it (``behind``), as it
  would on one channel.
* A write on a channel that was lost is sent again through the first handle: it is the
  same bytes at the same offset, so storing them twice changes nothing.
* While further handles are opened, no write is in flight (``held``), and the size of
  the file is read through the first handle before and after. If it became smaller, the
  open has emptied the file: each later write fails.
* A further handle is used only once it is proved to be of the same file. SFTP version 3
  has no inode numbers, and a path may lead to another file by now. The proof is our own
  writing: the size that the handle shows lies between two that the first handle shows
  before and after, and grows with our writes, twice; mode, owner and time of change
  agree as well. Nothing on the device is changed for it. A file that does not grow
  keeps one channel.

``FurtherChannels`` is for the trio side, all else for the asyncio side alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import asyncssh
import trio
from asyncssh.constants import FILEXFER_ATTR_DEFINED_V4, FXF_WRITE, FXP_OPEN, FXP_WRITE
from asyncssh.packet import SSHPacket, String, UInt32, UInt64
from asyncssh.sftp import SFTPClientHandler

from pamfs.errors import PamfsError, RemoteError, SessionLostError
from pamfs.transport.bridge import Bridge, Make
from pamfs.transport.sftp.handles import HeldHandle, OpenRequest, handles_of
from pamfs.transport.sftp.packets import SentRequest
from pamfs.transport.sftp.requests import Requests
from pamfs.transport.sftp.status import translated

V = TypeVar("V")

_LOST = (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection)


@dataclass(slots=True, eq=False)
class Stripe:
    """One handle, and how many bytes of writes are in flight to it."""

    held: HeldHandle
    nbytes: int = 0

    @property
    def handler(self) -> SFTPClientHandler:
        """Return the channel that it goes by."""
        return self.held.handler

    @property
    def handle(self) -> bytes:
        """Return the handle on the server."""
        return self.held.handle

    def send(self, offset: int, part: memoryview) -> SentRequest:
        """Put a write on the wire."""
        where = String(self.held.handle) + UInt64(offset) + UInt32(len(part))
        return SentRequest(self.held.handler, FXP_WRITE, where, part)


class StripedWrite:
    """A write that may have to wait; ``reply`` and ``decoded`` as of ``SentRequest``.

    ``reply`` may be cancelled by its caller; ``landed`` is done once the server has
    answered, or nothing was sent.
    """

    def __init__(self, offset: int, part: memoryview) -> None:
        loop = asyncio.get_running_loop()
        self.reply: asyncio.Future[tuple[int, SSHPacket]] = loop.create_future()
        self.landed: asyncio.Future[None] = loop.create_future()
        self.offset = offset
        self.part = part
        self.sent: SentRequest | None = None

    def overlaps(self, other: StripedWrite) -> bool:
        """Whether both write some byte."""
        ends = self.offset + len(self.part), other.offset + len(other.part)
        return self.offset < ends[1] and other.offset < ends[0]

    def decoded(self, kind: int, packet: SSHPacket) -> object:
        """Return what ``reply`` means, or raise the status that it is."""
        assert self.sent is not None  # noqa: S101 - there is a reply to it
        return self.sent.decoded(kind, packet)

    def end(self, exc: BaseException | None, found: tuple[int, SSHPacket]) -> None:
        """Give the caller the answer, if the caller still waits."""
        self.landed.set_result(None)
        if self.reply.done():
            return
        if exc is None:
            self.reply.set_result(found)
        else:
            self.reply.set_exception(exc)


_NOTHING = 0, SSHPacket(b"")


class Stripes:
    """All handles of one open file; the first is the one that it was opened with."""

    def __init__(self, first: Stripe) -> None:
        self.first = first
        self._stripes = [first]
        self._is_ordered = True
        self._is_held = False
        # Whether each write in flight is known; needed from the first hold on.
        self._is_counting = False
        self._waiting: deque[StripedWrite] = deque()
        self._in_flight: set[StripedWrite] = set()
        self._failure: Exception | None = None
        self._arrived = asyncio.Event()
        self.is_closed = False

    @property
    def count(self) -> int:
        """Return how many handles there are."""
        return len(self._stripes)

    @property
    def is_ordered(self) -> bool:
        """Whether the server keeps the order, as of one channel.

        False for good once a second handle was used: a write lost with its channel is
        sent again.
        """
        return self._is_ordered and not self._waiting

    async def next_offset(self) -> int:
        """Return where the next write begins, once one waits: inside ``held``."""
        await self._arrived.wait()
        return self._waiting[0].offset

    def add(self, stripe: Stripe) -> None:
        """Use ``stripe`` for writes as well; it must be a handle of the same file."""
        self._is_ordered = False
        self._stripes.append(stripe)

    @contextlib.contextmanager
    def hold_writes(self) -> Iterator[None]:
        """Let no write leave inside the block; all leave at its end, in their order."""
        self._is_counting = self._is_held = True
        self._arrived.clear()
        try:
            yield
        finally:
            self._is_held = False
            self._advance()

    def stop_counting(self) -> None:
        """Note that no further handle was found: one channel keeps the order."""
        if self._is_ordered and self._failure is None:
            self._is_counting = False

    def fail(self, failure: Exception) -> None:
        """Refuse all writes that wait, and all later ones."""
        self._is_counting, self._failure = True, failure
        waiting, self._waiting = self._waiting, deque()
        for write in waiting:
            write.end(failure, _NOTHING)

    def write(self, offset: int, part: memoryview) -> SentRequest | StripedWrite:
        """Send ``part`` by the handle that has the least in flight."""
        if not self._is_counting:
            return self.first.send(offset, part)
        write = StripedWrite(offset, part)
        if self._failure is not None:
            write.end(self._failure, _NOTHING)
        else:
            self._waiting.append(write)
            self._arrived.set()
            self._advance()
        return write

    def _advance(self) -> None:
        """Send what waits, in order, up to what still has to wait."""
        while self._waiting and not self._is_held:
            write = self._waiting[0]
            is_wanted = not write.reply.done()
            if is_wanted and not self._may_send(write):
                return
            self._waiting.popleft()
            if is_wanted:
                self._in_flight.add(write)
                self._send(write, min(self._stripes, key=lambda stripe: stripe.nbytes))
            else:
                write.landed.set_result(None)

    def _may_send(self, write: StripedWrite) -> bool:
        return self._is_ordered or not any(map(write.overlaps, self._in_flight))

    def _send(self, write: StripedWrite, stripe: Stripe) -> None:
        try:
            write.sent = stripe.send(write.offset, write.part)
        except asyncssh.SFTPError as exc:
            self._ended(write, stripe, exc, _NOTHING)
        else:
            stripe.nbytes += len(write.part)
            answered = functools.partial(self._answered, write, stripe)
            write.sent.reply.add_done_callback(answered)

    def _answered(
        self,
        write: StripedWrite,
        stripe: Stripe,
        reply: asyncio.Future[tuple[int, SSHPacket]],
    ) -> None:
        stripe.nbytes -= len(write.part)
        if reply.cancelled():
            self._ended(
                write, stripe, asyncssh.SFTPConnectionLost("cancelled"), _NOTHING
            )
            return
        exc = reply.exception()
        self._ended(write, stripe, exc, _NOTHING if exc else reply.result())

    def _ended(
        self,
        write: StripedWrite,
        stripe: Stripe,
        exc: BaseException | None,
        found: tuple[int, SSHPacket],
    ) -> None:
        if isinstance(exc, _LOST) and stripe is not self.first:
            # Whether it was stored is not known; storing the same bytes again changes
            # nothing.
            with contextlib.suppress(ValueError):
                self._stripes.remove(stripe)
            self._send(write, self.first)
            return
        self._in_flight.discard(write)
        write.end(exc, found)
        self._advance()

    def behind(self, make: Make[V]) -> Make[V]:
        """Return a function that waits for all writes so far, then runs ``make``."""
        if self.is_ordered:
            return make

        async def later() -> V:
            landed = [write.landed for write in (*self._in_flight, *self._waiting)]
            if landed:
                await asyncio.wait(landed)
            return await make()

        return later

    async def close(self) -> None:
        """Give all handles back; raise what the server says about any."""
        self.is_closed = True
        stripes, self._stripes = self._stripes[1:], [self.first]
        answers = await asyncio.gather(
            *(_closed(stripe) for stripe in stripes), return_exceptions=True
        )
        await _closed(self.first)
        for answer in answers:
            if isinstance(answer, asyncssh.SFTPError) and not isinstance(answer, _LOST):
                raise answer


async def _closed(stripe: Stripe) -> None:
    await stripe.held.close().answer()


def forget(stripe: Stripe) -> None:
    """Close a handle that will not be used."""
    stripe.held.close_nowait()


log = logging.getLogger(__name__)

# Time limit in seconds for opening, and for checking, further handles; writes wait
# during the opens.
_LOOK_S: Final = 15.0
# How long to wait, in seconds, for the next write of the program.
_NEXT_S: Final = 1.0
# A handle has to show growth twice, within so many looks.
_GROWTHS: Final = 2
_ROUNDS: Final = 10


async def add_stripes(
    stripes: Stripes, path: bytes, handlers: Sequence[SFTPClientHandler]
) -> None:
    """Add a handle by each of ``handlers`` that is proved to be of the same file."""
    opened: list[_Candidate] = []
    same: list[_Candidate] = []
    try:
        with stripes.hold_writes():
            await _open_all(stripes, path, handlers, opened)
        async with asyncio.timeout(_LOOK_S):
            same = await _same(stripes.first, opened)
    except (asyncssh.SFTPError, TimeoutError):
        same = []  # it could not be checked: use no further handle
    finally:
        for one in opened:
            if one in same and not stripes.is_closed:
                stripes.add(one.stripe)
            else:
                forget(one.stripe)
        stripes.stop_counting()


@dataclass(slots=True, eq=False)
class _Candidate:
    """A handle that may be of the same file, and how it was seen to grow."""

    stripe: Stripe
    size: int
    growths: int = 0


async def _open_all(
    stripes: Stripes,
    path: bytes,
    handlers: Sequence[SFTPClientHandler],
    opened: list[_Candidate],
) -> None:
    # Behind all writes so far: when the answer is here, none is in flight.
    before = await _look(stripes.first)
    if before.size is None or await _next_offset(stripes) < before.size:
        return  # it is not written at its end, or nothing more is
    try:
        async with asyncio.timeout(_LOOK_S):

            async def add(handler: SFTPClientHandler, size: int) -> None:
                # Known at once: the caller may leave while the others are opened.
                opened.append(_Candidate(await _open(handler, path), size))

            opens = [add(handler, before.size) for handler in handlers]
            await asyncio.gather(*opens, return_exceptions=True)
            after = await _look(stripes.first)
    except (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection) as exc:
        stripes.fail(exc)  # as the writes themselves fail
        raise
    except (asyncssh.SFTPError, TimeoutError) as exc:
        raise _failed(stripes, path, "may have changed it") from exc
    if after.size is None or after.size < before.size:
        raise _failed(stripes, path, "changed it")


def _failed(stripes: Stripes, path: bytes, what: str) -> asyncssh.SFTPError:
    """Have all later writes fail, and say why; return the error."""
    log.error(
        "%r: opening it a second time for writing %s, so its writes fail "
        "with EIO; remove quirks shared-writes or set channels = 1 for the tenant",
        path,
        what,
    )
    failure = asyncssh.SFTPFailure(f"a second open {what}")
    stripes.fail(failure)
    return failure


async def _next_offset(stripes: Stripes) -> int:
    """Return where the next write begins; less than any offset if none comes."""
    try:
        async with asyncio.timeout(_NEXT_S):
            return await stripes.next_offset()
    except TimeoutError:
        return -1


async def _open(handler: SFTPClientHandler, path: bytes) -> Stripe:
    # Never to create, to empty or to append.
    attrs = asyncssh.SFTPAttrs().encode(handler.version)
    await handles_of(handler).take_place()
    sent = OpenRequest(handler, FXP_OPEN, String(path), UInt32(FXF_WRITE), attrs)
    return Stripe(await sent.held())


async def _same(first: Stripe, found: list[_Candidate]) -> list[_Candidate]:
    """Return those of ``found`` that show what ``first`` shows, and grow with it."""
    for _ in range(_ROUNDS):
        if all(one.growths >= _GROWTHS for one in found):
            break
        found = await _alike(first, found)
    return [one for one in found if one.growths >= _GROWTHS]


async def _alike(first: Stripe, found: Sequence[_Candidate]) -> list[_Candidate]:
    low = await _look(first)
    looks = (_look(one.stripe) for one in found)
    seen = await asyncio.gather(*looks, return_exceptions=True)
    high = await _look(first)
    return [
        one
        for one, attrs in zip(found, seen, strict=True)
        if isinstance(attrs, asyncssh.SFTPAttrs) and _agrees(one, low, attrs, high)
    ]


def _agrees(
    one: _Candidate,
    low: asyncssh.SFTPAttrs,
    seen: asyncssh.SFTPAttrs,
    high: asyncssh.SFTPAttrs,
) -> bool:
    size = seen.size or 0
    one.growths += size > one.size
    one.size = size
    return (
        _identity(low) == _identity(seen) == _identity(high)
        and _is_between(low.size, size, high.size)
        and _is_between(low.mtime, seen.mtime, high.mtime)
    )


def _is_between(low: float | None, seen: float | None, high: float | None) -> bool:
    return (
        low is not None
        and seen is not None
        and high is not None
        and low <= seen <= high
    )


def _identity(attrs: asyncssh.SFTPAttrs) -> tuple[object, ...]:
    return attrs.permissions, attrs.uid, attrs.gid


async def _look(stripe: Stripe) -> asyncssh.SFTPAttrs:
    return await stripe.handler.fstat(stripe.handle, FILEXFER_ATTR_DEFINED_V4)


# Time limit for opening a channel, in seconds.
_OPEN_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class ChannelOpener:
    """How further channels of a connection are opened, and how many at most.

    ``refused`` holds the proxies that allow none; it outlives the session.
    """

    open: Make[asyncssh.SFTPClient]
    most: int
    proxy: str = ""
    refused: set[str] = field(default_factory=set)


class FurtherChannels:
    """The further channels of one session, one after the other."""

    def __init__(
        self, bridge: Bridge, first: Requests, further: ChannelOpener | None
    ) -> None:
        self._bridge = bridge
        self._first = first
        self._further = further
        self._lock = trio.Lock()
        self._open: list[Requests] = []
        self._has_failed = False

    @property
    def may_grow(self) -> bool:
        """Whether there are, or may be, more than the first."""
        further = self._further
        if further is None or further.most <= 1:
            return False
        return bool(self._open) or self._may_ask(further)

    def _may_ask(self, further: ChannelOpener) -> bool:
        return not self._has_failed and further.proxy not in further.refused

    async def all(self) -> list[Requests]:
        """Return all further channels, opening them when asked first."""
        further = self._further
        if further is None:
            return []
        async with self._lock:
            self._open = [channel for channel in self._open if channel.is_open]
            if not self._open:
                # One alone, so that a proxy that refuses is asked once.
                await self._open_one(further)
            if self._open:
                async with trio.open_nursery() as nursery:
                    for _ in range(further.most - 1 - len(self._open)):
                        nursery.start_soon(self._open_one, further)
            return list(self._open)

    async def _open_one(self, further: ChannelOpener) -> None:
        if not self._may_ask(further):
            return
        try:
            with trio.fail_after(_OPEN_S), translated("a further channel"):
                client = await self._bridge.call(further.open)
        except (PamfsError, trio.TooSlowError) as exc:
            self._has_failed = True
            if await self._is_refusal(exc):
                further.refused.add(further.proxy)
        else:
            self._open.append(Requests(self._bridge, client))

    async def _is_refusal(self, exc: Exception) -> bool:
        if not isinstance(exc.__cause__, asyncssh.ChannelOpenError):
            return isinstance(exc, RemoteError)
        # asyncssh says so too of a connection that was lost: then nothing answers.
        look = functools.partial(self._first.handler.realpath, b".")
        try:
            with trio.fail_after(_OPEN_S):
                await self._first.ask("realpath", look)
        except (SessionLostError, trio.TooSlowError):
            return False
        except RemoteError:
            pass
        return True
