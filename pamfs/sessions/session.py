"""The session of one target: drives the machine, and does what its rows say.

Only ``_feed`` changes the state, and only with a row of the table. The work
(attempt, watch, hang-up, cooling) runs in the pool's nursery; a caller only waits
for it, and takes only itself away.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final

import outcome
import trio

from pamfs.config import TenantConfig
from pamfs.errors import (
    CoolingError,
    DeclinedError,
    LoginClosedError,
    LoginError,
    PamfsError,
    ProtocolBrokenError,
    SessionLostError,
    ungrouped,
)
from pamfs.model import Caller, Target
from pamfs.sessions.cooling import (
    as_login_error,
    concerns,
    event_of,
    plan_brief_cooldown,
    plan_cooldown,
)
from pamfs.sessions.dial import Attempt, Link, Login
from pamfs.sessions.hangup import hang_up
from pamfs.sessions.idleness import Use
from pamfs.sessions.leases import LeaseWatch
from pamfs.sessions.machine import Do, Event, State, step
from pamfs.sessions.patience import Patience
from pamfs.sessions.status import TargetStatus
from pamfs.sessions.surroundings import Surroundings
from pamfs.sessions.waiters import Waiters
from pamfs.tasks import AbandonedError, Flight
from pamfs.transport.base import RemoteTree

log = logging.getLogger(__name__)

# A server that breaks the protocol again within so long is given a rest: each access
# would cost a login, and its code.
BROKEN_AGAIN_S: Final = 60.0
_OPEN: Final = frozenset({State.READY, State.DRAINING, State.READ_ONLY})
# Nobody's account is counted against here: without a caller there is no attempt.
_UNCOUNTED: Final = frozenset({State.ASKING, State.WAITING_CODE})


class Session:
    """The session of one target, open or not."""

    def __init__(
        self, target: Target, tenant: TenantConfig, around: Surroundings
    ) -> None:
        self.target = target
        self.tenant = tenant
        self.logins = 0
        # The files, exactly while the state is one of ``_OPEN``: kept by ``_feed``.
        self.tree: RemoteTree | None = None
        self.use = Use(tenant.idle_close_s)
        self._around = around
        self._state = State.ABSENT
        self._since = around.now()
        self._attempt: Attempt | None = None
        self._login: Login | None = None
        self._flight: Flight[Link] = Flight()
        self._waiters = Waiters()
        self._door = trio.Event()
        self._link: Link | None = None
        self._watch = trio.CancelScope()
        self._lease: LeaseWatch | None = None
        self._cooling = trio.CancelScope()
        self._error: PamfsError | None = None
        self._refusals = 0
        self._host_key: str | None = None
        self._is_retired = False
        # When a server last broke the protocol, and whether that was twice in a row.
        self._broken_at = -math.inf
        self._must_rest = False
        self._carry_out: Final[dict[Do, Callable[[], None]]] = {
            Do.ASK: self._ask,
            Do.OBTAIN_CODE: self._obtain_code,
            Do.DIAL: self._dial,
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

    # -- what the pool asks ------------------------------------------------------

    @property
    def state(self) -> State:
        """Return the machine's state."""
        return self._state

    @property
    def loans(self) -> int:
        """Return how many callers hold the session or wait for it."""
        return self.use.loans

    @property
    def is_read_only(self) -> bool:
        """Whether nothing may be changed any more."""
        return self._state is State.READ_ONLY

    async def link_for(self, caller: Caller) -> Link:
        """Return the open link, opening it first if need be; at most one attempt.

        Raises ``CoolingError`` at once after a failure, ``LoginError`` when the
        attempt that the caller waits for fails.
        """
        await self.wait_closed()
        if self._link is not None:
            return self._link
        if self._is_retired:
            raise AbandonedError("the mount is going away")
        if self._state is State.COOLING:
            if concerns(self._error, caller):
                raise self._still_cooling()
            self._feed(Event.UNLOCKED)
        if self._attempt is None:
            self._begin(caller)
        self._feed(Event.WANTED)
        self._waiters.come(caller, self._attempt)
        try:
            return await self._flight.wait_landed()
        finally:
            is_asking = self._waiters.leave(caller, self._attempt)
            if is_asking or self._is_deserted:
                await self._forsake()

    def unlock(self, caller: Caller) -> None:
        """End the cooling; let ``caller`` be asked what is being asked elsewhere."""
        if self._state is State.COOLING:
            self._feed(Event.UNLOCKED)
        if self._attempt is not None:
            self._attempt.pass_to(caller)

    def retire(self) -> None:
        """Let what is open end by itself, and open nothing again."""
        self._is_retired = True

    def end(self, *, for_good: bool) -> None:
        """Close the session, whatever it is doing; ``for_good``: open none again."""
        self._is_retired = for_good
        self._must_rest = False
        self._feed(Event.ENDED)

    async def wait_closed(self) -> None:
        """Wait until nothing of what was closed is left at the PAM."""
        while self._state is State.CLOSING:
            await self._door.wait()

    def status(self) -> TargetStatus:
        """Return what there is to say."""
        return TargetStatus(
            tenant=self.target.tenant,
            target=str(self.target).partition("/")[2],
            state=self._state.name.lower().replace("_", "-"),
            since=self._since,
            lease_expires_at=self._lease.expires_at if self._lease else None,
            open_files=self.use.pins,
            logins=self.logins,
            host_key=self._host_key,
            last_error=None if self._error is None else str(self._error),
            awaiting=(self._attempt.awaiting or None) if self._attempt else None,
        )

    # -- the machine's driver ----------------------------------------------------

    def _feed(self, event: Event) -> None:
        before = self._state
        self._state, actions = step(before, event)
        if self._state is not before:
            self._since = self._around.now()
            log.info(
                "%s: %s, %s -> %s",
                self.target,
                event.name.lower(),
                before.name.lower(),
                self._state.name.lower(),
            )
        is_open = self._state in _OPEN
        self.tree = self._link.tree if is_open and self._link else None
        for action in actions:
            self._carry_out[action]()

    def _begin(self, caller: Caller) -> None:
        tenant = self.tenant
        patience = Patience(tenant.connect_timeout_s, tenant.login_timeout_s)
        tell = self._around.notices.about(self.target, is_urgent=False)
        attempt = Attempt(self.target, tenant, caller, patience, tell=tell)
        self._login = self._around.dialer.begin(attempt)
        self._attempt = attempt
        self._flight = Flight()

    def _ask(self) -> None:
        if self._login is not None:
            self._start_stage(self._login.ask, Event.ANSWERED)

    def _obtain_code(self) -> None:
        if self._login is not None:
            self._start_stage(self._login.obtain_code, Event.CODE_OBTAINED)

    def _dial(self) -> None:
        if self._login is not None:
            self._start_stage(self._login.open, Event.OPENED)

    def _start_stage(
        self, stage: Callable[[], Awaitable[Link | None]], done: Event
    ) -> None:
        self._around.nursery.start_soon(self._run_stage, stage, done)

    async def _run_stage(
        self, stage: Callable[[], Awaitable[Link | None]], done: Event
    ) -> None:
        event, link, goes_on = done, None, False
        try:
            link = await self._within_patience(stage)
            goes_on = link is None and self._state is not State.CLOSING
        except LoginError as exc:
            event = event_of(exc, is_dialing=done is Event.OPENED)
            self._failed(exc)
        finally:
            if link is None and not goes_on and self._login is not None:
                await self._login.close()
        if link is not None:
            self._opened(link)
        if not goes_on:
            self._attempt = self._login = None
        self._feed(event)

    async def _within_patience(
        self, stage: Callable[[], Awaitable[Link | None]]
    ) -> Link | None:
        """Run ``stage``; whatever goes wrong is a ``LoginError``."""
        attempt = self._attempt
        assert attempt is not None  # noqa: S101 - a stage runs only in an attempt
        link = None
        try:
            with attempt.patience.limit() as scope, ungrouped():
                link = await stage()
        except PamfsError as exc:
            raise as_login_error(exc) from None
        except Exception as exc:
            log.exception("%s: a login ended in an error of ours", self.target)
            raise LoginError(f"internal error: {type(exc).__name__}") from None
        if scope.cancelled_caught:
            raise attempt.lateness()
        return link

    def _failed(self, error: LoginError) -> None:
        if self._state is State.CLOSING:
            return  # it was abandoned: how it ended is nobody's concern
        self._error = as_login_error(error)
        log.warning("%s: %s", self.target, error)

    def _opened(self, link: Link) -> None:
        self._link = link
        self._host_key = link.host_key
        self._error = None
        self._refusals = 0
        self.logins += 1

    def _abandon(self) -> None:
        kind = AbandonedError if self._is_retired else LoginClosedError
        self._error = kind(f"{self.target} was closed before the login")
        if self._attempt is not None:
            self._attempt.patience.end()

    @property
    def _is_deserted(self) -> bool:
        attempt = self._attempt
        is_early = self._state in _UNCOUNTED
        return is_early and attempt is not None and not attempt.is_wanted

    async def _forsake(self) -> None:
        """End an attempt that asks on behalf of nobody; its terminal is left clean."""
        attempt = self._attempt
        self._feed(Event.DESERTED)
        self._error = DeclinedError("whoever wanted in left before the answer")
        if attempt is not None:
            await attempt.wait_quiet()

    def _announce(self) -> None:
        self._around.announce(self.target)

    def _wake_waiters(self) -> None:
        if self._link is not None:
            self._flight.land(outcome.Value(self._link))

    def _fail_waiters(self) -> None:
        self._flight.land(outcome.Error(self._error or AbandonedError("closed")))

    def _start_watch(self) -> None:
        if (link := self._link) is not None:
            self._watch = trio.CancelScope()

            def feed(event: Event) -> None:
                if self._link is link:
                    self._feed(event)

            now, notices = self._around.now, self._around.notices
            warn = notices.about(self.target, is_urgent=True)
            self._lease = LeaseWatch(link, now, warn, feed)
            self._around.nursery.start_soon(self._watch_link, link, self._lease)

    async def _watch_link(self, link: Link, lease: LeaseWatch) -> None:
        with self._watch:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_loss, link)
                nursery.start_soon(self._watch_idleness, link)
                nursery.start_soon(lease.run)

    async def _watch_loss(self, link: Link) -> None:
        is_broken = False
        try:
            reason = await link.wait_lost()
        except ProtocolBrokenError as exc:
            reason, is_broken = str(exc), True
        if self._link is link:
            self._note_broken(is_broken=is_broken)
            self._error = SessionLostError(f"the session was lost: {reason}")
            log.warning("%s: %s", self.target, self._error)
            self._feed(Event.LOST)

    def _note_broken(self, *, is_broken: bool) -> None:
        """Have the target rest if its server broke the protocol twice in a minute."""
        now = trio.current_time()
        self._must_rest = is_broken and now - self._broken_at < BROKEN_AGAIN_S
        if is_broken:
            self._broken_at = now

    async def _watch_idleness(self, link: Link) -> None:
        await self.use.wait_idle()
        # A lease that is about to end closes the session soon enough.
        if self._link is link and self._state is State.READY:
            self._feed(Event.IDLE_EXPIRED)

    def _drain(self) -> None:
        if self._link is not None:
            self._around.nursery.start_soon(self._drain_link, self._link)

    async def _drain_link(self, link: Link) -> None:
        plan = self._lease.plan if self._lease else None
        with trio.move_on_after(plan.drain_within_s if plan else 0):
            await self._around.drain(self.target)
        if self._link is link and self._state is State.DRAINING:
            self._feed(Event.DRAINED)

    def _revoke(self) -> None:
        self._around.revoke(self.target)

    def _forget(self) -> None:
        self._watch.cancel()
        self._lease = None
        self._around.forget(self.target)

    def _hang_up(self) -> None:
        if self._link is not None:
            self._around.nursery.start_soon(self._hang_up_link, self._link)
            self._link = None

    async def _hang_up_link(self, link: Link) -> None:
        await hang_up(self.target, link, self._around.settle)
        must_rest, self._must_rest = self._must_rest, False
        self._feed(Event.REST_DUE if must_rest else Event.HUNG_UP)

    def _let_in(self) -> None:
        self._door.set()
        self._door = trio.Event()

    def _cool_down(self) -> None:
        self._refusals += 1
        cooldown_s = self.tenant.cooldown_s
        self._cool(plan_cooldown(self._refusals, cooldown_s, self._error))

    def _cool_briefly(self) -> None:
        self._cool(plan_brief_cooldown(self.tenant.cooldown_s, self._error))

    def _cool(self, seconds: float) -> None:
        self._cooling = trio.CancelScope(deadline=trio.current_time() + seconds)
        self._around.nursery.start_soon(self._rest, self._cooling)

    async def _rest(self, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep_forever()
        if self._state is State.COOLING:
            self._feed(Event.RESTED)

    def _still_cooling(self) -> CoolingError:
        left_s = max(0.0, self._cooling.deadline - trio.current_time())
        error = self._error or LoginError("unknown")
        return CoolingError(str(self.target), left_s, as_login_error(error))

    def _stop_cooling(self) -> None:
        self._cooling.cancel()
