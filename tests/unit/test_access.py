"""What the control socket closes: a target, a tenant, or all, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from pamfs.app.access import Access
from pamfs.config import Config
from pamfs.errors import NameRefusedError
from pamfs.model import Target
from pamfs.sessions.pool import Pool
from pamfs.sessions.prompts import ControlPrompters
from pamfs.vfs.names.namespace import Namespace
from tests.fakes.dialer import FakeDialer
from tests.fakes.pools import borrow, status_of
from tests.fakes.tenants import WEB01, WEB02, tenant

APP = Target("globex", "root", "app01")
TENANTS = {"acme": tenant(), "globex": tenant(name="globex")}


async def pardon(_target: Target) -> None:
    await trio.lowlevel.checkpoint()


async def nothing_to_store(target: Target) -> None:
    raise AssertionError(target)


@pytest.mark.parametrize(
    ("path", "closed"),
    [
        ("acme/root@web01", {WEB01}),
        ("acme/root@web01/etc/motd", {WEB01}),
        ("acme", {WEB01, WEB02}),
        ("globex", {APP}),
        (".", {WEB01, WEB02, APP}),
        ("", {WEB01, WEB02, APP}),
        ("acme/root@db07", set()),
    ],
)
async def test_a_lock_closes_what_is_at_its_path(
    path: str, closed: set[Target], autojump_clock: MockClock
) -> None:
    everything = (WEB01, WEB02, APP)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            pool = Pool(nursery, TENANTS, FakeDialer())
            for target in everything:
                await borrow(pool, target)
            stored = set[Target]()

            async def store(target: Target) -> None:
                assert status_of(pool, target).state == "ready"  # not too late
                stored.add(target)

            namespace = Namespace(Config(Path("config.toml"), TENANTS))
            access = Access(namespace, pool, ControlPrompters(), pardon, store)
            reply = await access.handlers()["lock"]({"path": path})
            assert reply["ok"] is True
            states = {target: status_of(pool, target).state for target in everything}
            await pool.close(10)
    assert {t for t, state in states.items() if state == "absent"} == closed
    assert stored == closed
    assert {t for t, state in states.items() if state == "ready"} == (
        set(everything) - closed
    )


async def test_a_lock_of_what_is_no_tenant_is_refused() -> None:
    async with trio.open_nursery() as nursery:
        pool = Pool(nursery, TENANTS, FakeDialer())
        namespace = Namespace(Config(Path("config.toml"), TENANTS))
        access = Access(namespace, pool, ControlPrompters(), pardon, nothing_to_store)
        with pytest.raises(NameRefusedError, match="initech"):
            await access.handlers()["lock"]({"path": "initech"})
