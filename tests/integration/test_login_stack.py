"""The way in as a mount has it: what ``pamfs unlock`` forgets, and what it does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from pamfs.app.login_stack import LoginStack, Place
from pamfs.audit import NoAudit
from pamfs.config import TenantConfig, load
from pamfs.errors import UnreachableError
from pamfs.model import Name, Target
from pamfs.sessions.account.codes import Codes
from pamfs.sessions.account.ledger import FileStore
from pamfs.sessions.account.policy import account_key
from pamfs.vfs.names.namespace import Namespace
from tests.conftest import LogLedger
from tests.fakes.pools import borrow, status_of
from tests.fakes.tenants import changed
from tests.integration.lab_site import spec
from tests.integration.session_site import (
    WITHIN_S,
    LabSite,
    SessionSite,
    eventually,
    site,
)

__all__ = ["site"]  # the fixture

ROOT = Target("acme", "root", "web01")
ROOT_OF = {"acme": ROOT, "globex": Target("globex", "root", "web01")}


@pytest.fixture(autouse=True)
def state(site: SessionSite, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep what outlives a mount in a folder of the test."""
    folder = site.folder / "state"
    monkeypatch.setenv("STATE_DIRECTORY", str(folder))
    return folder


@asynccontextmanager
async def entrance(
    site: SessionSite, lab: LabSite, name: str = "config.toml", **changes: Any
) -> AsyncIterator[LoginStack]:
    """Run what a mount would, with a second tenant behind the lab's proxy."""
    config = load(lab.running.folder / name)
    acme = changed(config.tenants["acme"], cooldown_s=0.1)
    if changes and acme.checkout is not None:
        acme = replace(acme, checkout=replace(acme.checkout, **changes))
    both = {"acme": acme, "globex": replace(acme, name="globex", checkout=None)}
    place = Place(replace(config, tenants=both), site.folder, is_foreground=False)
    way_in = LoginStack(place, NoAudit())
    async with trio.open_nursery() as nursery:
        way_in.open(nursery, site.bridge)
        yield way_in
        assert await way_in.pool.close(10) == ()
        nursery.cancel_scope.cancel()
    way_in.close()


async def refuse_twice(codes: Codes, tenant: TenantConfig) -> None:
    for _ in range(2):
        await codes.ledger.refused(account_key(tenant, ROOT_OF[tenant.name]), None)


async def rests(codes: Codes, tenant: TenantConfig) -> bool:
    return await codes.ledger.rest_s(account_key(tenant, ROOT_OF[tenant.name])) > 0


@pytest.mark.parametrize("is_open", [False, True])
async def test_an_unlock_pardons_the_account_of_a_closed_target_and_no_other(
    is_open: bool, site: SessionSite, state: Path
) -> None:
    codes = Codes(store=FileStore(state / "codes.json"))
    async with site.lab(spec()) as lab, entrance(site, lab) as way_in:
        tenants = way_in.place.config.tenants
        if is_open:
            await borrow(way_in.pool, ROOT)
        for tenant in tenants.values():
            await refuse_twice(codes, tenant)
        await way_in.pardon(ROOT)
        assert await rests(codes, tenants["acme"]) == is_open
        assert await rests(codes, tenants["globex"])


async def test_a_vault_that_is_away_leaves_its_targets_to_be_listed_and_found(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("the vault's list is stale")
    expect_log("custody of root@web01: .*away")
    acme, name = Name(b"acme"), Name(b"root@web01")
    async with (
        site.lab(spec()) as lab,
        entrance(site, lab, "config-vault.toml", refresh_s=0.0) as way_in,
    ):
        tree = Namespace(way_in.place.config, way_in.listings.names)

        async def wait_listed(*, is_stale: bool) -> None:
            with trio.fail_after(WITHIN_S):
                while True:
                    # A look has the copy fetched anew.
                    assert name in await tree.targets(acme)
                    (vault,) = way_in.listings.status()
                    if vault["is_stale"] == is_stale:
                        return
                    await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(way_in.listings.keep)
            await wait_listed(is_stale=False)
            lab.running.rest.is_away = True
            await wait_listed(is_stale=True)
            with pytest.raises(UnreachableError):
                await borrow(way_in.pool, tree.find_target(acme, name))
            lab.running.rest.is_away = False
            await wait_listed(is_stale=False)
            await eventually(lambda: status_of(way_in.pool).state == "absent")
            await borrow(way_in.pool, tree.find_target(acme, name))
            nursery.cancel_scope.cancel()


async def test_a_clock_that_the_vault_contradicts_is_named(
    site: SessionSite, expect_log: LogLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect_log("this clock is .* s behind the vault's")
    async with (
        site.lab(spec()) as lab,
        entrance(site, lab, "config-vault.toml") as way_in,
        trio.open_nursery() as nursery,
    ):
        monkeypatch.setattr(way_in.codes.clock, "now", lambda: 0.0)
        nursery.start_soon(way_in.listings.keep)
        await eventually(lambda: "the vault's" in way_in.codes.clock.doubts())
        await way_in.listings.names("acme")  # no request is under way any more
        nursery.cancel_scope.cancel()
