"""Connections that are lost in the middle of a login: a lost line, or a refusal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pamfs.config import AnswerSource, SourceKind
from pamfs.errors import LoginRefusedError, NoFileTransferError, UnreachableError
from pamfs.sessions.pool import Pool
from pamfs.sessions.prompts.question import Kind
from tests.conftest import LogLedger
from tests.fakes.pools import borrow, reborrow
from tests.fakes.proxy import Script
from tests.fakes.tenants import WEB01
from tests.integration.session_site import SessionSite, eventually, site

__all__ = ["site"]  # the fixture


@asynccontextmanager
async def lost_session(site: SessionSite, script: Script) -> AsyncIterator[Pool]:
    """Log in once, and lose the session."""
    site.spares_account = True
    async with site.proxy(script, cooldown_s=300) as pool:
        await borrow(pool)

        async def lose() -> None:
            script.connections[-1].abort()

        await site.bridge.call(lose)
        await eventually(lambda: pool.ready(WEB01) is None)
        yield pool


def answers(script: Script) -> int:
    return len(script.offered("answer"))


@pytest.fixture
def script(tmp_path: Path, expect_log: LogLedger) -> Script:
    expect_log("lost|Lost|reset|Broken pipe")
    return Script(tmp_path)


@pytest.mark.parametrize(
    ("cuts", "sent"),
    [
        pytest.param(["begin"] * 4, 2, id="before any secret"),
        pytest.param(["answer"], 3, id="one secret not answered"),
        pytest.param(["files"] * 3, 5, id="before the file session"),
    ],
)
async def test_a_reconnect_goes_on_after_a_line_that_is_lost(
    cuts: list[str], sent: int, site: SessionSite, script: Script
) -> None:
    async with lost_session(site, script) as pool:
        script.cuts += cuts
        await reborrow(pool)
        assert answers(script) == sent


async def test_a_first_login_that_is_cut_before_any_secret_is_no_refusal(
    site: SessionSite, script: Script
) -> None:
    script.cuts.append("begin")
    site.spares_account = True
    async with site.proxy(script) as pool:
        with pytest.raises(UnreachableError):
            await borrow(pool)
        assert answers(script) == 0


async def test_after_two_secrets_without_an_answer_none_is_sent(
    site: SessionSite, script: Script, expect_log: LogLedger
) -> None:
    """The proxy may refuse by hanging up, and count them."""
    expect_log("2 unattended logins of this account were refused")
    async with lost_session(site, script) as pool:
        script.cuts += ["answer"] * 9
        with pytest.raises(LoginRefusedError):
            await reborrow(pool)
        assert answers(script) == 3


async def test_a_secret_that_was_never_accepted_counts_as_refused(
    site: SessionSite, script: Script, expect_log: LogLedger
) -> None:
    expect_log("ended the login")
    script.cuts.append("answer")
    site.spares_account = True
    async with site.proxy(script) as pool:
        with pytest.raises(LoginRefusedError):
            await borrow(pool)
        assert answers(script) == 1


async def test_a_proxy_that_never_opened_files_and_hangs_up_grants_none(
    site: SessionSite, script: Script, expect_log: LogLedger
) -> None:
    expect_log("opens no file session")
    script.cuts.append("files")
    async with site.proxy(script) as pool:
        with pytest.raises(NoFileTransferError):
            await borrow(pool)


async def test_a_question_says_that_it_is_a_reconnection_and_what_waits(
    site: SessionSite, script: Script
) -> None:
    site.person.answers = {Kind.PASSWORD: "hunter2"}
    password = AnswerSource(SourceKind.PROMPT)
    async with site.proxy(script, password=password) as pool:
        pool.count_waiting_with(lambda _: 12_345)
        await borrow(pool)

        async def lose() -> None:
            script.connections[-1].abort()

        await site.bridge.call(lose)
        await eventually(lambda: pool.ready(WEB01) is None)
        await reborrow(pool)
    first, second = ("\n".join(asked.own_lines()) for asked in site.person.asked)
    assert "reconnection" not in first
    says = "reconnection: the session was lost; 12345 bytes wait to be stored"
    assert says in second
