"""The way in as a mount has it: what ``pamfs unlock`` forgets, and what it does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from pamfs.app.entrance import Entrance, Place
from pamfs.audit import NoAudit
from pamfs.config import TenantConfig, load
from pamfs.model import Secret, Target
from pamfs.sessions.accounts import Accounts
from pamfs.sessions.codes_state import FileState
from pamfs.sessions.otp import Codes
from tests.fakes.pools import borrow
from tests.integration.lab_site import spec
from tests.integration.session_site import LabSite, SessionSite, site

__all__ = ["site"]  # the fixture

ROOT = Target("acme", "root", "web01")
SEED = Secret("JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP")


@asynccontextmanager
async def entrance(site: SessionSite, lab: LabSite) -> AsyncIterator[Entrance]:
    """Run what a mount would, with a second tenant behind the lab's proxy."""
    config = load(lab.running.folder / "config.toml")
    acme = config.tenants["acme"]
    both = {"acme": acme, "globex": replace(acme, name="globex")}
    place = Place(replace(config, tenants=both), site.folder, is_foreground=False)
    way_in = Entrance(place, NoAudit())
    async with trio.open_nursery() as nursery:
        way_in.open(nursery, site.bridge)
        yield way_in
        assert await way_in.pool.close(10) == ()
        nursery.cancel_scope.cancel()
    way_in.close()


async def refuse_twice(codes: Codes, tenant: TenantConfig) -> None:
    for _ in range(2):
        await codes.note_refused(SEED, Accounts().of(tenant).name)


async def rests(codes: Codes, tenant: TenantConfig) -> bool:
    return await codes.rest_s(SEED, Accounts().of(tenant).name) > 0


@pytest.mark.parametrize("is_open", [False, True])
async def test_an_unlock_pardons_the_account_of_a_closed_target_and_no_other(
    is_open: bool, site: SessionSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(site.folder / "state"))
    codes = Codes(state=FileState(site.folder / "state/codes.json"))
    async with site.lab(spec()) as lab, entrance(site, lab) as way_in:
        tenants = way_in.place.config.tenants
        if is_open:
            await borrow(way_in.pool, ROOT)
        for tenant in tenants.values():
            await refuse_twice(codes, tenant)
        await way_in.pardon(ROOT)
        assert await rests(codes, tenants["acme"]) == is_open
        assert await rests(codes, tenants["globex"])
