"""The leases that a mount holds: each is given back exactly once.

Law: a request is in the journal before the provider gets it, a grant before anything
uses it, and it leaves the journal only when the provider has taken it back. A give-back
that fails is tried again while the mount lives; after that the next mount finds it in
the journal.

A request to a provider is shielded from its caller's cancellation, because a grant must
not get lost; only the end of the mount bounds it (``ShieldedCalls.end_within``). What
is cut short then stays in the journal.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from pamfs.audit import Audit, NoAudit
from pamfs.errors import PamfsError, ungrouped
from pamfs.model import Target
from pamfs.sessions.checkout.base import (
    ASKED,
    Journal,
    JournalError,
    Lease,
    Provider,
)

log = logging.getLogger(__name__)


class ShieldedCalls:
    """The shields of all talks of a mount that are under way."""

    def __init__(self) -> None:
        self._scopes: set[trio.CancelScope] = set()
        self._deadline = math.inf
        self._quiet = trio.lowlevel.ParkingLot()

    @contextmanager
    def shield(self) -> Iterator[None]:
        """Run the body to its end; what follows runs also if it was cut short."""
        with trio.CancelScope(shield=True, deadline=self._deadline) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)
                if not self._scopes:
                    self._quiet.unpark_all()

    def end_within(self, seconds: float) -> None:
        """Let every talk, also one that begins later, last so long at most."""
        self._deadline = min(self._deadline, trio.current_time() + seconds)
        for scope in self._scopes:
            scope.deadline = self._deadline

    async def wait_over(self) -> None:
        """Wait until no talk is under way."""
        while self._scopes:
            await self._quiet.park()


# Shorter than a mount's patience at its end; a vault that is away is not waited for.
RELEASE_WITHIN_S: Final = 8.0
RELEASE_AGAIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Custody:
    """Every lease of a mount; work that outlives one is in ``nursery``.

    Two targets may be one account (two ports of a device) and so one lease: it
    goes back with the last of them. ``turn`` keeps a return that is under way from
    taking a new grant with it.
    """

    nursery: trio.Nursery
    journal: Journal
    audit: Audit = field(default_factory=NoAudit)
    held: set[HeldLease] = field(default_factory=set)
    returning: set[HeldLease] = field(default_factory=set)
    turns: dict[tuple[str, ...], trio.Lock] = field(default_factory=dict)
    calls: ShieldedCalls = field(default_factory=ShieldedCalls)

    def turn(self, target: Target) -> trio.Lock:
        """Return what is held while the account of ``target`` is asked for."""
        return self.turns.setdefault(_account(target), trio.Lock())

    @contextmanager
    def asking(self, target: Target) -> Iterator[None]:
        """Journal a request for ``target`` until it is answered.

        After a crash meanwhile, or without an answer, the lease may have been granted.
        """
        asked = Lease(target, ASKED)
        try:
            self.journal.held(asked)
            yield
        except Exception:
            self.journal.returned(asked)
            raise
        except BaseException:  # cancelled, perhaps in several tasks at once
            log.warning("%s: asked for, and the mount ended before the answer", target)
            raise
        self.journal.returned(asked)

    def note(self, lease: Lease) -> None:
        """Journal a lease that is granted already; a failure is only logged."""
        try:
            self.journal.held(lease)
        except JournalError as exc:
            log.warning("%s: %s", lease.target, exc)

    def return_unanswered(self, lease: Lease, provider: Provider) -> None:
        """Return a lease that was perhaps granted, in a task of its own.

        One return that is still under way gives this back as well.
        """
        returning = {(one.lease.target, one.lease.id) for one in self.returning}
        if (lease.target, lease.id) not in returning:
            self.nursery.start_soon(HeldLease(lease, provider, self).give_back)

    def record_return(self, lease: Lease, **facts: bool) -> None:
        """Audit the return of ``lease``, unless only its request is known."""
        if lease.id != ASKED:
            target = str(lease.target)
            self.audit.record("checkin", target=target, lease=lease.id, **facts)

    def is_shared(self, lease: Lease) -> bool:
        """Whether a session holds the same lease."""
        return any(_is_same(lease, held.lease) for held in self.held)


def _account(target: Target) -> tuple[str, ...]:
    return (target.tenant, target.domain, target.credential, target.device)


def _is_same(one: Lease, other: Lease) -> bool:
    if ASKED in (one.id, other.id):
        return _account(one.target) == _account(other.target)
    return (one.target.tenant, one.id) == (other.target.tenant, other.id)


class HeldLease:
    """One lease, from its grant to its return."""

    def __init__(self, lease: Lease, provider: Provider, custody: Custody) -> None:
        self.lease = lease
        self._provider = provider
        self._custody = custody
        custody.note(lease)
        custody.held.add(self)
        if lease.id != ASKED:
            custody.audit.record("checkout", target=str(lease.target), lease=lease.id)
            log.info("%s: checked out", lease.target)

    @property
    def expires_at(self) -> float | None:
        """Return when the lease ends, in seconds since the epoch; None: unknown."""
        return self.lease.expires_at

    async def renew(self) -> bool:
        """Ask for a later end; return whether there is one. Not cut short."""
        if not self.lease.is_renewable:
            return False  # its end is final: the session warns its users
        is_longer = False
        with self._custody.calls.shield():
            async with self._custody.turn(self.lease.target):
                is_longer = self in self._custody.held and await self._renew()
        return is_longer

    async def _renew(self) -> bool:
        longer = await self._provider.renew(self.lease)
        if longer is None:
            return False
        before, self.lease = self.lease, longer
        self._custody.note(longer)
        self._custody.journal.returned(before)
        log.info("%s: the lease was renewed", longer.target)
        return True

    async def give_back(self) -> None:
        """Check in; a second call does nothing. Bounded, and never cut short."""
        if self not in self._custody.held:
            return
        self._custody.held.remove(self)
        self._custody.returning.add(self)
        if not await self._release():
            self._custody.nursery.start_soon(self._keep_giving_back)

    async def _keep_giving_back(self) -> None:
        is_back = False
        while not is_back:
            await trio.sleep(RELEASE_AGAIN_S)
            is_back = await self._release()

    async def _release(self) -> bool:
        is_back = await self._is_released()
        if is_back:
            self._custody.returning.discard(self)
        return is_back

    async def _is_released(self) -> bool:
        """Return whether it is off our hands."""
        lease, why = self.lease, "the mount ends"
        with self._custody.calls.shield():
            async with self._custody.turn(self.lease.target):
                lease = self.lease
                if self._custody.is_shared(lease):
                    self._custody.journal.returned(lease)
                    return True
                why = await self._ask_to_release()
        if why:
            log.warning("%s: the lease is not given back: %s", lease.target, why)
            return False
        self._custody.journal.returned(lease)
        self._custody.record_return(lease)
        log.info("%s: checked in", lease.target)
        return True

    async def _ask_to_release(self) -> str:
        """Return why the provider does not have it back, or nothing."""
        with trio.move_on_after(RELEASE_WITHIN_S):
            try:
                with ungrouped():
                    await self._provider.release(self.lease)
            except PamfsError as exc:
                return str(exc)
            except Exception as exc:
                log.exception("%s: giving the lease back failed", self.lease.target)
                return type(exc).__name__
            return ""
        return f"no answer within {RELEASE_WITHIN_S:g} s"
