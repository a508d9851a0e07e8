"""A session that is open: its use, its lease, and the ways in which it ends.

An open session is watched for three ends: the connection is lost, no program used it
for ``idle_close``, or its lease ends. Each is reported as an event of the machine; only
``sessions.session`` decides what follows.

A lease with a known end is renewed at half of its remaining life, repeatedly, as long
as each renewal gives a later end. Without a renewal the users get a warning minutes
before the end (``WARN_BEFORE_S``), then what the kernel still holds is stored
(``LEASE_ENDING``), then the session is read-only, and it closes a moment before the PAM
would cut it (``LEASE_OVER``). For a short lease these times are shorter. Lease times
are seconds since the epoch, by the wall clock, so that they hold for a machine that
slept.

Invariant: hanging up is shielded and bounded by ``CLOSE_WITHIN_S``; after that the
operating system closes the connection.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import trio

from pamfs.errors import PamfsError, ProtocolBrokenError
from pamfs.model import Target
from pamfs.sessions.attempt import Link, Logins
from pamfs.sessions.machine import Event
from pamfs.sessions.notices import Notices

log = logging.getLogger(__name__)

CLOSE_WITHIN_S: Final = 5.0
# A person needs minutes to save what is open in an editor.
WARN_BEFORE_S: Final = 300.0
# Before this, data that the kernel still holds is stored.
DRAIN_BEFORE_S: Final = 30.0
# The PAM's clock may be a little ahead, and hanging up takes a moment.
CLOSE_BEFORE_S: Final = 2.0
# Draining may take this part of the time between ``drain_at`` and ``close_at``.
_DRAIN_PART: Final = 2 / 3
# A renewal must extend the lease by at least this; retries have at least this pause.
_LEAST_S: Final = 1.0
_RENEW_WITHIN_S: Final = 30.0
# CLOCK_MONOTONIC stops while the machine sleeps: compare the wall clock this often.
_LOOK_EVERY_S: Final = 30.0
# A program that used the session so lately goes on with it when it is lost.
RECENT_S: Final = 30.0
_MOST_PROGRAMS: Final = 1000


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What the sessions of a pool share.

    ``announce`` is called when a session opened, ``forget`` when it is over,
    ``revoke`` when what is open in it is over too; ``drain`` is awaited before a
    lease ends, ``settle`` until what was forgotten is gone. ``now`` is the time of
    day in seconds since the epoch, ``waiting_bytes`` what waits to be stored.
    """

    nursery: trio.Nursery
    logins: Logins
    notices: Notices
    now: Callable[[], float]
    announce: Callable[[Target], object]
    forget: Callable[[Target], object]
    revoke: Callable[[Target], object]
    drain: Callable[[Target], Awaitable[object]]
    settle: Callable[[], Awaitable[None]]
    waiting_bytes: Callable[[Target], int]


