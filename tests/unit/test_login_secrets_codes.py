"""Which codes are given after a refusal: another one if it was the code, or none."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyotp
import pytest
import trio
from trio.testing import MockClock

from pamfs.config import AnswerSource, OtpPlace, OtpWhen, SourceKind
from pamfs.errors import (
    Blame,
    CannotAskError,
    CredentialBusyError,
    LoginError,
    LoginRefusedError,
)
from pamfs.logs import Redactor
from pamfs.model import Secret
from pamfs.sessions.account.clock import Clock
from pamfs.sessions.account.codes import Codes
from pamfs.sessions.account.policy import UNATTENDED_BACK_OFF_S
from pamfs.sessions.account.turn import Account
from pamfs.sessions.answers import Answers
from pamfs.sessions.attempt import Attempt, Callers, PausableDeadline
from pamfs.sessions.login.secrets import LoginSecrets
from pamfs.sessions.prompts import Question
from pamfs.sessions.prompts.question import Kind
from tests.conftest import LogLedger
from tests.fakes.people import FakePerson
from tests.fakes.tenants import ME, WEB01, tenant

SEED = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
PROMPT = AnswerSource(SourceKind.PROMPT)
PASSWORD = AnswerSource(SourceKind.VALUE, "hunter2")
SEEDED = AnswerSource(SourceKind.VALUE, SEED)


def no() -> LoginRefusedError:
    """Return a new error: ``LoginSecrets`` writes into the one it is given."""
    return LoginRefusedError("no")


@dataclasses.dataclass
class Typist(FakePerson):
    """Types one code after the other."""

    codes: list[str] = dataclasses.field(default_factory=list)

    async def ask(self, question: Question) -> Secret:
        if question.kind is not Kind.CODE:
            return await super().ask(question)
        self.asked.append(question)
        return Secret(self.codes.pop(0))


class Site:
    """One account with its codes, in the time of the test; it began at 60."""

    def __init__(self, person: FakePerson | None = None) -> None:
        began = trio.current_time()
        self.person = person or FakePerson()
        self.account = Account("alice")
        self.clock = Clock(lambda: 60 + trio.current_time() - began, lambda: True)
        self.codes = Codes(clock=self.clock)

    def begin(self, **changes: Any) -> LoginSecrets:
        settings = {"password": PASSWORD, "otp": SEEDED, "otp_in": OtpPlace.USER}
        acme = tenant(**(settings | changes))
        attempt = Attempt(WEB01, acme, Callers(ME), PausableDeadline(30))
        answers = Answers(self.person)
        return LoginSecrets(attempt, answers, self.codes, self.account, Redactor())

    async def login(self, **changes: Any) -> str:
        """Log in, and be let in; return the code of the user name."""
        talk = self.begin(**changes)
        code = await send(talk)
        await talk.accepted()
        return code


async def send(talk: LoginSecrets) -> str:
    """Do what goes out in one try with an SSH password; return the user name's code."""
    await talk.prepare_password()
    await talk.prepare_code()
    await talk.begin()
    name = talk.user_name().reveal()
    await talk.password()
    return name.rpartition("]")[2]


def at(instant: float) -> str:
    return pyotp.TOTP(SEED).at(int(instant))


async def refuse(talk: LoginSecrets, error: LoginError) -> LoginError:
    found = await talk.refused(error)
    assert found is not None
    return found


async def test_nothing_is_repeated_while_it_may_be_the_password(
    autojump_clock: MockClock,
) -> None:
    talk = Site().begin()
    assert await send(talk) == at(60)
    error = await refuse(talk, no())
    assert isinstance(error, LoginRefusedError)
    assert error.rest_s == UNATTENDED_BACK_OFF_S


async def test_once_the_password_was_accepted_a_second_code_is_sent(
    autojump_clock: MockClock,
) -> None:
    site = Site()
    assert await site.login() == at(60)
    talk = site.begin()
    assert await send(talk) == at(90)
    assert await talk.refused(no()) is None
    assert await send(talk) == at(120)
    error = await refuse(talk, no())
    text = str(error)
    assert "00:01:30 UTC and 00:02:00 UTC by this machine's clock" in text
    assert "check the seed and this machine's clock" in text


