"""Who is asked about an unknown proxy, how often, and before what."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

import asyncssh
import pytest
import trio
import trio.testing

from pamfs.audit import Audit, NoAudit
from pamfs.config import HostKeyPolicy, TenantConfig
from pamfs.errors import (
    CoolingError,
    DeclinedError,
    HostKeyError,
    NobodyToAskError,
    UnknownProxyError,
    UnreachableError,
)
from pamfs.model import Caller, Secret, Target
from pamfs.processes import job_of
from pamfs.sessions.answers import Answers
from pamfs.sessions.attempt import Attempt, Callers, Logins, PausableDeadline
from pamfs.sessions.checkout.custody import Custody
from pamfs.sessions.checkout.lease_requests import LeaseRequests
from pamfs.sessions.login.host_key_prompt import HostKeyPrompts
from pamfs.sessions.pool import Pool
from pamfs.sessions.prompts import Prompter, Question
from pamfs.sessions.prompts.question import Kind
from pamfs.transport.bridge import Make, Send
from pamfs.transport.ssh.host_keys import ShownKey
from tests.conftest import LogLedger
from tests.fakes.dialer import FakeDialer
from tests.fakes.journals import MemoryJournal
from tests.fakes.logins import steps
from tests.fakes.people import FakePerson
from tests.fakes.pools import borrow, pool_of, status_of
from tests.fakes.tenants import ME, WEB01, tenant
from tests.fakes.vault import FakeVault
from tests.limits import HANG_S

V = TypeVar("V")
KEY = asyncssh.generate_private_key("ssh-ed25519")
SOMEBODY = Caller(pid=2000, uid=2000, gid=2000)
EIGHT = [Target("acme", "root", f"web{number}") for number in range(8)]


@dataclass
class Showing:
    """A ``Bridge`` to a proxy that shows ``key`` to whoever looks."""

    key: asyncssh.SSHKey = KEY
    error: Exception | None = None
    takes_s: float = 0.0
    looks: int = 0

    async def call(self, make: Make[V]) -> V:
        del make
        self.looks += 1
        await trio.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        return cast("V", ShownKey("192.0.2.1", self.key))

    async def wait_future(self, send: Send[V]) -> V:
        raise AssertionError(f"a look is a call, not {send}")

    def post(self, callback: Callable[[], object]) -> None:
        callback()


@dataclass
class Book:
    """An ``Audit``."""

    records: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def record(self, event: str, **facts: object) -> None:
        self.records.append((event, facts))


@pytest.fixture
def acme(tmp_path: Path) -> TenantConfig:
    return tenant(host_keys=HostKeyPolicy.ASK, known_hosts=tmp_path / "known_hosts")


def introductions(
    proxy: Showing, person: Prompter, audit: Audit | None = None
) -> HostKeyPrompts:
    return HostKeyPrompts(proxy, Answers(person), audit or NoAudit())


def attempt(acme: TenantConfig, caller: Caller = ME) -> Attempt:
    return Attempt(WEB01, acme, Callers(caller), PausableDeadline(10))


def write(acme: TenantConfig, name: str, key: asyncssh.SSHKey = KEY) -> None:
    assert acme.proxy.known_hosts is not None
    acme.proxy.known_hosts.write_text(f"{name} {key.export_public_key().decode()}")


def known(acme: TenantConfig) -> list[str]:
    assert acme.proxy.known_hosts is not None
    return acme.proxy.known_hosts.read_text().splitlines()


async def test_it_is_on_record_for_whom_the_yes_was_said(acme: TenantConfig) -> None:
    class Busy(FakePerson):
        async def ask(self, question: Question) -> Secret:
            if question.caller == ME:
                await trio.sleep_forever()
            return await super().ask(question)

    book, person = Book(), Busy({Kind.HOST_KEY: "yes"})
    one = attempt(acme)
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(introductions(Showing(), person, book).ensure_known, one)
            while not one.callers.is_asking:  # noqa: ASYNC110 - a thread reads a file
                await trio.sleep(0.01)
            one.callers.pass_to(SOMEBODY)
    ((event, facts),) = book.records
    assert event == "host_key_accepted"
    assert (facts["pid"], facts["uid"]) == (SOMEBODY.pid, SOMEBODY.uid)


async def test_after_the_look_the_proxy_has_answered_no_login(
    acme: TenantConfig,
) -> None:
    one = attempt(acme)
    await introductions(Showing(), FakePerson({Kind.HOST_KEY: "yes"})).ensure_known(one)
    assert isinstance(one.lateness(), UnreachableError)


@asynccontextmanager
async def a_pool(dialer: Logins, acme: TenantConfig) -> AsyncIterator[Pool]:
    with trio.fail_after(HANG_S):
        async with pool_of(dialer, acme=acme) as pool:
            yield pool


async def end_of(pool: Pool, target: Target, ends: list[type[Exception]]) -> None:
    try:
        await borrow(pool, target)
    except (DeclinedError, UnreachableError, UnknownProxyError) as exc:
        ends.append(type(exc))


@pytest.mark.parametrize("what", [DeclinedError("no"), UnreachableError("it is down")])
async def test_a_no_is_the_answer_for_all_who_wait_for_it(
    acme: TenantConfig, expect_log: LogLedger, what: Exception
) -> None:
    expect_log(str(what))
    is_no = isinstance(what, DeclinedError)
    person = FakePerson({Kind.HOST_KEY: DeclinedError("no")}, takes_s=0.3)
    proxy = Showing(takes_s=0.3, error=None if is_no else what)
    dialer = steps(FakeDialer(takes_s=0), host_keys=introductions(proxy, person))
    ends: list[type[Exception]] = []
    async with a_pool(dialer, acme) as pool:
        async with trio.open_nursery() as nursery:
            for target in EIGHT:
                nursery.start_soon(end_of, pool, target, ends)
        assert ends == [type(what)] * 8
        assert (proxy.looks, len(person.asked)) == (1, int(is_no))
        later = Target("acme", "root", "later")
        with pytest.raises(type(what)):
            await borrow(pool, later)  # who comes later is told anew
    assert (proxy.looks, len(person.asked)) == (2, 2 * int(is_no))


async def test_a_yes_is_enough_for_all_who_wait_for_it(acme: TenantConfig) -> None:
    person = FakePerson({Kind.HOST_KEY: "yes"}, takes_s=0.3)
    proxy = Showing()
    dialer = FakeDialer(takes_s=0)
    introducing = steps(dialer, host_keys=introductions(proxy, person))
    async with (
        a_pool(introducing, acme) as pool,
        trio.open_nursery() as nursery,
    ):
        for target in EIGHT:
            nursery.start_soon(borrow, pool, target)
    assert (proxy.looks, len(person.asked), dialer.dials) == (1, 1, 8)


async def test_that_one_cannot_be_asked_is_no_answer_for_the_next(
    acme: TenantConfig, expect_log: LogLedger
) -> None:
    expect_log("nobody")
    person = FakePerson({Kind.HOST_KEY: NobodyToAskError("nobody")}, takes_s=0.1)
    dialer = steps(FakeDialer(takes_s=0), host_keys=introductions(Showing(), person))
    ends: list[type[Exception]] = []
    async with a_pool(dialer, acme) as pool, trio.open_nursery() as nursery:
        for target in EIGHT[:2]:
            nursery.start_soon(end_of, pool, target, ends)
    assert ends == [UnknownProxyError] * 2
    assert len(person.asked) == 2


async def test_an_unknown_proxy_costs_no_lease_and_is_not_looked_at_again_soon(
    acme: TenantConfig, expect_log: LogLedger
) -> None:
    expect_log("nobody")
    vault, proxy, journal = FakeVault(takes_s=0), Showing(), MemoryJournal()
    nobody = NobodyToAskError("nobody", ME.uid, job_of(ME.pid))
    person = FakePerson({Kind.HOST_KEY: nobody})
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            counter = LeaseRequests(Answers(person), Custody(nursery, journal))
            dialer = steps(
                FakeDialer(takes_s=0),
                host_keys=introductions(proxy, person),
                provider=vault,
                counter=counter,
            )
            async with pool_of(dialer, acme=acme) as pool:
                with pytest.raises(UnknownProxyError, match="ssh-keyscan"):
                    await borrow(pool)
                for _ in range(20):
                    with pytest.raises(CoolingError, match="cools down for 30 s"):
                        await borrow(pool)
                assert status_of(pool).state == "cooling"
    assert (vault.asked, vault.releases, proxy.looks) == ([], 0, 1)


async def test_a_line_without_the_port_vouches_after_one_look(
    acme: TenantConfig,
) -> None:
    write(acme, acme.proxy.host)
    proxy, person = Showing(), FakePerson()
    async with a_pool(
        steps(FakeDialer(takes_s=0), host_keys=introductions(proxy, person)), acme
    ) as pool:
        for target in EIGHT:
            await borrow(pool, target)
    assert (proxy.looks, person.asked) == (1, [])


async def test_a_line_without_the_port_does_not_keep_anybody_from_being_asked(
    acme: TenantConfig,
) -> None:
    write(acme, acme.proxy.host, asyncssh.generate_private_key("ssh-ed25519"))
    person = FakePerson({Kind.HOST_KEY: "yes"})
    await introductions(Showing(), person).ensure_known(attempt(acme))
    assert len(person.asked) == 1
    assert [line.split()[0] for line in known(acme)] == [
        acme.proxy.host,
        f"[{acme.proxy.host}]:{acme.proxy.port}",
    ]


async def test_a_key_that_was_vouched_for_and_is_not_right_is_looked_at_again(
    acme: TenantConfig, expect_log: LogLedger
) -> None:
    expect_log("another key")
    write(acme, acme.proxy.host)
    proxy, person = Showing(), FakePerson()
    inner = FakeDialer(takes_s=0, failures=[HostKeyError("another key")])
    dialer = steps(inner, host_keys=introductions(proxy, person))
    async with a_pool(dialer, acme) as pool:
        with pytest.raises(HostKeyError):
            await borrow(pool, EIGHT[0])
        await borrow(pool, EIGHT[1])
    assert proxy.looks == 2


async def test_accept_new_keeps_what_it_sees_before_the_login(tmp_path: Path) -> None:
    new = HostKeyPolicy.ACCEPT_NEW
    acme = tenant(host_keys=new, known_hosts=tmp_path / "known_hosts")
    proxy, person, book = Showing(), FakePerson(), Book()
    ensure_known = introductions(proxy, person, book).ensure_known
    await ensure_known(attempt(acme))
    await ensure_known(attempt(acme))
    assert (proxy.looks, person.asked, book.records) == (1, [], [])
    assert len(known(acme)) == 1


@pytest.mark.parametrize("policy", list(HostKeyPolicy))
async def test_a_revoked_key_is_nobodys_to_accept(
    tmp_path: Path, policy: HostKeyPolicy
) -> None:
    acme = tenant(host_keys=policy, known_hosts=tmp_path / "known_hosts")
    write(acme, f"@revoked [{acme.proxy.host}]:{acme.proxy.port}")
    proxy, person = Showing(), FakePerson({Kind.HOST_KEY: "yes"})
    ensure_known = introductions(proxy, person).ensure_known
    if policy in {HostKeyPolicy.ASK, HostKeyPolicy.ACCEPT_NEW}:
        with pytest.raises(HostKeyError, match="is revoked"):
            await ensure_known(attempt(acme))
    else:
        await ensure_known(attempt(acme))  # the login judges it
        assert proxy.looks == 0
    assert person.asked == []
    assert len(known(acme)) == 1
