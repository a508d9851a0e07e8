"""The table of wires: a wire that is not SSH needs nothing of SSH."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from pamfs.audit import NoAudit
from pamfs.config import AnswerSource, HostKeyPolicy, SourceKind
from pamfs.errors import NoWireError
from pamfs.naming.dialects import find_dialect
from pamfs.sessions.account.codes import Codes
from pamfs.sessions.answers import Answers
from pamfs.sessions.login.dial import WireLogins
from pamfs.sessions.login.host_key_prompt import HostKeyPrompts
from pamfs.sessions.pool import Pool
from pamfs.transport.bridge import Make, Send
from pamfs.transport.wires import Wires, served_names
from tests.conftest import LogLedger
from tests.fakes.logins import steps
from tests.fakes.people import FakePerson
from tests.fakes.pools import borrow, status_of
from tests.fakes.tenants import WEB01, tenant
from tests.fakes.wire import FakeWire

V = TypeVar("V")
FTP = replace(WEB01, proto="ftp", port=21)
PASSWORD = AnswerSource(SourceKind.VALUE, "hunter2")


class NoSsh:
    """A ``Bridge`` to an asyncio side that is not there."""

    async def call(self, make: Make[V]) -> V:
        raise AssertionError(f"SSH is used: {make}")

    async def wait_future(self, send: Send[V]) -> V:
        raise AssertionError(f"SSH is used: {send}")

    def post(self, callback: Callable[[], object]) -> None:
        raise AssertionError(f"SSH is used: {callback}")


async def test_a_wire_without_ssh_logs_in_without_a_host_key(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    made: list[FakeWire] = []

    def make(bridge: object, nursery: trio.Nursery) -> FakeWire:
        del bridge, nursery
        made.append(FakeWire())
        return made[-1]

    person = FakePerson()
    acme = tenant(
        dialect=find_dialect("<operator>[<credential>@<device>{<proto>.<port>}]"),
        password=PASSWORD,
        host_keys=HostKeyPolicy.ASK,
        known_hosts=tmp_path / "known_hosts",
    )
    async with trio.open_nursery() as nursery:
        wires = Wires(NoSsh(), nursery, {"ftp": make})
        logins = steps(
            WireLogins(wires, prompter=person, codes=Codes()),
            host_keys=HostKeyPrompts(NoSsh(), Answers(person), NoAudit()),
        )
        pool = Pool(nursery, {"acme": acme}, logins)
        await borrow(pool, FTP)
        assert status_of(pool, FTP).state == "ready"
        assert await pool.close(10) == ()
    assert made[0].logins == [("alice[root@web01{ftp.21}]", "hunter2")]
    assert person.asked == []


async def test_a_protocol_without_a_wire_is_refused_and_logged_once(
    expect_log: LogLedger,
) -> None:
    expect_log("pamfs moves no files by 'ssh'; use a name that ends in {ftp.PORT}")
    async with trio.open_nursery() as nursery:
        wires = Wires(NoSsh(), nursery, {"ftp": FakeWire})
        for _ in range(2):
            with pytest.raises(NoWireError):
                wires.of(WEB01)


def test_the_message_names_what_is_served() -> None:
    assert served_names({"ftp", "afp"}) == "{afp.PORT} or {ftp.PORT}"