class Use:
    """Counts loans and open files; while there are any, the session is not idle.

    Each request of the kernel changes the counts, so they are plain attributes, and
    a request sets no timer: the end of the last use notes its instant, and
    ``wait_idle`` compares that with the time when it wakes. ``programs`` are the
    processes of the last ``RECENT_S`` or more, which a reconnect goes on for.
    """

    def __init__(self, close_after_s: float) -> None:
        self.loans = 0
        self.pins = 0
        self._close_after_s = close_after_s
        self._idle_since = -math.inf
        self._released = trio.Event()
        self.programs: dict[int, None] = {}
        self._earlier: dict[int, None] = {}
        self._turned_at = -math.inf

    def __enter__(self) -> None:
        """Count one loan more in the body."""
        self.loans += 1

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Count one loan less."""
        self.loans -= 1
        if not self.loans:
            self._note_end()

    def pin(self, count: int) -> None:
        """Add ``count`` to the open files."""
        self.pins += count
        self._note_end()

    def _note_end(self) -> None:
        self._idle_since = now = trio.current_time()
        self._released.set()
        if now - self._turned_at > RECENT_S or len(self.programs) > _MOST_PROGRAMS:
            self._earlier, self.programs, self._turned_at = self.programs, {}, now

    def recent(self) -> AbstractSet[int]:
        """Return the processes that used the session lately."""
        return self.programs.keys() | self._earlier.keys()

    async def wait_idle(self) -> None:
        """Return ``close_after_s`` after the last use."""
        self._idle_since = trio.current_time()
        while True:
            if self.loans or self.pins:
                self._released = trio.Event()
                await self._released.wait()
            elif (left_s := self._left_s) > 0:
                await trio.sleep(left_s)
            else:
                return

    @property
    def _left_s(self) -> float:
        return self._idle_since + self._close_after_s - trio.current_time()


@dataclass(frozen=True, slots=True)
class LeasePlan:
    """When to renew, warn, drain and close."""

    renew_at: float
    warn_at: float
    drain_at: float
    close_at: float
    expires_at: float

    @property
    def drain_within_s(self) -> float:
        """How long draining may take."""
        return (self.close_at - self.drain_at) * _DRAIN_PART


def plan_lease(now: float, expires_at: float) -> LeasePlan:
    """Return the plan for a lease granted at ``now``.

    Both are seconds since the epoch.
    """
    life_s = max(0.0, expires_at - now)
    return LeasePlan(
        renew_at=expires_at - life_s / 2,
        warn_at=expires_at - min(WARN_BEFORE_S, life_s / 2),
        drain_at=expires_at - min(DRAIN_BEFORE_S, life_s / 4),
        close_at=expires_at - min(CLOSE_BEFORE_S, life_s / 20),
        expires_at=expires_at,
    )


class LeaseWatch:
    """Follows the lease of one link, from its grant to its end."""

    def __init__(
        self,
        link: Link,
        now: Callable[[], float],
        warn: Callable[[str], object],
        feed: Callable[[Event], object],
    ) -> None:
        """``warn`` gives a notice, ``feed`` takes the machine's events."""
        self._link = link
        self._now = now
        self._warn = warn
        self._feed = feed
        self.plan: LeasePlan | None = None
        self._note(link.lease_expires_at)

    @property
    def expires_at(self) -> float | None:
        """Return the end of the lease as last granted; None: it is not known."""
        return None if self.plan is None else self.plan.expires_at

    async def run(self) -> None:
        """Renew while that is possible; then warn, drain and close.

        Without an end of the lease, return at once.
        """
        while self.plan is not None:
            await self._until(self.plan.renew_at)
            if not await self._renewed(self.plan):
                await self._end(self.plan)
                return

    async def _end(self, plan: LeasePlan) -> None:
        await self._until(plan.warn_at)
        self._warn(f"the lease ends at {clock(plan.expires_at)}: save your work")
        await self._until(plan.drain_at)
        self._feed(Event.LEASE_ENDING)
        await self._until(plan.close_at)
        self._warn("the lease is over: closed")
        self._feed(Event.LEASE_OVER)

    async def _renewed(self, plan: LeasePlan) -> bool:
        """Return whether there is a later end; retry while the vault is unreachable."""
        while True:
            try:
                with trio.fail_after(_RENEW_WITHIN_S):
                    later = await self._link.renew()
            except (PamfsError, trio.TooSlowError) as exc:
                log.warning("renewing a lease failed, trying again: %s", exc)
            except Exception:
                log.exception("renewing a lease failed with an internal error")
                return False
            else:
                return self._take_longer(plan, later)
            pause_s = (plan.warn_at - self._now()) / 2
            if pause_s < _LEAST_S:
                return False
            await self._until(self._now() + pause_s)

    def _take_longer(self, plan: LeasePlan, later: float | None) -> bool:
        if later is None or later - plan.expires_at < _LEAST_S:
            return False
        self._note(later)
        return True

    def _note(self, expires_at: float | None) -> None:
        if expires_at is not None:
            self.plan = plan_lease(self._now(), expires_at)

    async def _until(self, instant: float) -> None:
        # There is no timer on the wall clock.
        while (left_s := instant - self._now()) > 0:  # noqa: ASYNC110
            await trio.sleep(min(left_s, _LOOK_EVERY_S))


def clock(instant: float) -> str:
    """Return the local time of day of an instant."""
    return datetime.fromtimestamp(instant, UTC).astimezone().strftime("%H:%M:%S")


class OpenSession:
    """One link, from its login to the end of its hang-up."""

    def __init__(
        self,
        target: Target,
        link: Link,
        context: SessionContext,
        report: Callable[[OpenSession, Event, str], object],
    ) -> None:
        """``report`` takes each event of this session, and why it came."""
        self.link = link
        self.is_lost = False  # it ended by itself
        self.is_broken = False  # lost because the server broke the protocol
        self._target = target
        self._context = context
        self._report = report
        self._watch = trio.CancelScope()
        warn = context.notices.about(target, is_urgent=True)
        self._lease = LeaseWatch(link, context.now, warn, self._on_event)

    @property
    def lease_expires_at(self) -> float | None:
        """Return when the lease ends, in seconds since the epoch; None: unknown."""
        return self._lease.expires_at

    def _on_event(self, event: Event, why: str = "") -> None:
        self._report(self, event, why)

    async def watch(self, use: Use) -> None:
        """Report how the session ends, until ``stop_watching``."""
        with self._watch:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_loss)
                nursery.start_soon(self._watch_idleness, use)
                nursery.start_soon(self._lease.run)

    def stop_watching(self) -> None:
        """Report nothing any more."""
        self._watch.cancel()

    async def _watch_loss(self) -> None:
        try:
            why = await self.link.wait_lost()
        except ProtocolBrokenError as exc:
            why, self.is_broken = str(exc), True
        self.is_lost = True
        self._on_event(Event.LOST, why)

    async def _watch_idleness(self, use: Use) -> None:
        await use.wait_idle()
        self._on_event(Event.IDLE_EXPIRED)

    async def drain(self) -> None:
        """Store all dirty data, then report ``DRAINED``.

        At most for ``LeasePlan.drain_within_s``.
        """
        plan = self._lease.plan
        with trio.move_on_after(plan.drain_within_s if plan else 0):
            await self._context.drain(self._target)
        self._on_event(Event.DRAINED)


async def hang_up(
    target: Target, link: Link, settle: Callable[[], Awaitable[None]] | None
) -> None:
    """Close ``link``; wait, both at once, until caches have been dropped.

    ``settle`` is None after a lost session: dropping pages would wait for reads, which
    wait for the next session.
    """

    async def close() -> None:
        try:
            await link.close()
        except Exception:
            log.exception("%s: hanging up failed", target)

    with trio.CancelScope(shield=True) as scope:
        scope.deadline = trio.current_time() + CLOSE_WITHIN_S
        async with trio.open_nursery() as nursery:
            if settle is not None:
                nursery.start_soon(settle)
            nursery.start_soon(close)
