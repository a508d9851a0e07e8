"""What the sessions of a pool have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from pamfs.model import Target
from pamfs.sessions.dial import Dialer
from pamfs.sessions.notices import Notices


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every session of a pool shares.

    ``announce`` is called when a session opened, ``forget`` when it is over,
    ``revoke`` when what is open in it is over too; ``drain`` is awaited before a
    lease ends, ``settle`` until what was forgotten is gone. ``now`` is the time of
    day in seconds since the epoch.
    """

    nursery: trio.Nursery
    dialer: Dialer
    now: Callable[[], float]
    announce: Callable[[Target], object]
    forget: Callable[[Target], object]
    revoke: Callable[[Target], object]
    drain: Callable[[Target], Awaitable[object]]
    settle: Callable[[], Awaitable[None]]
    notices: Notices
