"""The end of a link: hung up, and everything that was cached of it gone.

Law: it is shielded and bounded; what takes longer is left to the kernel.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from pamfs.model import Target
from pamfs.sessions.dial import Link

log = logging.getLogger(__name__)

CLOSE_WITHIN_S: Final = 5.0


async def hang_up(
    target: Target, link: Link, settle: Callable[[], Awaitable[None]]
) -> None:
    """Close ``link``; wait, both at once, until caches have been dropped."""

    async def close() -> None:
        try:
            await link.close()
        except Exception:
            log.exception("%s: hanging up failed", target)

    with trio.CancelScope(shield=True) as scope:
        scope.deadline = trio.current_time() + CLOSE_WITHIN_S
        async with trio.open_nursery() as nursery:
            nursery.start_soon(settle)
            nursery.start_soon(close)
