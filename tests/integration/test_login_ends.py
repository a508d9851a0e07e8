"""Attempts that end before their time: no secret is left, and nobody asked in vain."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from pamfs.config import AnswerSource, OtpPlace, SourceKind
from pamfs.errors import CannotAskError, LoginError
from pamfs.logs import REDACTOR
from pamfs.model import Target
from pamfs.sessions.pool import Pool
from pamfs.sessions.prompts.question import Kind
from tests.conftest import LogLedger
from tests.fakes.pools import borrow
from tests.fakes.proxy import Script
from tests.fakes.tenants import WEB01, WEB02
from tests.integration.session_site import SessionSite, site

__all__ = ["site"]  # the fixture

PROMPT = AnswerSource(SourceKind.PROMPT)


async def test_an_attempt_that_ends_before_the_first_packet_keeps_no_secret(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("nobody is there")
    site.person.answers = {Kind.PASSWORD: "hunter2"}
    script = Script(site.folder)
    changes = {"password": PROMPT, "otp": PROMPT, "otp_in": OtpPlace.USER}
    async with site.proxy(script, **changes) as pool:
        with pytest.raises(CannotAskError):
            await borrow(pool)
        kinds = [question.kind for question in site.person.asked]
        assert kinds == [Kind.PASSWORD, Kind.CODE]
        assert script.open_connections == 0
        assert REDACTOR.clean("hunter2") == "hunter2"


async def test_who_waits_for_its_turn_is_asked_nothing_in_vain(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("refused the login|the account backs off")
    site.spares_account = True
    site.person.answers = {Kind.PASSWORD: "hunter2"}
    wrong: dict[str, Any] = {"password": "other", "answers": (("other",),)}
    script = Script(site.folder, steps=("any",), **wrong)
    async with site.proxy(script, password=PROMPT) as pool:
        async with trio.open_nursery() as nursery:
            for target in (WEB01, WEB02):
                nursery.start_soon(borrow_or_fail, pool, target)
        assert len(site.person.asked) == 1
        assert script.offered("answer") + script.offered("password") == ["hunter2"]


async def borrow_or_fail(pool: Pool, target: Target) -> None:
    with pytest.raises(LoginError):
        await borrow(pool, target)