@pytest.mark.parametrize(
    ("blame", "is_repeated"),
    [
        (Blame.CODE, True),
        (Blame.UNSAID, False),
        (Blame.PASSWORD, False),
        (Blame.ACCOUNT, False),
    ],
)
async def test_the_proxys_own_words_decide(
    blame: Blame, is_repeated: bool, autojump_clock: MockClock
) -> None:
    talk = Site().begin()
    await send(talk)
    error = await talk.refused(LoginRefusedError("no", blame))
    assert (error is None) == is_repeated


@pytest.mark.parametrize("blame", [Blame.PASSWORD, Blame.ACCOUNT])
async def test_what_names_the_account_is_believed_against_all_experience(
    blame: Blame, autojump_clock: MockClock
) -> None:
    site = Site()
    await site.login()
    talk = site.begin()
    await send(talk)
    await refuse(talk, LoginRefusedError("no", blame))


async def test_what_is_no_refusal_is_not_repeated(autojump_clock: MockClock) -> None:
    site = Site()
    await site.login()
    talk = site.begin()
    await send(talk)
    busy = CredentialBusyError("in use")
    assert await talk.refused(busy) is busy


async def test_a_code_that_was_asked_for_behind_the_password_is_sent_again(
    autojump_clock: MockClock,
) -> None:
    talk = Site().begin(otp_in=OtpPlace.KEYBOARD_INTERACTIVE)
    await send(talk)
    await talk.reply("", [("Token: ", False)])
    # What a server says that begins anew: it is not answered.
    assert await talk.reply("", [("Password: ", False)]) is None
    assert await talk.refused(no()) is None
    await send(talk)
    await talk.reply("", [("Token: ", False)])
    await refuse(talk, no())


async def test_with_password_and_code_in_one_round_it_may_be_either(
    autojump_clock: MockClock,
) -> None:
    talk = Site().begin(otp_in=OtpPlace.KEYBOARD_INTERACTIVE)
    await talk.reply("", [("Password: ", False), ("Token: ", False)])
    await refuse(talk, no())


async def test_another_password_than_the_accepted_one_is_not_trusted(
    autojump_clock: MockClock,
) -> None:
    site = Site()
    await site.login()
    talk = site.begin(password=AnswerSource(SourceKind.VALUE, "hunter3"))
    await send(talk)
    await refuse(talk, no())


async def test_a_person_is_asked_three_times_and_told_why(
    autojump_clock: MockClock,
) -> None:
    typist = Typist(codes=["111111", "222222", "333333"])
    talk = Site(typist).begin(otp=PROMPT)
    for code in ("111111", "222222"):
        assert await send(talk) == code
        assert await talk.refused(LoginRefusedError("no, mallory")) is None
    assert await send(talk) == "333333"
    error = await refuse(talk, no())
    assert isinstance(error, LoginRefusedError)
    assert error.rest_s == 0
    assert [question.details for question in typist.asked] == [
        "",
        "no, mallory",
        "no, mallory",
    ]


async def test_a_typed_password_is_asked_for_again_with_the_code(
    autojump_clock: MockClock,
) -> None:
    typist = Typist({Kind.PASSWORD: "hunter2"}, codes=["111111", "222222"])
    talk = Site(typist).begin(otp=PROMPT, password=PROMPT)
    await send(talk)
    assert await talk.refused(no()) is None
    await send(talk)
    kinds = [question.kind for question in typist.asked]
    assert kinds == [Kind.PASSWORD, Kind.CODE] * 2


async def test_a_code_that_was_refused_is_not_sent_again(
    autojump_clock: MockClock,
) -> None:
    typist = Typist(codes=["111111", "111 111", "111111"])
    talk = Site(typist).begin(otp=PROMPT)
    assert await send(talk) == "111111"
    assert await talk.refused(no()) is None
    with pytest.raises(LoginRefusedError, match="entered again"):
        await send(talk)
    assert "sent already" in typist.asked[-1].details


