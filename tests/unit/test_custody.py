"""A lease in custody: what is recorded of it, and that it is written down first."""

from __future__ import annotations

import trio

from pamfs.sessions.checkout.base import Lease
from pamfs.sessions.checkout.held import Custody, Held, MemoryJournal
from tests.fakes.guarded import Records
from tests.fakes.tenants import WEB01
from tests.fakes.vault import FakeVault

LEASE = Lease(WEB01, "17")


async def test_a_record_names_the_lease_that_went_out_and_came_back() -> None:
    records = Records()
    async with trio.open_nursery() as nursery:
        custody = Custody(nursery, MemoryJournal(), records)
        await Held(LEASE, FakeVault(), custody).give_back()
    told = [(event, facts["lease"]) for event, facts in records.kept]
    assert told == [("checkout", "17"), ("checkin", "17")]
