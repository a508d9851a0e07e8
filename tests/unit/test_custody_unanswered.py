"""What was perhaps granted, and heard by nobody, is given back."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pamfs.errors import LoginRefusedError, UnreachableError
from pamfs.sessions.checkout.base import ASKED, Lease, UnansweredGrantError
from pamfs.sessions.checkout.custody import RELEASE_AGAIN_S
from tests.conftest import LogLedger
from tests.fakes.pools import borrow
from tests.fakes.tenants import WEB01, tenant
from tests.fakes.vault import FakeVault, Site

AWAY = UnreachableError("away")


@pytest.mark.parametrize("number", ["root@web01", ASKED])
async def test_a_grant_that_could_not_be_read_is_given_back(
    number: str, expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("no answer within")
    expect_log("not given back: away")
    lost = UnansweredGrantError(
        LoginRefusedError("no answer within 5 s"), Lease(WEB01, number)
    )
    site = Site(FakeVault(answers=[lost] * 3, release_failures=[AWAY] * 2))
    async with site.pool(tenant(cooldown_s=0)) as pool:
        for _ in range(3):
            site.vault.held = ["root@web01"]
            with pytest.raises(LoginRefusedError, match="no answer within"):
                await borrow(pool)
            await wait_all_tasks_blocked()
            assert [lease.id for lease in site.journal.leases] == [number]
            await trio.sleep(1)
        assert site.vault.releases == 1  # one return under way is enough
        await trio.sleep(2 * RELEASE_AGAIN_S)
        assert site.vault.held == []
        assert site.journal.leases == []
        assert site.vault.releases == 3


async def test_a_grant_that_could_not_be_read_is_left_to_whoever_got_it_since(
    expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("no answer within")
    expect_log("not given back: away")
    lost = UnansweredGrantError(
        LoginRefusedError("no answer within 5 s"), Lease(WEB01, ASKED)
    )
    site = Site(FakeVault(answers=[lost], release_failures=[AWAY]))
    async with site.pool(tenant(cooldown_s=1, idle_close_s=9999)) as pool:
        with pytest.raises(LoginRefusedError):
            await borrow(pool)
        await trio.sleep(2)
        await borrow(pool)
        await trio.sleep(2 * RELEASE_AGAIN_S)
        assert site.vault.held == ["root@web01"]
        assert [lease.id for lease in site.journal.leases] == ["root@web01"]
