"""Sessions through the lab's proxy: one login, what refuses it, what ends it."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
from dataclasses import replace
from typing import Any

import pytest
import trio

from pamfs.config import (
    AnswerSource,
    HostKeyPolicy,
    KeySource,
    OtpPlace,
    SourceKind,
)
from pamfs.errors import (
    CoolingError,
    CredentialBusyError,
    HostKeyError,
    LoginError,
    LoginRefusedError,
    NoFileTransferError,
    NoWireError,
    PasswordExpiredError,
    UnreachableError,
)
from pamfs.model import RemotePath, Target
from pamfs.naming.dialects import find_dialect
from pamfs.sessions.pool import Pool
from pamfs.sessions.prompts.question import Kind
from pamfs.tasks import AbandonedError
from pamfs.transport.wires import served_names
from tests.conftest import LogLedger
from tests.fakes.openssh import running_sshd
from tests.fakes.pools import borrow, status_of
from tests.fakes.tenants import ME, changed, tenant
from tests.integration.lab_site import PASSWORD, SEED, code, spec
from tests.integration.session_site import SessionSite, eventually, site

__all__ = ["site"]  # the fixture

ROOT = Target("acme", "root", "web01")
CODE = Target("acme", "code", "web01")
REASON = Target("acme", "reason", "web01")
BOTH = Target("acme", "both", "web01")
ONE = Target("acme", "one", "web01")
NOTHING: dict[str, Any] = {"otp": None, "otp_in": OtpPlace.NONE}
WRONG = AnswerSource(SourceKind.VALUE, "wrong horse")


async def test_twenty_who_want_in_at_once_share_one_login(site: SessionSite) -> None:
    async with site.lab(spec()) as lab:

        async def read() -> None:
            async with lab.pool.lend(CODE, ME) as tree:
                assert (await tree.lstat(RemotePath(b"/etc/motd"))).size > 0

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(read)
        assert len(await lab.events("connection")) == 1
        (login,) = await lab.events("auth_ok")
        assert login["methods"] == ["password", "code in user"]
        assert status_of(lab.pool, CODE).logins == 1
        assert (status_of(lab.pool, CODE).host_key or "").startswith("SHA256:")


@pytest.mark.parametrize(
    ("place", "how"),
    [
        (OtpPlace.USER, "code in user"),
        (OtpPlace.PASSWORD, "code in password"),
        (OtpPlace.KEYBOARD_INTERACTIVE, "code in keyboard-interactive"),
    ],
)
async def test_the_code_goes_where_the_configuration_says(
    place: OtpPlace, how: str, site: SessionSite
) -> None:
    async with site.lab(spec(), otp_in=place) as lab:
        await lab.borrow(CODE)
        (login,) = await lab.events("auth_ok")
        assert login["methods"] == ["password", how]


async def test_a_reason_and_a_code_are_asked_of_a_person(site: SessionSite) -> None:
    site.person.answers = {Kind.CODE: code(), Kind.REASON: "ticket 4711"}
    prompt = AnswerSource(SourceKind.PROMPT)
    settings = {"otp": prompt, "otp_in": OtpPlace.KEYBOARD_INTERACTIVE, "reason": None}
    async with site.lab(spec(), **settings) as lab:
        await lab.borrow(BOTH)
        asked = [(question.kind, question.said) for question in site.person.asked]
        assert asked == [(Kind.CODE, "One-time password: "), (Kind.REASON, "Reason: ")]
        assert lab.running.sessions()[0]["reason_given"] == "ticket 4711"


async def test_a_protocol_that_no_wire_serves_is_refused_before_any_login(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("root@web01{telnet.23}: pamfs moves no files by 'telnet'")  # once
    switch = replace(ROOT, proto="telnet", port=23)
    async with site.lab(spec(), **NOTHING) as lab:
        for _ in range(2):
            with pytest.raises(NoWireError, match=re.escape(served_names())):
                await lab.borrow(switch)
        assert await lab.events("connection") == []
        assert site.person.asked == []


async def test_a_wrong_password_is_one_attempt_on_the_wire(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("refused the login")
    async with site.lab(spec(), password=WRONG, **NOTHING) as lab:
        with pytest.raises(LoginRefusedError):
            await lab.borrow(ROOT)
        with pytest.raises(CoolingError):
            await lab.borrow(ROOT)
        assert len(await lab.events("auth_failed")) == 1
        assert len(await lab.events("connection")) == 1
        assert status_of(lab.pool, ROOT).state == "cooling"


async def test_a_wrong_code_that_is_given_again_is_one_attempt_on_the_wire(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("the same one-time code was entered again|refused the login")
    site.person.answers = {Kind.CODE: "000000"}
    prompt = AnswerSource(SourceKind.PROMPT)
    for place in (OtpPlace.USER, OtpPlace.KEYBOARD_INTERACTIVE):
        async with site.lab(spec(), otp=prompt, otp_in=place) as lab:
            before = len(await lab.events("auth_failed"))
            with pytest.raises(LoginRefusedError) as caught:
                await lab.borrow(CODE)
            assert len(await lab.events("auth_failed")) == before + 1
            assert "000000" not in str(caught.value)


@pytest.mark.parametrize(
    ("act", "error", "said"),
    [
        ("expire", PasswordExpiredError, "web interface"),
        ("lock", LoginRefusedError, "locked"),
    ],
)
async def test_what_an_administrator_did_is_said(
    act: str,
    error: type[LoginError],
    said: str,
    site: SessionSite,
    expect_log: LogLedger,
) -> None:
    expect_log(said)
    async with site.lab(spec(), **NOTHING) as lab:
        await lab.admin(act, "alice")
        with pytest.raises(error, match=said):
            await lab.borrow(ROOT)


async def test_a_credential_that_is_in_use_is_busy(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("in use")
    async with site.lab(spec(), **NOTHING) as lab:
        config = lab.acme
        async with site.pool(config) as other:
            await borrow(other, ONE)
            with pytest.raises(CredentialBusyError, match="in use"):
                await lab.borrow(ONE)


async def test_a_credential_that_is_not_there_opens_no_files(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("no such device or credential")
    async with site.lab(spec(), **NOTHING) as lab:
        with pytest.raises(NoFileTransferError, match="no such device"):
            await lab.borrow(Target("acme", "nobody", "web01"))
        assert lab.pool.ready(ROOT) is None


async def test_a_session_that_is_killed_is_lost_and_opened_anew(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("the session was lost")
    forgotten = trio.Event()
    async with site.lab(spec(), **NOTHING) as lab:
        lab.pool.on_forget(lambda _target: forgotten.set())
        await lab.borrow(ROOT)
        await lab.admin("kill_sessions")
        await forgotten.wait()
        await lab.borrow(ROOT)
        assert lab.pool.statistics().logins == 2


async def test_a_changed_host_key_gets_no_password(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("has changed")
    async with site.lab(spec(), **NOTHING) as lab:
        old, new = lab.running.address.host_key, ""
        await lab.admin("rotate_host_key")
        new = lab.running.address.host_key
        assert old != new
        with pytest.raises(HostKeyError) as caught:
            await lab.borrow(ROOT)
        assert str(caught.value).count("SHA256:") == 2
        assert await lab.events("auth_ok") == await lab.events("auth_failed") == []


async def test_a_new_host_key_is_learned_once(site: SessionSite) -> None:
    file = site.folder / "known/hosts"
    settings = {"host_keys": HostKeyPolicy.ACCEPT_NEW, "known_hosts": file}
    async with site.lab(spec(), **settings, **NOTHING) as lab:
        await lab.borrow(ROOT)
        await lab.borrow(ONE)
        assert len(file.read_text().splitlines()) == 1
        strict = changed(lab.acme, host_keys=HostKeyPolicy.STRICT, known_hosts=file)
        async with site.pool(strict) as other:
            await borrow(other, ROOT)


async def test_a_proxy_that_is_down_is_unreachable_at_once(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("127.0.0.1:1:")
    acme = tenant(port=1, password=WRONG)
    async with site.pool(acme) as pool:
        with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1: .*refused"):
            await borrow(pool, ROOT)


async def test_a_proxy_that_says_nothing_is_unreachable_in_time(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("did not answer")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        acme = tenant(
            port=silent.getsockname()[1], password=WRONG, connect_timeout_s=0.2
        )
        async with site.pool(acme) as pool:
            with pytest.raises(UnreachableError, match="did not answer"):
                await borrow(pool, ROOT)


@pytest.mark.parametrize("within_ms", range(0, 24, 2))
async def test_a_mount_that_ends_during_a_login_leaves_no_session_behind(
    within_ms: int, site: SessionSite
) -> None:
    """A login takes about 15 ms here: the end comes before, during and after it."""
    async with site.lab(spec(), **NOTHING) as lab:
        acme = lab.acme
        async with site.pool(acme) as pool, trio.open_nursery() as nursery:
            nursery.start_soon(try_to_borrow, pool)
            await trio.sleep(within_ms / 1000)
            assert await pool.close(5) == ()
        opened = len(await lab.events("auth_ok"))
        await eventually(lambda: lab.running.sessions() == [])
        assert len(await lab.events("connection")) >= opened


async def try_to_borrow(pool: Pool) -> None:
    with contextlib.suppress(AbandonedError):
        await borrow(pool, ROOT)


async def test_no_secret_is_in_the_log_at_its_most_talkative(
    site: SessionSite, expect_log: LogLedger, caplog: pytest.LogCaptureFixture
) -> None:
    expect_log("refused")
    caplog.set_level(logging.DEBUG)
    async with site.lab(spec()) as lab:
        await lab.borrow(CODE)
        used = [text for text in (code(-1), code(), code(1)) if text]
        wrong = changed(lab.acme, password=WRONG, **NOTHING)
        async with site.pool(wrong) as other:
            with pytest.raises(LoginRefusedError):
                await borrow(other, ROOT)
    text = caplog.text
    assert "dialing -> ready" in text
    for secret in (PASSWORD, SEED, "wrong horse", *used):
        assert secret not in text


async def test_a_plain_sshd_is_a_proxy_too(site: SessionSite) -> None:
    (site.folder / "sshd").mkdir()
    with running_sshd(site.folder / "sshd") as sshd:
        acme = tenant(
            dialect=find_dialect("<credential>"),
            port=sshd.port,
            key=KeySource(file=sshd.client_key),
            known_hosts=sshd.known_hosts,
        )
        here = RemotePath(bytes(site.folder))
        async with (
            site.pool(acme) as pool,
            pool.lend(Target("acme", sshd.user, "web01"), ME) as tree,
        ):
            assert tree.capabilities.posix_rename
            assert b"sshd" in {entry.name for entry in await tree.list_dir(here)}
