"""How a lease with a known end goes to its end: renewed, or warned of and over.

Law: whoever works through a lease hears of its end while there is time to finish;
a lease is renewed long before anybody would have to be warned. All instants are
seconds since the epoch: the end counts by the clock of the day, also for a machine
that slept meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import trio

from pamfs.errors import PamfsError
from pamfs.sessions.dial import Link
from pamfs.sessions.machine import Event

log = logging.getLogger(__name__)

# A person needs minutes to save what is open in an editor.
WARN_BEFORE_S: Final = 300.0
# Before this, data that the kernel still holds is stored.
DRAIN_BEFORE_S: Final = 30.0
# The other side's clock may be a little ahead, and a hang-up takes a moment.
CLOSE_BEFORE_S: Final = 2.0
# Of this part of the last stretch, draining may take most: then it is read-only.
_DRAIN_PART: Final = 2 / 3
# Renewals that gain less than this, or follow faster, are no use to anybody.
_LEAST_S: Final = 1.0
_RENEW_WITHIN_S: Final = 30.0
# CLOCK_MONOTONIC stands still while the machine sleeps: look again now and then.
_LOOK_EVERY_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class LeasePlan:
    """When what is done about the end of a lease."""

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
    """Plan for a lease that was granted ``now``; a short one gets shorter stretches."""
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
        """``warn`` hears words for a person, ``feed`` the machine's events."""
        self._link = link
        self._now = now
        self._warn = warn
        self._feed = feed
        self.plan: LeasePlan | None = None
        self._note(link.lease_expires_at)

    @property
    def expires_at(self) -> float | None:
        """Return the end as last heard; None: it is not known."""
        return None if self.plan is None else self.plan.expires_at

    async def run(self) -> None:
        """Renew as long as that is possible, then lead to the end."""
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
        """Return whether there is a later end; a vault that is away is asked again."""
        while True:
            try:
                with trio.fail_after(_RENEW_WITHIN_S):
                    later = await self._link.renew()
            except (PamfsError, trio.TooSlowError) as exc:
                log.warning("renewing a lease failed: %s", exc)
            except Exception:
                log.exception("renewing a lease ended in an error of ours")
                return False
            else:
                return self._is_gain(plan, later)
            pause_s = (plan.warn_at - self._now()) / 2
            if pause_s < _LEAST_S:
                return False
            await self._until(self._now() + pause_s)

    def _is_gain(self, plan: LeasePlan, later: float | None) -> bool:
        if later is None or later - plan.expires_at < _LEAST_S:
            return False
        self._note(later)
        return True

    def _note(self, expires_at: float | None) -> None:
        if expires_at is not None:
            self.plan = plan_lease(self._now(), expires_at)

    async def _until(self, instant: float) -> None:
        # The clock of the day rings for nobody.
        while (left_s := instant - self._now()) > 0:  # noqa: ASYNC110
            await trio.sleep(min(left_s, _LOOK_EVERY_S))


def clock(instant: float) -> str:
    """Return the time of day of an instant, where we are."""
    return datetime.fromtimestamp(instant, UTC).astimezone().strftime("%H:%M:%S")
