"""The session of one target: drives the table of ``sessions.machine``.

A ``Session`` is the table's state plus at most one of two things: an attempt under way
(``_RunningAttempt``) or an open link (``OpenSession``); and a ``Cooldown``, which knows
what failed before. What happens to them comes back as an event. Only ``_feed`` changes
the state, only with a row of the table; then it carries out the actions of the row, in
their order. No action waits: what takes time runs in the pool's nursery and ends with
an event.

Who may change what:

- ``_opening`` is set by ``link_for`` and cleared by the end of ``_run``, the task of
  the attempt. That task alone feeds ``OPENED``, ``DECLINED``, ``REFUSED`` and
  ``FAILED``.
- ``_open`` is set by the end of a successful attempt and cleared by ``HANG_UP``.
  Reports of an earlier link are dropped.
- ``tree`` is the link's files exactly while the state is one of ``_OPEN``. Each request
  of the kernel reads it (``Pool.ready``, ``Loan``), so it is a plain attribute.

A caller only waits for the attempt. Cancelling a caller does not cancel the attempt,
unless a person is being asked and no other caller waits.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

import outcome
import trio

from pamfs.config import SessionConfig, TenantConfig
from pamfs.descriptors import shortage_of
from pamfs.errors import (
    CoolingError,
    DeclinedError,
    LoginClosedError,
    LoginError,
    NoDescriptorError,
    PamfsError,
    SessionLostError,
    ungrouped,
)
from pamfs.model import Caller, Target
from pamfs.sessions.account.policy import (
    Reconnect,
    as_login_error,
    concerns,
    event_of,
    is_waited_out,
    plan_brief_cooldown,
    plan_cooldown,
)
from pamfs.sessions.attempt import Attempt, Callers, Link, Login, PausableDeadline
from pamfs.sessions.machine import Do, Event, State, step
from pamfs.sessions.open_session import OpenSession, SessionContext, Use, hang_up
from pamfs.tasks import AbandonedError, Flight
from pamfs.transport.base import RemoteTree

log = logging.getLogger(__name__)

# A target backs off if its server breaks the protocol again within this time: otherwise
# each access would cause a login and use a code.
BROKEN_AGAIN_S: Final = 60.0
_OPEN: Final = frozenset({State.READY, State.DRAINING, State.READ_ONLY})
# In these states nothing was sent to the account, so an attempt without callers is
# ended.
_UNCOUNTED: Final = frozenset({State.ASKING, State.WAITING_CODE})
# A report that arrives in another state is outdated and ignored. An idle session
# whose lease is about to end is closed by the lease soon enough.
_ONLY_IN: Final[Mapping[Event, State]] = {
    Event.IDLE_EXPIRED: State.READY,
    Event.DRAINED: State.DRAINING,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetStatus:
    """What ``pamfs status`` says of one target. Instants: seconds since the epoch."""

    tenant: str
    target: str
    state: str
    since: float
    lease_expires_at: float | None
    open_files: int
    bytes_read: int = 0  # by programs, counted in the tree
    bytes_written: int = 0
    logins: int
    host_key: str | None
    last_error: str | None
    awaiting: str | None = None


@dataclass(frozen=True, slots=True)
class _RunningAttempt:
    """An attempt under way, and what its callers wait for."""

    attempt: Attempt
    login: Login
    flight: Flight[Link] = field(default_factory=Flight)


class Cooldown:
    """When a target may be dialled again: its back-off after failures.

    A refusal backs off longer each time, for it may count against an account; silence
    backs off briefly, and behind a lost session on the schedule of ``Reconnect``. A
    server that broke the protocol twice within ``BROKEN_AGAIN_S`` backs off as after a
    refusal. ``on_over`` is called at the end of a back-off that was not stopped.
    """

    def __init__(
        self,
        config: SessionConfig,
        nursery: trio.Nursery,
        on_over: Callable[[], object],
    ) -> None:
        self.must_rest = False  # the server broke the protocol twice in a row
        self._cooldown_s = config.cooldown_s
        self._nursery = nursery
        self._on_over = on_over
        self._refusals = 0
        self._broken_at = -math.inf
        self._reconnect = Reconnect(config.reconnect_s)
        self._scope = trio.CancelScope()
        self._over = trio.Event()

    @property
    def left_s(self) -> float:
        """Return how long the back-off still lasts."""
        return max(0.0, self._scope.deadline - trio.current_time())

    def waits_out(self, error: PamfsError | None) -> bool:
        """Whether a program with open files waits, after ``error``, for a new try."""
        return self._reconnect.is_due and is_waited_out(error)

    def opened(self) -> None:
        """Count refusals from zero: the session opened."""
        self._refusals = 0
        self.must_rest = False
        self._reconnect.end()

    @property
    def is_behind_loss(self) -> bool:
        """Whether the session was lost lately, and none was opened since."""
        return self._reconnect.is_due

    def is_continued_by(self, caller: Caller) -> bool:
        """Whether ``caller`` used the session that was lost lately: it goes on."""
        return self._reconnect.is_due and self._reconnect.is_for(caller.pid)

    def lost(self, programs: AbstractSet[int], *, is_broken: bool) -> None:
        """Note the loss of the session, which the processes ``programs`` used lately.

        ``is_broken``: it ended by a breach of the protocol.
        """
        now = trio.current_time()
        self.must_rest = is_broken and now - self._broken_at < BROKEN_AGAIN_S
        if is_broken:
            self._broken_at = now
        self._reconnect.begin(programs)

    def refused(self, error: PamfsError | None) -> None:
        """Back off after a refusal."""
        self._refusals += 1
        self._begin(plan_cooldown(self._refusals, self._cooldown_s, error))

    def unanswered(self, error: PamfsError | None) -> None:
        """Back off after an attempt that no account counted."""
        if self.waits_out(error):
            self._begin(self._reconnect.next_pause_s())
        else:
            self._begin(plan_brief_cooldown(self._cooldown_s, error))

    def _begin(self, seconds: float) -> None:
        self._scope = trio.CancelScope(deadline=trio.current_time() + seconds)
        self._over = trio.Event()
        self._nursery.start_soon(self._run, self._scope, self._over)

    async def _run(self, scope: trio.CancelScope, over: trio.Event) -> None:
        with scope:
            await trio.sleep_forever()
        # One that was stopped may be followed by another before this task runs.
        if scope is self._scope:
            self._on_over()
        over.set()

    def stop(self) -> None:
        """End the back-off now."""
        self._scope.cancel()

    async def wait_over(self) -> None:
        """Return when the back-off is over."""
        await self._over.wait()


class Session:
    """The session of one target, open or not."""

    def __init__(
        self, target: Target, tenant: TenantConfig, context: SessionContext
    ) -> None:
        self.target = target
        self.tenant = tenant
        self.logins = 0
        self.tree: RemoteTree | None = None
        self.use = Use(tenant.session.idle_close_s)
        self._context = context
        self._state = State.ABSENT
        self._since = context.now()
        self._opening: _RunningAttempt | None = None
        self._open: OpenSession | None = None
        self._closed = trio.Event()
        self._cooldown = Cooldown(tenant.session, context.nursery, self._rested)
        self._error: PamfsError | None = None
        self._host_key: str | None = None
        self._is_retired = False
        self._carry_out: Final[dict[Do, Callable[[], None]]] = {
            Do.LOG_IN: self._log_in,
            Do.ABANDON: self._abandon,
            Do.ANNOUNCE: self._announce,
            Do.WAKE_WAITERS: self._wake_waiters,
            Do.FAIL_WAITERS: self._fail_waiters,
            Do.WATCH: self._start_watch,
            Do.DRAIN: self._drain,
            Do.REVOKE: self._revoke,
            Do.FORGET: self._forget,
            Do.HANG_UP: self._hang_up,
            Do.COOL_DOWN: self._cool_down,
            Do.COOL_BRIEFLY: self._cool_briefly,
            Do.STOP_COOLING: self._stop_cooling,
            Do.LET_IN: self._let_in,
        }

    # -- for the pool --------------------------------------------------------------

    @property
    def state(self) -> State:
        """Return the machine's state."""
        return self._state

    @property
    def is_read_only(self) -> bool:
        """Whether no change is accepted any more."""
        return self._state is State.READ_ONLY

    async def link_for(self, caller: Caller) -> Link:
        """Return the open link, opening it first if need be; at most one attempt.

        Raises ``CoolingError`` at once after a failure, ``LoginError`` when the
        attempt that the caller waits for fails.
        """
        await self.wait_closed()
        # No await between here and ``join``: the state is that of this moment.
        if self._open is not None:
            return self._open.link
        if self._is_retired:
            raise AbandonedError("the mount is ending")
        if self._state is State.COOLING:
            if concerns(self._error, caller):
                raise self._still_cooling()
            self._feed(Event.UNLOCKED)
        opening = self._opening or self._begin(caller)
        self._feed(Event.WANTED)
        opening.attempt.callers.join(caller)
        try:
            return await opening.flight.wait_landed()
        finally:
            # On every way out, with the link as well. Another attempt may have begun
            # since this one ended: that one is not this caller's to end.
            is_asking = opening.attempt.callers.leave(caller)
            if opening is self._opening and (is_asking or self._is_deserted(opening)):
                await self._forsake(opening)

    def is_continued_by(self, caller: Caller) -> bool:
        """Whether ``caller`` goes on with a session that was lost: it used it."""
        return self._cooldown.is_continued_by(caller)

    async def reconnected(self, caller: Caller) -> Link:
        """As ``link_for``, for open files: retry while the proxy is unreachable.

        Waits for ``reconnect`` from the loss of the session on; a refusal ends it.
        """
        while True:
            try:
                return await self.link_for(caller)
            except LoginError as exc:
                if not self._cooldown.waits_out(exc):
                    raise
            except CoolingError as exc:
                if not self._cooldown.waits_out(exc.cause):
                    raise
            if self._state is State.COOLING:
                await self._cooldown.wait_over()

    def unlock(self, caller: Caller) -> None:
        """End the cooldown; open questions are asked of ``caller`` from now on."""
        if self._state is State.COOLING:
            self._feed(Event.UNLOCKED)
        if self._opening is not None:
            self._opening.attempt.callers.pass_to(caller)

    def retire(self) -> None:
        """Open no new session; the current one ends by itself."""
        self._is_retired = True

    def end(self, *, for_good: bool) -> None:
        """Close the session, whatever it is doing; ``for_good``: open none again."""
        self._is_retired = for_good
        self._cooldown.must_rest = False
        self._feed(Event.ENDED)

    async def wait_closed(self) -> None:
        """Wait until nothing of a closed session is left at the PAM."""
        while self._state is State.CLOSING:
            await self._closed.wait()

    def status(self) -> TargetStatus:
        """Return the record that ``pamfs status`` shows."""
        awaiting = self._opening.attempt.awaiting if self._opening else ""
        return TargetStatus(
            tenant=self.target.tenant,
            target=str(self.target).partition("/")[2],
            state=self._state.name.lower().replace("_", "-"),
            since=self._since,
            lease_expires_at=self._open.lease_expires_at if self._open else None,
            open_files=self.use.pins,
            logins=self.logins,
            host_key=self._host_key,
            last_error=None if self._error is None else str(self._error),
            awaiting=awaiting or None,
        )

    # -- the driver of the table -----------------------------------------------------

    def _feed(self, event: Event) -> None:
        before = self._state
        self._state, actions = step(before, event)
        if self._state is not before:
            self._since = self._context.now()
            log.info(
                "%s: %s, %s -> %s",
                self.target,
                event.name.lower(),
                before.name.lower(),
                self._state.name.lower(),
            )
        # Before the actions: a hook that they call sees the session as it is now.
        is_open = self._state in _OPEN
        self.tree = self._open.link.tree if is_open and self._open else None
        for action in actions:
            self._carry_out[action]()

    # -- an attempt --------------------------------------------------------------------

    def _begin(self, caller: Caller) -> _RunningAttempt:
        tenant, limits = self.tenant, self.tenant.session
        deadline = PausableDeadline(limits.connect_timeout_s, limits.login_timeout_s)
        notify = self._context.notices.about(self.target, is_urgent=False)
        callers = Callers(caller)
        attempt = Attempt(self.target, tenant, callers, deadline, notify=notify)
        attempt.reconnection = self._reconnection
        self._opening = _RunningAttempt(attempt, self._context.logins.begin(attempt))
        return self._opening

    def _reconnection(self) -> str:
        """Return a line for a person if the login replaces a lost session; or nothing.

        The question names the program that waits for it.
        """
        if not self._cooldown.is_behind_loss:
            return ""
        waiting = self._context.waiting_bytes(self.target)
        stored = f"; {waiting} bytes wait to be stored" if waiting else ""
        return f"reconnection: the session was lost{stored}"

    def _log_in(self) -> None:
        if self._opening is not None:
            self._context.nursery.start_soon(self._run, self._opening)

    async def _run(self, opening: _RunningAttempt) -> None:
        """Run the attempt to its end, and feed what it ended with."""
        event, link = Event.OPENED, None
        try:
            link = await self._within_deadline(opening)
        except LoginError as exc:
            event = event_of(exc, is_dialing=self._state is State.DIALING)
            self._failed(exc)
        finally:
            if link is None:
                await opening.login.close()
        # The event comes last but one: its actions wake or fail those who wait for
        # ``_opening``, and a new attempt may begin once it is None.
        if link is not None:
            self._opened(link)
        self._feed(event)
        self._opening = None

    async def _within_deadline(self, opening: _RunningAttempt) -> Link:
        """Log in; every failure is a ``LoginError``."""
        link = None
        try:
            with opening.attempt.deadline.limit(), ungrouped():
                link = await opening.login.run(self._reached)
        except PamfsError as exc:
            raise shortage_of(exc) or as_login_error(exc) from None
        except Exception as exc:
            if (shortage := shortage_of(exc)) is not None:
                raise shortage from None
            log.exception("%s: a login failed with an internal error", self.target)
            raise LoginError(f"internal error: {type(exc).__name__}") from None
        if link is None:
            raise opening.attempt.lateness()
        return link

    async def _reached(self, event: Event) -> None:
        self._feed(event)
        # An attempt that was abandoned meanwhile goes no further.
        await trio.lowlevel.checkpoint_if_cancelled()

    def _failed(self, error: LoginError) -> None:
        if self._state is State.CLOSING:
            return  # it was abandoned: its end is no error of the session
        self._error = as_login_error(error)
        # A lack of descriptors is in the log already, once a minute.
        is_logged = isinstance(error, NoDescriptorError)
        level = logging.DEBUG if is_logged else logging.WARNING
        log.log(level, "%s: %s", self.target, error)

    def _opened(self, link: Link) -> None:
        self._open = OpenSession(self.target, link, self._context, self._on_report)
        self._host_key = link.host_key
        self._error = None
        self._cooldown.opened()
        self.logins += 1

    def _abandon(self) -> None:
        kind = AbandonedError if self._is_retired else LoginClosedError
        self._error = kind(f"{self.target} was closed before the login")
        if self._opening is not None:
            self._opening.attempt.deadline.cancel()

    def _is_deserted(self, opening: _RunningAttempt) -> bool:
        return self._state in _UNCOUNTED and not opening.attempt.callers.is_wanted

    async def _forsake(self, opening: _RunningAttempt) -> None:
        """End an attempt without callers; return when its terminal is clean."""
        # After the event: ``_abandon`` sets the error of a target that was closed.
        self._feed(Event.DESERTED)
        self._error = DeclinedError("the program that wanted it left before the answer")
        await opening.attempt.callers.wait_quiet()

    def _wake_waiters(self) -> None:
        if self._opening is not None and self._open is not None:
            self._opening.flight.land(outcome.Value(self._open.link))

    def _fail_waiters(self) -> None:
        if self._opening is not None:
            error = self._error or AbandonedError("closed")
            self._opening.flight.land(outcome.Error(error))

    # -- an open link ------------------------------------------------------------------

    def _on_report(self, opened: OpenSession, event: Event, why: str) -> None:
        if opened is not self._open:
            return  # of a link that is over
        if self._state is not _ONLY_IN.get(event, self._state):
            return
        if event is Event.LOST:
            self._cooldown.lost(self.use.recent(), is_broken=opened.is_broken)
            self._error = SessionLostError(f"the session was lost: {why}")
            log.warning("%s: %s", self.target, self._error)
        self._feed(event)

    def _announce(self) -> None:
        self._context.announce(self.target)

    def _start_watch(self) -> None:
        if self._open is not None:
            self._context.nursery.start_soon(self._open.watch, self.use)

    def _drain(self) -> None:
        if self._open is not None:
            self._context.nursery.start_soon(self._open.drain)

    def _revoke(self) -> None:
        self._context.revoke(self.target)

    def _forget(self) -> None:
        if self._open is not None:
            self._open.stop_watching()
        self._context.forget(self.target)

    def _hang_up(self) -> None:
        if self._open is not None:
            self._context.nursery.start_soon(self._hang_up_link, self._open)
            self._open = None

    async def _hang_up_link(self, opened: OpenSession) -> None:
        settle = None if opened.is_lost else self._context.settle
        await hang_up(self.target, opened.link, settle)
        self._feed(Event.REST_DUE if self._cooldown.must_rest else Event.HUNG_UP)

    def _let_in(self) -> None:
        self._closed.set()
        self._closed = trio.Event()

    # -- the cooldown ------------------------------------------------------------------

    def _cool_down(self) -> None:
        self._cooldown.refused(self._error)

    def _cool_briefly(self) -> None:
        self._cooldown.unanswered(self._error)

    def _stop_cooling(self) -> None:
        self._cooldown.stop()

    def _rested(self) -> None:
        if self._state is State.COOLING:
            self._feed(Event.RESTED)

    def _still_cooling(self) -> CoolingError:
        error = self._error or LoginError("unknown")
        left_s = self._cooldown.left_s
        return CoolingError(str(self.target), left_s, as_login_error(error))
