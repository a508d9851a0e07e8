"""Write-back: a write is answered to the kernel before the device acknowledges it.

Law: a write is answered once it is queued, and from then on it is either stored or
reported: its error is latched in the open file that it came through, and each later
write, flush and fsync of that file raises it. A write waits while there is no room for
it; if the file's queue is empty and there is still no room, it is answered once it is
stored.

Order: all writes of an inode are one queue (``writequeue``), whichever handle they
came through. They leave in that order; two that overlap are never in flight together,
and an append goes alone. A change of mode and times, or a request for the attributes,
is sent after the last write if one is due: a server handles the requests on one file in
the order in which they were sent (filexfer-02, section 6.1).

A request that asks the device about a file, reads it or changes it waits until the
writes before it are acknowledged (``Coherence.settled``). Two exceptions:

* a read within the size at open goes to the device at once, and what is queued for
  its range is laid over the answer (``over``): waiting would make a database wait for
  each of its writes;
* attributes are answered without the device for up to a second if only writes made
  here have changed them: their size is counted (``Inode.counted_at``).

Flow control: one window for all writes to a target, the paced bytes in flight, and
for each file a bound of queued bytes; a write waits until there is room in both.

Invariant: an inode has its ``PendingWrites`` exactly while writes or changes of it
are queued or in flight, and a task of the mount runs while any is in flight. Only
this module adds and removes them; only ``vfs.coherence`` changes what is known.
"""

from __future__ import annotations

import errno
import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import trio

from pamfs.errors import PamfsError, RemoteError, SessionLostError
from pamfs.model import AttrChange, Attrs, Data, Extent, Target
from pamfs.transport.base import OpenMode, RemoteTree
from pamfs.vfs.background import LEAST_STEP, FlowControl, queue_limit
from pamfs.vfs.data.pendingwrites import PendingWrites, TrailingStat
from pamfs.vfs.data.reopening import Reopening
from pamfs.vfs.data.writequeue import Chunk
from pamfs.vfs.handles import OpenFile
from pamfs.vfs.names.attributes import merged
from pamfs.vfs.names.inodes import Inode
from pamfs.vfs.remote_access import TRIES, pause_before
from pamfs.vfs.shared import Shared

log = logging.getLogger(__name__)

# Bytes of one file in flight, at most.
FLYING_BYTES: Final = 8 << 20
_LOOK_EVERY_S: Final = 1.0
# Sessions in a row that may be lost before one write is stored.
MOST_RECOVERIES: Final = TRIES
# What was lost of an open file, for the log.
NOT_STORED: Final = "data was not stored"
NOT_SET: Final = "its mode and times were not set"


