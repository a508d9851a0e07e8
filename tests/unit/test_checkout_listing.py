"""Looking at a tenant never waits for its vault."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pamfs.config import Config
from pamfs.errors import UnreachableError
from pamfs.model import Name, Target
from pamfs.sessions.checkout.listing import RETRY_S, Listing, Listings
from pamfs.vfs.namespace import Namespace
from tests.conftest import LogLedger
from tests.fakes.tenants import WEB01, WEB02, tenant


@dataclass
class FakeList:
    targets: list[Target] = field(default_factory=lambda: [WEB01])
    failure: Exception | None = None
    takes_s: float = 1.0
    fetches: int = 0

    async def fetch(self) -> Sequence[Target]:
        self.fetches += 1
        await trio.sleep(self.takes_s)
        if self.failure:
            raise self.failure
        return list(self.targets)

    def listing(self, refresh_s: float = 300) -> Listing:
        return Listing(tenant(), self.fetch, refresh_s, trio.current_time)


async def test_the_list_is_fetched_at_the_start_and_nobody_waits_for_it(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    vault = FakeList()
    listing = vault.listing()
    nursery.start_soon(listing.keep)
    assert listing.names() == ()
    await trio.sleep(2)
    assert listing.names() == (b"root@web01",)
    assert not listing.status()["is_stale"]


async def test_who_looks_has_an_old_list_fetched_but_not_more_often_than_allowed(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    vault = FakeList()
    listing = vault.listing(refresh_s=300)
    nursery.start_soon(listing.keep)
    await trio.sleep(2)
    for _ in range(100):
        listing.names()
        await trio.sleep(1)
    assert vault.fetches == 1
    await trio.sleep(1000)
    assert vault.fetches == 1  # nobody looked
    vault.targets.append(WEB02)
    assert len(listing.names()) == 1
    await trio.sleep(2)
    assert vault.fetches == 2
    assert len(listing.names()) == 2


async def test_a_vault_that_is_away_leaves_the_last_good_copy(
    expect_log: LogLedger, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    expect_log("the vault's list is stale: away")
    vault = FakeList()
    listing = vault.listing()
    nursery.start_soon(listing.keep)
    await trio.sleep(301)
    vault.failure = UnreachableError("away")
    for _ in range(3):
        listing.names()
        await trio.sleep(RETRY_S + 2)
    assert listing.names() == (b"root@web01",)
    assert listing.status()["is_stale"]
    assert listing.status()["error"] == "away"
    assert vault.fetches == 4
    vault.failure = None
    listing.names()
    await trio.sleep(RETRY_S + 2)
    listing.names()
    await trio.sleep(2)
    assert not listing.status()["is_stale"]


async def test_an_error_of_ours_does_not_end_the_listing(
    expect_log: LogLedger, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    expect_log("an error of ours")
    expect_log("stale: ValueError")
    vault = FakeList(failure=ValueError("what"))
    listing = vault.listing()
    nursery.start_soon(listing.keep)
    await trio.sleep(60)
    vault.failure = None
    listing.names()
    await trio.sleep(2)
    assert listing.names() == (b"root@web01",)


async def test_names_that_could_break_out_of_the_grammar_are_left_out_with_one_line(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    caplog.set_level(logging.INFO)
    evil = [
        Target("acme", "ro/ot", "web01"),
        Target("acme", "root]x[", "web01"),
        Target("acme", "root", "web01{ssh.23}"),
        Target("acme", "..", ""),
    ]
    listing = FakeList([*evil, WEB01]).listing()
    await listing.refresh()
    await listing.refresh()
    assert listing.names() == (b"root@web01",)
    (line,) = [m for m in caplog.messages if "cannot be shown" in m]
    assert "4 of the vault's names" in line


async def test_listings_of_all_tenants_are_kept(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    listings = Listings([("acme", FakeList().listing())])
    nursery.start_soon(listings.keep)
    await trio.sleep(2)
    await wait_all_tasks_blocked()
    assert listings.names("acme") == (b"root@web01",)
    assert listings.names("globex") == ()
    assert [row["tenant"] for row in listings.status()] == ["acme"]


def test_the_tenants_level_shows_what_is_configured_and_what_the_vault_lists() -> None:
    def listed(name: str) -> Sequence[Name]:
        return [Name(b"root@web02"), Name(b"root@web01")] if name == "acme" else []

    one = tenant()
    config = Config(Path("/config"), {"acme": one})
    assert Namespace(config, listed).targets(Name(b"acme")) == [
        b"root@web01",
        b"root@web02",
    ]
    assert Namespace(config).targets(Name(b"acme")) == []
    closed = Config(Path("/config"), {"acme": replace(one, only_listed=True)})
    assert Namespace(closed, listed).targets(Name(b"acme")) == []
