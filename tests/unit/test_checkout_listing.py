"""Looking at a tenant never waits for its vault, but for the very first list."""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pamfs.config import Config
from pamfs.errors import NotListedError, UnreachableError, VaultError
from pamfs.model import Name, Target
from pamfs.sessions.checkout.listing import (
    FIRST_WAIT_S,
    RETRY_S,
    TargetList,
    TargetLists,
)
from pamfs.vfs.names.namespace import Namespace
from tests.conftest import LogLedger
from tests.fakes.tenants import WEB01, WEB02, changed, tenant


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

    def listing(self, refresh_s: float = 300) -> TargetList:
        return TargetList(tenant(), self.fetch, refresh_s, trio.current_time)


async def test_the_list_is_fetched_at_the_start_and_nobody_waits_for_it(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    vault = FakeList()
    listing = vault.listing()
    nursery.start_soon(listing.keep)
    await trio.sleep(2)
    assert vault.fetches == 1
    assert await listing.names() == (b"root@web01",)
    assert not listing.status()["is_stale"]


async def test_the_first_list_is_waited_for(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    vault = FakeList()
    listing = vault.listing()
    nursery.start_soon(listing.keep)
    assert await listing.names() == (b"root@web01",)
    assert vault.fetches == 1


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (UnreachableError("away"), errno.EHOSTUNREACH),
        (VaultError("no permission", errno.EACCES), errno.EACCES),
        (ExceptionGroup("two", [UnreachableError("away")]), errno.EHOSTUNREACH),
    ],
)
async def test_without_any_list_a_look_is_an_error_and_not_an_empty_folder(
    failure: Exception,
    code: int,
    expect_log: LogLedger,
    autojump_clock: MockClock,
    nursery: trio.Nursery,
) -> None:
    expect_log("the vault's list is stale")
    vault = FakeList(failure=failure)
    listing = vault.listing()
    nursery.start_soon(listing.keep)
    for _ in range(2):
        with pytest.raises(NotListedError) as caught:
            await listing.names()
        assert caught.value.code == code
        assert "sub-exception" not in f"{caught.value} {listing.status()}"
        assert "Group" not in f"{caught.value} {listing.status()}"
    vault.failure = None
    await trio.sleep(RETRY_S)
    assert vault.fetches == 1
    assert await listing.names() == (b"root@web01",)


async def test_a_vault_that_hangs_holds_a_look_up_for_a_while_only(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    listing = FakeList(takes_s=1000).listing()
    nursery.start_soon(listing.keep)
    with pytest.raises(NotListedError, match="no answer within 10 s") as caught:
        await listing.names()
    assert caught.value.code == errno.EHOSTUNREACH
    assert trio.current_time() < 2 * FIRST_WAIT_S


async def test_a_vault_without_targets_is_an_empty_folder(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    listing = FakeList(targets=[]).listing()
    nursery.start_soon(listing.keep)
    assert await listing.names() == ()


async def test_who_looks_has_an_old_list_fetched_but_not_more_often_than_allowed(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    vault = FakeList()
    listing = vault.listing(refresh_s=300)
    nursery.start_soon(listing.keep)
    await trio.sleep(2)
    for _ in range(100):
        await listing.names()
        await trio.sleep(1)
    assert vault.fetches == 1
    await trio.sleep(1000)
    assert vault.fetches == 1  # nobody looked
    vault.targets.append(WEB02)
    assert len(await listing.names()) == 1
    await trio.sleep(2)
    assert vault.fetches == 2
    assert len(await listing.names()) == 2


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
        await listing.names()
        await trio.sleep(RETRY_S + 2)
    assert await listing.names() == (b"root@web01",)
    assert listing.status()["is_stale"]
    assert listing.status()["error"] == "away"
    assert vault.fetches == 4
    vault.failure = None
    await listing.names()
    await trio.sleep(RETRY_S + 2)
    await listing.names()
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
    assert await listing.names() == (b"root@web01",)


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
    assert await listing.names() == (b"root@web01",)
    (line,) = [m for m in caplog.messages if "cannot be shown" in m]
    assert "4 of the vault's names" in line


async def test_listings_of_all_tenants_are_kept(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    listings = TargetLists([("acme", FakeList().listing())])
    nursery.start_soon(listings.keep)
    await trio.sleep(2)
    await wait_all_tasks_blocked()
    assert await listings.names("acme") == (b"root@web01",)
    assert await listings.names("globex") == ()
    assert [row["tenant"] for row in listings.status()] == ["acme"]


async def test_a_tenant_shows_what_is_configured_and_what_the_vault_lists() -> None:
    async def listed(name: str) -> Sequence[Name]:
        return [Name(b"root@web02"), Name(b"root@web01")] if name == "acme" else []

    one = tenant()
    config = Config(Path("/config"), {"acme": one})
    assert await Namespace(config, listed).targets(Name(b"acme")) == [
        b"root@web01",
        b"root@web02",
    ]
    assert await Namespace(config).targets(Name(b"acme")) == []
    closed = Config(Path("/config"), {"acme": changed(one, only_listed=True)})
    assert await Namespace(closed, listed).targets(Name(b"acme")) == []
