"""How long nothing is sent after a refusal: of what nobody typed, for ten minutes."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from pamfs.config import AnswerSource, OtpPlace
from pamfs.errors import Blame, LoginRefusedError
from pamfs.sessions.account.policy import UNATTENDED_BACK_OFF_S
from pamfs.sessions.prompts.question import Kind
from tests.unit.test_login_secrets_codes import (
    PASSWORD,
    PROMPT,
    Site,
    Typist,
    no,
    refuse,
    send,
)


async def test_two_refused_codes_end_it_for_every_target_of_the_account(
    autojump_clock: MockClock,
) -> None:
    site = Site()
    for _ in range(2):
        talk = site.begin()
        await send(talk)
        await refuse(talk, no())
    talk = site.begin()
    with pytest.raises(LoginRefusedError, match="none is sent before") as caught:
        await send(talk)
    assert 0 < caught.value.rest_s <= UNATTENDED_BACK_OFF_S
    await trio.sleep(UNATTENDED_BACK_OFF_S)
    assert len(await send(site.begin())) == 6


async def test_a_person_may_end_the_rest_of_a_seed(autojump_clock: MockClock) -> None:
    site = Site()
    for _ in range(2):
        talk = site.begin()
        await send(talk)
        await refuse(talk, no())
    await site.codes.ledger.pardon("bob")
    with pytest.raises(LoginRefusedError, match="none is sent before"):
        await send(site.begin())
    await site.codes.ledger.pardon("alice")
    assert len(await send(site.begin())) == 6


@pytest.mark.parametrize(
    ("blame", "password", "otp", "rest_s"),
    [
        (Blame.UNSAID, PASSWORD, None, UNATTENDED_BACK_OFF_S),
        (Blame.UNSAID, PROMPT, None, 0),
        (Blame.UNSAID, PASSWORD, PROMPT, 0),
        (Blame.PASSWORD, PASSWORD, PROMPT, UNATTENDED_BACK_OFF_S),
        (Blame.PASSWORD, PROMPT, PROMPT, 0),
    ],
)
async def test_a_secret_that_nobody_typed_is_not_sent_again_for_ten_minutes(
    blame: Blame, password: AnswerSource, otp: AnswerSource | None, rest_s: float
) -> None:
    typist = Typist({Kind.PASSWORD: "hunter2"}, codes=["111111", "222222", "333333"])
    place = OtpPlace.USER if otp else OtpPlace.NONE
    talk = Site(typist).begin(password=password, otp=otp, otp_in=place)
    await send(talk)
    while (error := await talk.refused(LoginRefusedError("no", blame))) is None:
        await send(talk)
    assert isinstance(error, LoginRefusedError)
    assert error.rest_s == rest_s


async def test_only_what_nobody_typed_is_counted_and_a_login_ends_the_count() -> None:
    site = Site(Typist({Kind.PASSWORD: "hunter2"}))
    no_code: dict[str, Any] = {"otp": None, "otp_in": OtpPlace.NONE}

    async def refuse_one(password: AnswerSource) -> None:
        talk = site.begin(password=password, **no_code)
        await talk.check_back_off()
        await send(talk)
        await refuse(talk, LoginRefusedError("no"))

    for password in (PROMPT, PROMPT, PROMPT, PASSWORD):
        await refuse_one(password)
    await site.login(password=PASSWORD, **no_code)
    for _ in range(2):
        await refuse_one(PASSWORD)
    with pytest.raises(LoginRefusedError, match="none is sent before"):
        await refuse_one(PASSWORD)
