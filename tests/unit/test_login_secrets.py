"""What is answered in one login: each secret once, and to the right question."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyotp
import pytest
import trio
from trio.testing import MockClock

from pamfs.config import AnswerSource, KeySource, OtpPlace, SourceKind
from pamfs.errors import (
    CannotAskError,
    DeclinedError,
    LoginRefusedError,
    PasswordExpiredError,
)
from pamfs.logs import Redactor
from pamfs.model import Secret, Target
from pamfs.sessions.account.codes import Codes
from pamfs.sessions.account.turn import Account
from pamfs.sessions.answers import Answers
from pamfs.sessions.attempt import Attempt, Callers, PausableDeadline
from pamfs.sessions.login.secrets import LoginSecrets
from pamfs.sessions.prompts.question import Kind
from tests.fakes.people import FakePerson
from tests.fakes.tenants import ME, WEB01, tenant

SEED = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
CODE, NEXT_CODE = (pyotp.TOTP(SEED).at(instant) for instant in (60, 90))
PROMPT = AnswerSource(SourceKind.PROMPT)


def value(text: str) -> AnswerSource:
    return AnswerSource(SourceKind.VALUE, text)


PASSWORD, SEEDED = value("hunter2"), value(SEED)


@dataclasses.dataclass
class Talk:
    """A conversation, with the person and the redactor around it."""

    person: FakePerson = dataclasses.field(default_factory=FakePerson)
    redactor: Redactor = dataclasses.field(default_factory=Redactor)
    account: Account = dataclasses.field(default_factory=lambda: Account("alice"))
    codes: Codes = dataclasses.field(default_factory=lambda: Codes(lambda: 60))

    def begin(self, target: Target = WEB01, **changes: Any) -> LoginSecrets:
        attempt = Attempt(target, tenant(**changes), Callers(ME), PausableDeadline(30))
        return LoginSecrets(
            attempt, Answers(self.person), self.codes, self.account, self.redactor
        )


async def replies(
    conversation: LoginSecrets, *prompts: str, said: str = ""
) -> list[str] | None:
    found = await conversation.reply(said, [(prompt, False) for prompt in prompts])
    return None if found is None else [secret.reveal() for secret in found]


async def prepared(conversation: LoginSecrets) -> LoginSecrets:
    await conversation.prepare_password()
    await conversation.prepare_code()
    return conversation


async def test_a_code_from_the_seed_goes_into_the_user_name() -> None:
    talk = await prepared(
        Talk().begin(password=PASSWORD, otp=SEEDED, otp_in=OtpPlace.USER)
    )
    name = talk.user_name().reveal()
    assert name == f"alice%acme[root@web01{{ssh.22}}]{CODE}"
    assert repr(talk.user_name()) == "Secret(...)"


async def test_a_person_may_leave_the_code_out_of_the_user_name() -> None:
    person = FakePerson({Kind.CODE: ""})
    talk = await prepared(
        Talk(person).begin(password=PASSWORD, otp=PROMPT, otp_in=OtpPlace.USER)
    )
    assert talk.user_name().reveal().endswith("]")
    person.answers = {Kind.CODE: "424242"}
    assert await replies(talk, "One-time password: ") == ["424242"]


async def test_several_prompts_in_several_rounds_are_answered() -> None:
    talk = await prepared(
        Talk().begin(
            password=PASSWORD,
            otp=SEEDED,
            otp_in=OtpPlace.KEYBOARD_INTERACTIVE,
            reason=value("ticket 4711"),
        )
    )
    assert await replies(talk, "Password: ") == ["hunter2"]
    assert await replies(talk, "Token: ", "Reason: ") == [CODE, "ticket 4711"]


async def test_a_password_that_is_asked_for_twice_was_wrong() -> None:
    talk = await prepared(Talk().begin(password=PASSWORD))
    assert await replies(talk, "Password: ") == ["hunter2"]
    assert await replies(talk, "Password: ") is None
    assert await talk.password() is None


async def test_a_password_is_sent_once_whatever_the_method() -> None:
    talk = await prepared(Talk().begin(password=PASSWORD))
    sent = await talk.password()
    assert sent is not None
    assert sent.reveal() == "hunter2"
    assert await replies(talk, "Password: ") is None


async def test_no_password_is_asked_of_anybody_when_none_is_configured() -> None:
    talk = Talk()
    assert await replies(talk.begin(), "Password: ") is None
    assert talk.person.asked == []


@pytest.mark.parametrize(
    "place", [OtpPlace.USER, OtpPlace.PASSWORD, OtpPlace.KEYBOARD_INTERACTIVE]
)
async def test_a_seed_gives_a_second_code_in_the_next_step_and_no_third(
    place: OtpPlace, autojump_clock: MockClock
) -> None:
    began = trio.current_time()
    codes = Codes(lambda: 60 + trio.current_time() - began)
    talk = await prepared(
        Talk(codes=codes).begin(password=PASSWORD, otp=SEEDED, otp_in=place)
    )
    talk.user_name()
    if place is OtpPlace.KEYBOARD_INTERACTIVE:
        assert await replies(talk, "Code: ") == [CODE]
    elif place is OtpPlace.PASSWORD:
        assert await replies(talk, "Password: ") == [f"hunter2{CODE}"]
    assert await replies(talk, "Code: ") == [NEXT_CODE]
    with pytest.raises(LoginRefusedError, match="none is left to send"):
        await replies(talk, "Code: ")


async def test_a_code_that_nobody_configured_is_asked_of_a_person() -> None:
    talk = Talk(FakePerson({Kind.CODE: "424242"}))
    assert await replies(talk.begin(password=PASSWORD), "OTP: ") == ["424242"]
    (asked,) = talk.person.asked
    assert (asked.kind, asked.said, asked.echo) == (Kind.CODE, "OTP: ", False)
    assert asked.text == "One-time code of alice:"


async def test_an_unknown_prompt_goes_to_a_person_as_it_is() -> None:
    talk = Talk(FakePerson({Kind.OTHER: "1"}))
    prompt, said = "\n1. OTP\n2. SMS\nOption> ", "Please Select MFA Option"
    assert await replies(talk.begin(password=PASSWORD), prompt, said=said) == ["1"]
    (asked,) = talk.person.asked
    assert (asked.text, asked.said) == ("Answer:", f"{said}\n{prompt}")


async def test_what_a_person_declines_ends_the_login() -> None:
    talk = Talk(FakePerson({Kind.REASON: DeclinedError("no")}))
    with pytest.raises(DeclinedError):
        await replies(talk.begin(password=PASSWORD), "Reason: ")


async def test_a_person_chooses_from_the_reasons_of_the_configuration() -> None:
    person = FakePerson({Kind.REASON: "Incident", Kind.TICKET: "INC1"})
    talk = Talk(person).begin(password=PASSWORD, reasons=("Deployment", "Incident"))
    assert await replies(talk, "Reason: ", "Ticket: ") == ["Incident", "INC1"]
    reason, ticket = person.asked
    assert reason.choices == ("Deployment", "Incident")
    assert ticket.choices == ()


async def test_a_reason_that_is_asked_for_twice_was_refused() -> None:
    talk = Talk().begin(password=PASSWORD, reason=value("ticket"))
    assert await replies(talk, "Reason: ") == ["ticket"]
    with pytest.raises(LoginRefusedError, match="reason"):
        await replies(talk, "Reason: ")


async def test_an_expired_password_is_not_changed_here() -> None:
    talk = Talk().begin(password=PASSWORD)
    with pytest.raises(PasswordExpiredError, match="web interface"):
        await replies(talk, "New password: ", "Retype new password: ")


async def test_with_a_key_the_password_is_fetched_only_when_it_is_asked_for() -> None:
    talk = Talk(FakePerson({Kind.PASSWORD: "hunter2"}))
    conversation = await prepared(
        talk.begin(password=PROMPT, key=KeySource(agent=True))
    )
    assert talk.person.asked == []
    assert await replies(conversation, "Password: ") == ["hunter2"]
    assert len(talk.person.asked) == 1


async def test_the_time_of_a_person_and_of_a_time_step_is_not_the_proxys(
    autojump_clock: MockClock,
) -> None:
    began = autojump_clock.current_time()
    person = FakePerson({Kind.PASSWORD: "hunter2"}, takes_s=10)
    attempt = Attempt(
        WEB01,
        tenant(password=PROMPT, otp=SEEDED, otp_in=OtpPlace.USER),
        Callers(ME),
        PausableDeadline(5),
    )
    codes = Codes(lambda: 60 + trio.current_time() - began)
    await codes.issue(Secret(SEED))
    talk = LoginSecrets(attempt, Answers(person), codes, Account("a"), Redactor())
    with attempt.deadline.limit() as scope:
        await prepared(talk)
    assert not scope.cancelled_caught
    assert autojump_clock.current_time() - began == pytest.approx(30, abs=1)


async def test_every_secret_is_kept_out_of_texts_and_logs_and_then_let_go() -> None:
    around = Talk(FakePerson({Kind.OTHER: "mother's name"}))
    talk = await prepared(
        around.begin(password=PASSWORD, otp=SEEDED, otp_in=OtpPlace.USER)
    )
    name = talk.user_name().reveal()
    await replies(talk, "Password: ", "Favourite? ")
    text = f"Permission denied for user {name} hunter2 mother's name {SEED}"
    for clean in (talk.scrub, around.redactor.clean):
        for secret in ("hunter2", CODE, "mother's name", SEED):
            assert secret not in clean(text)
    talk.forget()
    assert "hunter2" in around.redactor.clean(text)
    assert CODE not in around.redactor.clean(text)
    assert CODE not in talk.scrub(text)
    talk.forget_codes()
    assert around.redactor.clean(text) == text


async def test_a_password_that_cannot_be_had_ends_the_login_before_it_begins() -> None:
    source = AnswerSource(SourceKind.FILE, "/nonexistent/password")
    with pytest.raises(CannotAskError, match="No such file"):
        await Talk().begin(password=source).prepare_password()