class Writeback:
    """All writes of a mount that are on their way."""

    def __init__(self, shared: Shared, reopening: Reopening) -> None:
        self._remote = shared.remote
        self._reopening = reopening
        self._inodes = shared.inodes
        self._lost = shared.lost
        self._coherence = shared.coherence
        self._budget = shared.background.budget
        self._spawn = shared.background.spawn
        self._unstored: dict[Inode, PendingWrites] = {}
        self._flow: defaultdict[Target, FlowControl] = defaultdict(FlowControl)
        self._is_watched = False

    # -- what programs ask -------------------------------------------------------

    def put_nowait(self, file: OpenFile, offset: int, data: Data) -> bool:
        """Queue a write; return False if that has to wait for something."""
        before = self._unstored.get(file.inode)
        if before is not None and before.is_followed:
            return False
        unstored = self._of(file)
        if not self._reserve(unstored, len(data)):
            return False
        self._queue(unstored, file, offset, data)
        return True

    async def put(self, file: OpenFile, offset: int, data: Data) -> None:
        """Queue a write; wait for room, or until it is stored if no room can be had."""
        before = self._unstored.get(file.inode)
        if before is not None and before.is_followed:
            await before.settled()  # a write behind it would undo the times
        # Looked up anew after each wait: the last acknowledgement ends a PendingWrites.
        while not self._reserve(unstored := self._of(file), len(data)):
            if unstored.queue.is_empty:
                # Nothing that is acknowledged later would make room for it here.
                self._queue(unstored, file, offset, data)
                await unstored.settled()
                return
            await unstored.changed.park()
            if file.latched is not None:
                raise file.latched
        self._queue(unstored, file, offset, data)

    async def settled(self, inode: Inode, *, looks: bool = False) -> None:
        """Wait until each write of ``inode`` so far was acknowledged, or refused.

        With ``looks`` the same round trip brings the attributes behind the writes.
        """
        pending = self._unstored.get(inode)
        if pending is not None:
            await pending.settled(looks=looks)

    def follow(self, inode: Inode, change: AttrChange) -> bool:
        """Send ``change`` after the writes; return False if it may be refused."""
        pending = self._unstored.get(inode)
        return pending is not None and pending.follow(change)

    def over(self, inode: Inode, wanted: Extent) -> Sequence[tuple[int, Data]] | None:
        """Return what writes of ``inode`` put into ``wanted``; None: not known."""
        pending = self._unstored.get(inode)
        return () if pending is None else pending.queue.over(wanted)

    def waiting_bytes(self, target: Target) -> int:
        """Return how much of ``target`` its device has not acknowledged."""
        pending = self._unstored.values()
        return sum(one.queue.held_bytes for one in pending if one.target == target)

    async def stored(self, target: Target | None = None) -> None:
        """Wait until all writes so far, those of ``target`` or all, are settled."""
        for unstored in list(self._unstored.values()):
            if target in {None, unstored.target}:
                await unstored.settled()

    def abandon(self, exc: PamfsError, target: Target | None = None) -> None:
        """Latch ``exc`` for whatever is not stored, and send no more of it."""
        for unstored in list(self._unstored.values()):
            if target in {None, unstored.target}:
                self._give_up(unstored, exc)

    def latch(self, file: OpenFile, exc: PamfsError, what: str = NOT_STORED) -> None:
        """Remember the first error of an open file, and log it as ``what``."""
        self._coherence.write_failed(file.inode)
        if file.latched is None:
            file.latched = exc
            # The only log line with a path: a user who lost data must know which file.
            path = self._inodes.shown_path(file.inode)
            log.warning("%s: %s: %s", path, what, exc)

    def _lose(self, file: OpenFile, exc: PamfsError) -> None:
        """Latch ``exc``: a write that was answered is not stored."""
        self.latch(file, exc)
        self._coherence.write_lost(file.inode, exc)

    def close_failed(self, file: OpenFile, exc: PamfsError) -> None:
        """Note that closing the remote handle failed, after the program's close."""
        if isinstance(exc, RemoteError) and file.has_written and file.latched is None:
            self._lose(file, exc)
            self._lost.note(file, exc)

    # -- the queues --------------------------------------------------------------

    def _of(self, file: OpenFile) -> PendingWrites:
        known = self._unstored.get(file.inode)
        return known or PendingWrites(self.send, file.inode, file.target)

    def _reserve(self, unstored: PendingWrites, nbytes: int) -> bool:
        tree = self._remote.ready(unstored.target)
        most = queue_limit(tree.round_trip_s if tree else 0.0)
        if unstored.queue.held_bytes + nbytes > most:
            return False
        if not self._budget.take(unstored.target, nbytes):
            return False
        unstored.budgeted += nbytes
        return True

    def _queue(
        self, unstored: PendingWrites, file: OpenFile, offset: int, data: Data
    ) -> None:
        is_append = OpenMode.APPEND in file.mode
        file.has_written, unstored.writer = True, file
        file.evidence.is_written = True
        # Before anything waits: the caller may leave before the answer.
        self._coherence.queued(file.inode, unstored)
        self._unstored[unstored.inode] = unstored
        unstored.queue.put(file, offset, data, is_append=is_append)
        unstored.reached = max(unstored.reached, 0 if is_append else unstored.end)
        self.send(unstored)
        if not self._is_watched:
            self._is_watched = True
            self._spawn(self._watch)

    def send(self, unstored: PendingWrites) -> None:
        """Send as much as the window takes, in order: see ``_carry``."""
        if unstored.is_recovering:
            return
        if unstored.queue.has_unsent:
            tree = self._remote.ready(unstored.target)
            if self._recover_if_lost(unstored, tree):
                return
            if not unstored.is_starting and self._is_sendable(unstored, tree):
                unstored.is_starting = True
                self._spawn(self._carry, unstored)
        if self._may_look(unstored):
            now = trio.current_time()
            look = TrailingStat(unstored.queue.newest, now, unstored.change)
            unstored.change, unstored.wants_look = None, False
            unstored.looks_sent += 1
            self._spawn(self._look, unstored, look)

    def _recover_if_lost(
        self, unstored: PendingWrites, tree: RemoteTree | None
    ) -> bool:
        """Whether its handle belongs to a session that is over: have it recovered."""
        file = unstored.writer
        if file is None or tree is file.tree:
            return False
        self._carry_on(unstored)
        return True

    def _may_look(self, unstored: PendingWrites) -> bool:
        """Whether it is time for what goes out behind the writes."""
        if unstored.is_looking or unstored.queue.has_unsent or not unstored.is_due:
            return False
        # The end may be asked for before an append is sent, so that is waited for.
        is_sent = unstored.hurried > 0 and not unstored.queue.has_append
        return is_sent or unstored.queue.is_empty

    def _room(self, unstored: PendingWrites, tree: RemoteTree | None) -> int:
        """Return how many bytes the next write may have; 0: no room."""
        step, window = self._bounds(unstored.target, tree)
        flow = self._flow[unstored.target]
        flying = unstored.queue.flying_bytes
        # All files of a target share the window, but each may always have one write in
        # flight.
        is_full = flying > 0 and flow.flying_bytes + step > window
        if is_full or flying >= FLYING_BYTES:
            return 0
        return step

    def _is_sendable(self, unstored: PendingWrites, tree: RemoteTree | None) -> bool:
        step = self._room(unstored, tree)
        is_urgent = unstored.hurried > 0
        return step > 0 and unstored.queue.may_take(step, is_urgent=is_urgent)

    def _next(self, unstored: PendingWrites) -> Chunk[OpenFile] | None:
        if unstored.is_recovering or not unstored.queue.has_unsent:
            return None
        step = self._room(unstored, self._remote.ready(unstored.target))
        if not step:
            return None
        chunk = unstored.queue.take(step, is_urgent=unstored.hurried > 0)
        if chunk is not None:
            self._flow[unstored.target].flying_bytes += chunk.extent.size
        return chunk

    def _bounds(self, target: Target, tree: RemoteTree | None) -> tuple[int, int]:
        """Return the size of one write, and how much may be in flight."""
        flow = self._flow[target]
        if tree is None:
            return LEAST_STEP, flow.window(0.0, LEAST_STEP)
        step = flow.step(tree.capabilities.max_write_bytes)
        return step, flow.window(tree.round_trip_s, step)

    # -- on the way --------------------------------------------------------------

    async def _carry(self, unstored: PendingWrites) -> None:
        """Send one write after the other, each as soon as it is taken.

        Nothing is awaited between ``take`` and the send, and the next task starts only
        after it. So writes are sent in order, in whatever order trio runs the tasks.
        """
        unstored.is_starting = False
        while (chunk := self._next(unstored)) is not None:
            self.send(unstored)
            await self._store(unstored, chunk)
        self.send(unstored)

    async def _store(self, unstored: PendingWrites, chunk: Chunk[OpenFile]) -> None:
        flow = self._flow[unstored.target]
        asked_at, delivered = trio.current_time(), flow.pace.delivered
        is_cut = False
        scope = trio.CancelScope()
        unstored.scopes.add(scope)
        try:
            with scope:
                await self._write(chunk)
                took_s = trio.current_time() - asked_at
                trip_s = chunk.writer.tree.round_trip_s
                flow.came(chunk.extent.size, delivered, took_s, trip_s)
                self._acknowledged(unstored, chunk)
        except SessionLostError as exc:
            is_cut = self._take_back(unstored, chunk, exc)
        except PamfsError as exc:
            self._lose(chunk.writer, exc)
        except Exception:
            # A background task of ours must not end the mount.
            log.exception("%s: storing data failed", unstored.target)
            self._lose(chunk.writer, RemoteError(errno.EIO, "write"))
        finally:
            unstored.scopes.discard(scope)
        # What was taken back is queued again and still holds its room in the budget.
        flow.flying_bytes -= chunk.extent.size
        if not is_cut:
            unstored.queue.done(chunk)
            self._freed(unstored, chunk.extent.size)

    def _take_back(
        self, unstored: PendingWrites, chunk: Chunk[OpenFile], exc: PamfsError
    ) -> bool:
        """Take back what was in flight in a lost session, unless all was given up."""
        if unstored.given_up is not None:
            self._lose(chunk.writer, exc)
            return False
        unstored.queue.recall(chunk)
        self._carry_on(unstored)
        unstored.changed.unpark_all()
        return True

    @staticmethod
    def _acknowledged(unstored: PendingWrites, chunk: Chunk[OpenFile]) -> None:
        unstored.recoveries = 0
        evidence = chunk.writer.evidence
        if chunk.is_append:
            evidence.appended(chunk.data)
        else:
            evidence.acknowledged(chunk.extent.start, chunk.data)

    async def _write(self, chunk: Chunk[OpenFile]) -> None:
        file = chunk.writer
        try:
            self._remote.check(file.target, file.epoch)
            if self._remote.ready(file.target) is not file.tree:
                raise _cut_off()
            await file.remote.write_at(chunk.extent.start, chunk.data)
        except SessionLostError:
            self._remote.check(file.target, file.epoch)
            raise

    async def _look(self, unstored: PendingWrites, look: TrailingStat) -> None:
        file = unstored.writer
        assert file is not None  # noqa: S101 - something was written
        failure: PamfsError | None = None
        scope = trio.CancelScope()
        unstored.scopes.add(scope)
        try:
            with scope:
                unstored.seen = look, await self._seen(file, look.change)
            if scope.cancelled_caught:
                failure = unstored.given_up
        except SessionLostError as exc:
            failure = exc
            if unstored.given_up is None:
                self._look_again(unstored, look)
                return
        except PamfsError as exc:
            failure = exc
        except Exception:
            # A background task of ours must not end the mount.
            log.exception("%s: looking at what was stored failed", unstored.target)
            failure = RemoteError(errno.EIO, "setattr")
        finally:
            unstored.scopes.discard(scope)
        unstored.looks_done += 1
        if failure is not None and look.change is not None:
            # In the same session every write before it has been acknowledged.
            is_there = self._remote.ready(file.target) is file.tree
            self.latch(file, failure, NOT_SET if is_there else NOT_STORED)
        self._freed(unstored, 0)
        self.send(unstored)

    def _look_again(self, unstored: PendingWrites, look: TrailingStat) -> None:
        """Queue a stat again whose answer was lost.

        Its change of attributes may be made twice. The next stat has the same number,
        so the waiting requests get its answer.
        """
        unstored.looks_sent -= 1
        if look.change is None:
            unstored.wants_look = True
        elif unstored.change is None:
            unstored.change = look.change
        else:
            unstored.change = merged(look.change, unstored.change)
        self._carry_on(unstored)
        unstored.changed.unpark_all()

    async def _seen(self, file: OpenFile, change: AttrChange | None) -> Attrs:
        try:
            self._remote.check(file.target, file.epoch)
            if self._remote.ready(file.target) is not file.tree:
                raise _cut_off()
            if change is None:
                attrs = await file.remote.stat()
            else:
                file.evidence.note_change(change)
                attrs = await file.remote.set_attrs(change)
        except SessionLostError:
            self._remote.check(file.target, file.epoch)
            raise
        if file.inode.unstored is None or not file.inode.unstored.extents:
            file.evidence.looked(attrs)
        return attrs

    # -- after a lost session ----------------------------------------------------

    def _carry_on(self, unstored: PendingWrites) -> None:
        """Have a session opened, and what is not acknowledged sent again in it."""
        if not unstored.is_recovering:
            unstored.is_recovering = True
            unstored.recoveries += 1
            self._spawn(self._recover, unstored)

    async def _recover(self, unstored: PendingWrites) -> None:
        failure: PamfsError | None = None
        try:
            await self._recovered(unstored)
        except PamfsError as exc:
            failure = exc
        except trio.TooSlowError:
            failure = RemoteError(errno.ETIMEDOUT, "reopen")
        except Exception:
            # A background task of ours must not end the mount.
            log.exception("%s: storing data again failed", unstored.target)
            failure = RemoteError(errno.EIO, "reopen")
        unstored.is_recovering = False
        if failure is not None:
            self._give_up(unstored, failure)
        self._freed(unstored, 0)
        self.send(unstored)

    async def _recovered(self, unstored: PendingWrites) -> None:
        file = unstored.writer
        assert file is not None  # noqa: S101 - something was written
        self._remote.check(file.target, file.epoch)
        if unstored.recoveries > MOST_RECOVERIES:
            raise SessionLostError("each session was lost before a write was stored")
        # No answer of the lost session may count for what is sent in the next one.
        while unstored.queue.flying_bytes:
            await unstored.changed.park()
        await self._remote.loss_noticed(file.target, file.tree)
        await pause_before(unstored.recoveries)

        # ``ask`` may take several sessions: each time all handles are proven anew.
        async def reopen(tree: RemoteTree) -> None:
            for writer in unstored.queue.writers() | {file}:
                await self._reopening.handle_of(writer, tree)

        await self._remote.ask(file.target, file.caller, reopen, is_open=True)
        # A write at an offset is sent again, stored or not: the same bytes at the same
        # place. An append would be there twice, so what is behind the last append that
        # was acknowledged tells how much of this one is stored.
        before = unstored.queue.held_bytes
        for chunk in unstored.queue.recalled():
            if chunk.is_append:
                stored = chunk.writer.evidence.stored_bytes_of(chunk.data)
                chunk.writer.evidence.appended(chunk.data[:stored])
                unstored.queue.stored(chunk, stored)
        self._freed(unstored, before - unstored.queue.held_bytes)

    def _freed(self, unstored: PendingWrites, nbytes: int) -> None:
        unstored.reported_at = trio.current_time()
        counted = min(nbytes, unstored.budgeted)
        unstored.budgeted -= counted
        self._budget.give_back(unstored.target, counted)
        if unstored.is_over and unstored.inode.unstored is unstored:
            self._settle(unstored)
        unstored.changed.unpark_all()

    def _settle(self, unstored: PendingWrites) -> None:
        inode, end = unstored.inode, unstored.reached
        del self._unstored[inode]
        seen: tuple[Attrs, float] | None = None
        if unstored.seen is not None:
            # Of use only if no write was queued behind the look, the size shows all
            # writes (some servers answer from before them), and nothing newer is known.
            look, attrs = unstored.seen
            is_last = look.number == unstored.queue.newest and attrs.size >= end
            if is_last and inode.seen_at <= look.asked_at:
                seen = attrs, look.asked_at
        self._coherence.stored(inode, seen)

    def _give_up(self, unstored: PendingWrites, exc: PamfsError) -> None:
        for file in unstored.queue.writers():
            self.latch(file, exc)
            self._lost.note(file, exc, unstored.queue.bytes_of(file))
        if not unstored.queue.is_empty:
            self._coherence.write_lost(unstored.inode, exc)
        if unstored.change is not None and unstored.writer is not None:
            self.latch(unstored.writer, exc)
        unstored.change, unstored.wants_look = None, False
        # Before the scopes end: a task that is cut off finds why (``_take_back``).
        unstored.given_up = exc
        before = unstored.queue.held_bytes
        unstored.queue.give_up()
        for scope in unstored.scopes:
            scope.cancel()
        self._freed(unstored, before - unstored.queue.held_bytes)

    async def _watch(self) -> None:
        """Give up writes that a device has not acknowledged for ``request_timeout``.

        Ends when there are none.
        """
        while self._unstored:
            await trio.sleep(_LOOK_EVERY_S)
            now = trio.current_time()
            for unstored in list(self._unstored.values()):
                within_s = self._remote.view(unstored.target).request_timeout_s
                if unstored.is_recovering:
                    continue  # that has limits of its own
                if now - unstored.reported_at >= within_s:
                    self._give_up(unstored, RemoteError(errno.ETIMEDOUT, "write"))
        self._is_watched = False


def _cut_off() -> SessionLostError:
    """Return the error of a write whose session was over before it was sent."""
    return SessionLostError("the session was lost")