@pytest.mark.parametrize(
    "typed", ["12345", "123456789", "12345a", "\u0661\u0662\u0663\u0664\u0665\u0666"]
)
async def test_an_answer_of_the_wrong_form_is_not_sent(typed: str) -> None:
    talk = Site(Typist(codes=[typed, typed])).begin(otp=PROMPT)
    with pytest.raises(CannotAskError, match="six to eight digits") as caught:
        await send(talk)
    assert typed not in str(caught.value)
    with pytest.raises(CannotAskError):
        await talk.reply("", [("Token: ", False)])


async def test_a_server_that_asks_gets_no_empty_code() -> None:
    talk = Site(Typist(codes=[""])).begin(otp=None, otp_in=OtpPlace.NONE)
    with pytest.raises(CannotAskError):
        await talk.reply("", [("Token: ", False)])


async def test_a_person_is_asked_again_in_the_same_conversation() -> None:
    typist = Typist(codes=["111111", "222222", "333333"])
    talk = Site(typist).begin(otp=None, otp_in=OtpPlace.NONE)
    for code in ("111111", "222222", "333333"):
        (answer,) = await talk.reply("", [("Token: ", False)]) or ()
        assert answer.reveal() == code
    with pytest.raises(LoginRefusedError, match="none is left to send"):
        await talk.reply("", [("Token: ", False)])
    assert typist.asked[1].details.startswith("The code was wrong")


async def test_a_second_code_that_is_accepted_speaks_against_the_clock(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("of 00:01:30 UTC was refused, that of 00:02:00 UTC accepted: .* behind")
    expect_log("this clock is 95 s behind the vault's")
    site = Site()
    await site.login()
    site.clock.compare("the vault", site.clock.now() + 95)
    talk = site.begin()
    await send(talk)
    assert await talk.refused(no()) is None
    await send(talk)
    await talk.accepted()


LEARN: dict[str, Any] = {"otp_when": OtpWhen.LEARN}


async def test_while_none_is_needed_none_is_sent(autojump_clock: MockClock) -> None:
    site = Site()
    assert await site.login(**LEARN) == at(60)
    for place in (OtpPlace.USER, OtpPlace.PASSWORD):
        talk = site.begin(otp_in=place, **LEARN)
        assert await send(talk) == ""
        await talk.accepted()
    await trio.sleep(300)
    assert len(await send(site.begin(**LEARN))) == 6


async def test_a_longer_time_without_a_code_is_found_out(
    autojump_clock: MockClock,
) -> None:
    site = Site()
    await site.login(**LEARN)
    for wait_s in (200, 90, 130):
        await trio.sleep(wait_s)
        assert await site.login(**LEARN) == ""


async def test_a_code_that_was_left_out_in_vain_is_sent_and_the_time_remembered(
    autojump_clock: MockClock,
) -> None:
    site = Site()
    await site.login(**LEARN)
    await trio.sleep(120)
    talk = site.begin(**LEARN)
    assert await send(talk) == ""
    assert await talk.refused(no()) is None
    assert len(await send(talk)) == 6
    await talk.accepted()
    await trio.sleep(121)
    assert len(await send(site.begin(**LEARN))) == 6


async def test_after_a_left_out_code_one_wrong_code_is_the_last(
    autojump_clock: MockClock,
) -> None:
    site = Site()
    await site.login(**LEARN)
    talk = site.begin(**LEARN)
    assert await send(talk) == ""
    assert await talk.refused(no()) is None
    await send(talk)
    await refuse(talk, no())


async def test_a_proxy_that_asks_for_the_left_out_code_gets_it(
    autojump_clock: MockClock,
) -> None:
    site = Site()
    await site.login(**LEARN)
    talk = site.begin(**LEARN)
    assert await send(talk) == ""
    (answer,) = await talk.reply("", [("Token: ", False)]) or ()
    assert len(answer.reveal()) == 6
    await talk.accepted()
    assert len(await send(site.begin(**LEARN))) == 6
