"""A pool with a dialer that the test directs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from pamfs.config import TenantConfig
from pamfs.model import Target
from pamfs.sessions.attempt import Logins
from pamfs.sessions.login.steps import LoginSteps
from pamfs.sessions.pool import Pool
from pamfs.sessions.session import TargetStatus
from tests.fakes.dialer import FakeDialer
from tests.fakes.tenants import ME, WEB01, tenant


@asynccontextmanager
async def pool_of(
    dialer: Logins, *, acme: TenantConfig | None = None, max_callers: int = 64
) -> AsyncIterator[Pool]:
    """Run a pool, and see that it leaves nothing behind."""
    async with trio.open_nursery() as nursery:
        pool = Pool(
            nursery,
            {"acme": acme or tenant()},
            dialer,
            max_callers=max_callers,
            now=trio.current_time,
        )
        yield pool
        assert await pool.close(60) == ()
    inner = dialer.proxy if isinstance(dialer, LoginSteps) else dialer
    if isinstance(inner, FakeDialer):
        assert inner.open_links == []
        assert inner.open_logins == []


async def borrow(pool: Pool, target: Target = WEB01) -> None:
    async with pool.lend(target, ME):
        pass


async def reborrow(pool: Pool, target: Target = WEB01) -> None:
    """Borrow as a request of an open file does."""
    async with pool.lend(target, ME, is_reconnect=True):
        pass


def status_of(pool: Pool, target: Target = WEB01) -> TargetStatus:
    name = str(target).partition("/")[2]
    return next(status for status in pool.status() if status.target == name)
