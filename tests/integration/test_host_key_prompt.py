"""A proxy that is not known is asked about once, before anything goes there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import trio

from pamfs.config import HostKeyPolicy, OtpPlace, TenantConfig
from pamfs.errors import (
    DeclinedError,
    HostKeyError,
    NobodyToAskError,
    UnknownProxyError,
    UnreachableError,
)
from pamfs.model import Target
from pamfs.sessions.answers import Answers
from pamfs.sessions.attempt import Attempt, Callers, PausableDeadline
from pamfs.sessions.login.host_key_prompt import HostKeyPrompts
from pamfs.sessions.prompts.question import Kind
from tests.conftest import LogLedger
from tests.fakes.people import FakePerson
from tests.fakes.pools import borrow
from tests.fakes.tenants import ME, changed, tenant
from tests.integration.lab_site import spec
from tests.integration.session_site import LabSite, SessionSite, site
from tests.limits import HANG_S

__all__ = ["site"]  # the fixture

ROOT = Target("acme", "root", "web01")
ONE = Target("acme", "one", "web01")
NO = DeclinedError("no")
PINNED = HostKeyPolicy.PINNED


def asking(file: Path) -> dict[str, Any]:
    """Return what makes a tenant ask about its proxy, and for no code."""
    ask = {"host_keys": HostKeyPolicy.ASK, "known_hosts": file}
    return {**ask, "otp": None, "otp_in": OtpPlace.NONE}


def asked(site: SessionSite) -> Sequence[Kind]:
    return [question.kind for question in site.person.asked]


async def logins(lab: LabSite) -> int:
    return len(await lab.events("auth_ok")) + len(await lab.events("auth_failed"))


async def test_a_yes_makes_the_proxy_known_for_good(site: SessionSite) -> None:
    site.person = FakePerson({Kind.HOST_KEY: "yes"})
    file = site.folder / "new/known_hosts"
    async with site.lab(spec(), **asking(file)) as lab:
        await lab.borrow(ROOT)
        await lab.borrow(ONE)
        (question,) = site.person.asked
        public = lab.running.address.host_key
        shown = "\n".join(question.about())
        assert asyncssh.import_public_key(public).get_fingerprint() in shown
        assert f"[127.0.0.1]:{lab.running.port} is not known" in shown
        assert "ssh-ed25519" in shown
        assert file.read_text() == f"[127.0.0.1]:{lab.running.port} {public}\n"
        strict = changed(lab.acme, host_keys=HostKeyPolicy.STRICT, known_hosts=file)
        async with site.pool(strict) as other:
            await borrow(other, ROOT)


async def test_a_no_sends_nothing(site: SessionSite, expect_log: LogLedger) -> None:
    expect_log("declined|no")
    site.person = FakePerson({Kind.HOST_KEY: NO})
    file = site.folder / "known_hosts"
    async with site.lab(spec(), **asking(file)) as lab:
        with pytest.raises(DeclinedError):
            await lab.borrow(ROOT)
        assert await logins(lab) == 0
    assert not file.exists()


async def test_with_nobody_to_ask_it_says_how_to_make_it_known(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("unknown")
    site.person = FakePerson({Kind.HOST_KEY: NobodyToAskError("nobody; type: unlock")})
    file = site.folder / "known_hosts"
    async with site.lab(spec(), **asking(file)) as lab:
        with pytest.raises(UnknownProxyError) as caught:
            await lab.borrow(ROOT)
        assert await logins(lab) == 0
        text = str(caught.value)
        assert f"ssh-keyscan -p {lab.running.port} 127.0.0.1 >> {file}" in text
        assert "type: unlock" in text
        assert "SHA256:" in text
        assert "\n" not in text
    assert not file.exists()


async def test_a_changed_key_is_never_asked_about(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("host key")
    site.person = FakePerson({Kind.HOST_KEY: "yes"})
    async with site.lab(spec()) as lab:
        acme = changed(lab.acme, host_keys=HostKeyPolicy.ASK)
        await lab.admin("rotate_host_key")
        async with site.pool(acme) as pool:
            with pytest.raises(HostKeyError, match="has changed"):
                await borrow(pool, ROOT)
        assert await logins(lab) == 0
    assert asked(site) == []


@pytest.mark.parametrize("vouches", [False, True])
@pytest.mark.parametrize("policy", [p for p in HostKeyPolicy if p is not PINNED])
async def test_a_key_that_is_revoked_with_its_port_logs_nobody_in(
    site: SessionSite, expect_log: LogLedger, policy: HostKeyPolicy, *, vouches: bool
) -> None:
    expect_log("revoked")
    site.person = FakePerson({Kind.HOST_KEY: "yes"})
    file = site.folder / "known_hosts"
    settings = asking(file) | {"host_keys": policy}
    async with site.lab(spec(), **settings) as lab:
        address = lab.running.address
        text = f"@revoked [127.0.0.1]:{lab.running.port} {address.host_key}\n"
        text += f"127.0.0.1 {address.host_key}\n" if vouches else ""
        file.write_text(text)
        with pytest.raises(HostKeyError, match="revoked"):
            await lab.borrow(ROOT)
        assert await logins(lab) == 0
        assert file.read_text() == text
    assert asked(site) == []


async def test_two_targets_at_once_are_one_question(site: SessionSite) -> None:
    site.person = FakePerson({Kind.HOST_KEY: "yes"}, takes_s=0.05)
    file = site.folder / "known_hosts"
    async with (
        site.lab(spec(), **asking(file)) as lab,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(lab.borrow, ROOT)
        nursery.start_soon(lab.borrow, ONE)
    assert asked(site) == [Kind.HOST_KEY]
    assert len(file.read_text().splitlines()) == 1


async def test_a_proxy_that_is_down_is_asked_about_by_nobody(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("127.0.0.1:1:")
    acme = tenant(port=1, **asking(site.folder / "known_hosts"))
    async with site.pool(acme) as pool:
        with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1: .*refused"):
            await borrow(pool, ROOT)
    assert asked(site) == []


@dataclass
class Book:
    """An ``Audit``."""

    records: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def record(self, event: str, **facts: object) -> None:
        self.records.append((event, facts))


async def test_who_accepted_which_key_is_on_record(site: SessionSite) -> None:
    book = Book()
    person = FakePerson({Kind.HOST_KEY: "yes"})
    introductions = HostKeyPrompts(site.bridge, Answers(person), book)
    file = site.folder / "known_hosts"

    def attempt(acme: TenantConfig) -> Attempt:
        return Attempt(ROOT, acme, Callers(ME), PausableDeadline(10))

    async with site.lab(spec()) as lab:
        acme = changed(lab.acme, **asking(file))
        with trio.fail_after(HANG_S):
            await introductions.ensure_known(attempt(acme))
            await introductions.ensure_known(attempt(acme))
        fingerprint = asyncssh.import_public_key(
            file.read_text().partition(" ")[2]
        ).get_fingerprint()
        ((event, facts),) = book.records
        assert event == "host_key_accepted"
        assert facts["key"] == f"ssh-ed25519 {fingerprint}"
        assert facts["uid"] == ME.uid
        assert await logins(lab) == 0
