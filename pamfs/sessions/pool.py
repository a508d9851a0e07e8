"""All sessions of a mount, lent to its requests: a ``TreeSource`` of ``vfs``.

    async with trio.open_nursery() as nursery:
        logins = LoginSteps(WireLogins(wires, ...), ...)  # login.steps
        pool = Pool(nursery, config.tenants, logins)
        pool.on_open(measure)                   # sync; a session opened
        pool.on_forget(drop_caches)             # sync; a session is over
        pool.on_drain(store_dirty_data)         # async; a lease is about to end
        ...
        lost = await pool.close(deadline_s=10)  # on umount, after the dirty data
        # the pool's own tasks end with its sessions: the nursery can now end

Invariant: one ``Session`` per target, made by the first want and kept. A target
has at most ``max_callers`` callers inside; the next one gets EBUSY at once, so
that a device that hangs uses up nothing that another device needs. If they waited for a
slot instead, they would fill the kernel's queue.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from errno import EBUSY
from types import TracebackType
from typing import Final

import trio

from pamfs.config import TenantConfig
from pamfs.errors import NameRefusedError, PamfsError
from pamfs.model import Caller, Target
from pamfs.sessions.account.clock import time_of_day
from pamfs.sessions.attempt import Logins
from pamfs.sessions.guard import Guard, GuardRefusal, NoGuard
from pamfs.sessions.machine import State
from pamfs.sessions.notices import Notices
from pamfs.sessions.open_session import SessionContext
from pamfs.sessions.session import Session, TargetStatus
from pamfs.transport.base import RemoteTree

log = logging.getLogger(__name__)

# More than the kernel sends for one device that works (``max_background`` in
# fuse/kernel.py, and one for each blocked process), less than pyfuse3's tasks
# (``MAX_TASKS`` in app/mount.py).
MAX_CALLERS: Final = 512


class CrowdedError(PamfsError):
    """Too many requests wait for one target already."""

    code = EBUSY


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """Sessions by state, and callers that hold or wait for one."""

    sessions: Mapping[str, int]
    callers: int
    logins: int


class Loan(AbstractAsyncContextManager[RemoteTree]):
    """One caller's loan of a session; it begins and ends with ``async with``.

    A class, because each request of the kernel makes one and a generator costs
    several times as much. An open session is borrowed without any further call:
    the guard is only called for programs that it watches.
    """

    __slots__ = (
        "_caller",
        "_is_admitted",
        "_is_reconnect",
        "_pool",
        "_session",
        "_target",
    )

    def __init__(
        self, pool: Pool, target: Target, caller: Caller, *, is_reconnect: bool
    ) -> None:
        self._pool = pool
        self._target = target
        self._caller = caller
        self._is_admitted = False
        self._is_reconnect = is_reconnect
        self._session: Session | None = None

    async def __aenter__(self) -> RemoteTree:
        session = self._pool.sessions.get(self._target)
        tree = None if session is None else session.tree
        if session is None or tree is None:
            return await self._open()
        if self._caller.pid in self._pool.guard.watched:
            self._pool.guard.arrives(self._caller)
        if session.use.loans >= self._pool.max_callers:
            raise self._pool.crowded(session)
        session.use.loans += 1
        session.use.programs[self._caller.pid] = None
        self._session = session
        return tree

    async def _open(self) -> RemoteTree:
        """Wait for the session to open, which makes a login if need be."""
        lost = self._pool.sessions.get(self._target)
        if lost is not None and lost.is_continued_by(self._caller):
            self._is_reconnect = True
        if not self._is_reconnect:
            await self._pool.guard.admit(self._target, self._caller)
            self._is_admitted = True
        elif self._caller.pid in self._pool.guard.watched:
            self._pool.guard.arrives(self._caller)
        try:
            session = self._pool.session_with_room(self._target)
            session.use.loans += 1
            session.use.programs[self._caller.pid] = None
            self._session = session
            wait = session.reconnected if self._is_reconnect else session.link_for
            return (await wait(self._caller)).tree
        except BaseException:
            self._end()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._session is not None:
            self._session.use.release()
        if self._is_admitted or self._caller.pid in self._pool.guard.watched:
            self._pool.guard.leaves(self._caller)


class Pool:
    """Lends sessions; a ``TreeSource``. Its work runs in ``nursery``."""

    def __init__(
        self,
        nursery: trio.Nursery,
        tenants: Mapping[str, TenantConfig],
        logins: Logins,
        *,
        max_callers: int = MAX_CALLERS,
        now: Callable[[], float] = time_of_day,
    ) -> None:
        self._tenants = tenants
        self.guard: Guard = NoGuard()
        self.max_callers = max_callers
        self.sessions: dict[Target, Session] = {}
        self._open_hooks: list[Callable[[Target], object]] = []
        self._forget_hooks: list[Callable[[Target], object]] = []
        self._revoke_hooks: list[Callable[[Target], object]] = []
        self._drain_hooks: list[Callable[[Target], Awaitable[object]]] = []
        self._settle_hooks: list[Callable[[], Awaitable[object]]] = []
        self._waiting_bytes: Callable[[Target], int] = lambda _: 0
        self.notices = Notices()
        self._is_closed = False
        self._context = SessionContext(
            nursery=nursery,
            logins=logins,
            now=now,
            announce=self._announce,
            forget=self._forget,
            revoke=self._revoke,
            drain=self._drain,
            settle=self._settle,
            notices=self.notices,
            waiting_bytes=self._count_waiting,
        )

    def lend(
        self, target: Target, caller: Caller, *, is_reconnect: bool = False
    ) -> Loan:
        """Lend the session of ``target``, opening it first if need be.

        However many want it at once, one attempt is on the wire. Raises
        ``LoginError`` when that attempt fails, ``CoolingError`` at once after it,
        ``CrowdedError`` when too many are waiting, ``GuardRefusedError`` when
        ``caller`` may not be the one to open it.
        """
        return Loan(self, target, caller, is_reconnect=is_reconnect)

    def session_with_room(self, target: Target) -> Session:
        """Return the session of ``target``, if one more caller may wait for it."""
        session = self._session(target)
        if session.use.loans >= self.max_callers:
            raise self.crowded(session)
        return session

    def crowded(self, session: Session) -> CrowdedError:
        """Return the error for one caller too many."""
        count = session.use.loans
        return CrowdedError(f"{session.target}: {count} requests are waiting")

    async def unlock(self, target: Target, caller: Caller) -> None:
        """Open the session of ``target`` now, cooling or not; ``caller`` is asked."""
        session = self._session(target)
        session.unlock(caller)
        with session.use:  # a person named the target: the guard is not asked
            await session.link_for(caller)

    def is_read_only(self, target: Target) -> bool:
        """Whether changes are refused because the lease is about to end."""
        session = self.sessions.get(target)
        return session is not None and session.is_read_only

    def ready(self, target: Target) -> RemoteTree | None:
        """Return the open session's tree, or None; never dials, never waits."""
        session = self.sessions.get(target)
        return None if session is None else session.tree

    def note_listing(self, tenant: str, caller: Caller) -> None:
        """Report to the guard that ``caller`` listed ``tenant``."""
        self.guard.note_listing(tenant, caller)

    def guard_with(self, guard: Guard) -> None:
        """Have ``guard`` admit callers to closed targets; the default admits all."""
        self.guard = guard

    def refusals(self) -> Sequence[GuardRefusal]:
        """Return the guard's refusals, the latest last."""
        return self.guard.refusals()

    def pin(self, target: Target) -> None:
        """Count one more open file; a target with open files is never idle."""
        self._session(target).use.pin(+1)

    def unpin(self, target: Target) -> None:
        """Count one open file less."""
        self._session(target).use.pin(-1)

    def on_open(self, hook: Callable[[Target], object]) -> None:
        """Have ``hook`` called whenever a session opened, before any loan of it."""
        self._open_hooks.append(hook)

    def on_forget(self, hook: Callable[[Target], object]) -> None:
        """Have ``hook`` called whenever a session is over, however it ended."""
        self._forget_hooks.append(hook)

    def on_drain(self, hook: Callable[[Target], Awaitable[object]]) -> None:
        """Have ``hook`` awaited before a lease ends: store what is dirty."""
        self._drain_hooks.append(hook)

    def on_revoke(self, hook: Callable[[Target], object]) -> None:
        """Call ``hook`` when the open files of a target become stale for good."""
        self._revoke_hooks.append(hook)

    def count_waiting_with(self, count: Callable[[Target], int]) -> None:
        """Have ``count`` say how many bytes wait to be stored, for a reconnection."""
        self._waiting_bytes = count

    def on_settle(self, hook: Callable[[], Awaitable[object]]) -> None:
        """Await ``hook`` at the end of a session, until caches are dropped.

        At most a few seconds (``open_session``).
        """
        self._settle_hooks.append(hook)

    def targets(self) -> Sequence[Target]:
        """Return every target that was ever wanted."""
        return tuple(self.sessions)

    def status(self) -> list[TargetStatus]:
        """Return the status of each target that was requested in this mount."""
        return [session.status() for session in self.sessions.values()]

    def statistics(self) -> PoolStatistics:
        """Return counts over all sessions."""
        sessions = self.sessions.values()
        return PoolStatistics(
            sessions=Counter(session.state.name.lower() for session in sessions),
            callers=sum(session.use.loans for session in sessions),
            logins=sum(session.logins for session in sessions),
        )

    async def end(self, target: Target) -> None:
        """Close the session of ``target`` now; the next want opens a new one."""
        if session := self.sessions.get(target):
            session.end(for_good=False)
            await session.wait_closed()

    def stop_opening(self) -> None:
        """Give up every login under way, and begin none again; the mount is ending."""
        self._is_closed = True
        for session in self.sessions.values():
            if session.tree is None:
                session.end(for_good=True)
            else:
                session.retire()

    async def close(self, deadline_s: float) -> tuple[Target, ...]:
        """Close every session and lend none again; return those still closing."""
        self._is_closed = True
        for session in self.sessions.values():
            session.end(for_good=True)
        with trio.CancelScope(shield=True) as scope:
            scope.deadline = trio.current_time() + deadline_s
            for session in self.sessions.values():
                await session.wait_closed()
        return tuple(
            target
            for target, session in self.sessions.items()
            if session.state is State.CLOSING
        )

    def _session(self, target: Target) -> Session:
        session = self.sessions.get(target)
        if session is None:
            session = self._new_session(target)
            self.sessions[target] = session
        return session

    def _new_session(self, target: Target) -> Session:
        tenant = self._tenants.get(target.tenant)
        if tenant is None:
            raise NameRefusedError(f"no tenant is called {target.tenant!r}")
        session = Session(target, tenant, self._context)
        if self._is_closed:
            session.end(for_good=True)
        return session

    def _announce(self, target: Target) -> None:
        for hook in self._open_hooks:
            try:
                hook(target)
            except Exception:
                log.exception("%s: announcing an open session failed", target)

    def _forget(self, target: Target) -> None:
        for hook in self._forget_hooks:
            try:
                hook(target)
            except Exception:
                log.exception("%s: dropping what was cached failed", target)

    def _revoke(self, target: Target) -> None:
        for hook in self._revoke_hooks:
            try:
                hook(target)
            except Exception:
                log.exception("%s: closing what is open failed", target)

    def _count_waiting(self, target: Target) -> int:
        return self._waiting_bytes(target)

    async def _settle(self) -> None:
        for hook in self._settle_hooks:
            await hook()

    async def _drain(self, target: Target) -> None:
        for hook in self._drain_hooks:
            try:
                await hook(target)
            except Exception:
                log.exception("%s: storing data before the lease ends failed", target)
