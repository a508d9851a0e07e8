"""What is answered in one login: each secret once, and never to the wrong question.

Law: in each try the password goes on the wire at most once, and only to a question
for a password; a reason likewise. A server that asks for them again has refused,
and an unattended second try would count against the account: whether there is one
says ``retries``, and only a code makes it. The secrets live in here, known to the
redactor, and ``forget`` ends them with the login.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import trio

from pamfs.config import AnswerSource, OtpPlace, OtpWhen, SourceKind, TenantConfig
from pamfs.errors import Blame, LoginError, LoginRefusedError, PasswordExpiredError
from pamfs.model import Caller, Secret
from pamfs.naming.dialects import MASK
from pamfs.redaction import REDACTOR, Redactor
from pamfs.sessions.accounts import Account
from pamfs.sessions.answers import Answers
from pamfs.sessions.dial import Attempt
from pamfs.sessions.login_codes import LoginCodes
from pamfs.sessions.otp import Codes
from pamfs.sessions.prompts import Question
from pamfs.sessions.questions import Kind, classify
from pamfs.sessions.retries import Tried, plan_rest, plan_retry

log = logging.getLogger(__name__)

_FROM_PERSON = AnswerSource(SourceKind.PROMPT)


class Conversation:
    """The answers of one login; a ``transport.ssh.login.Responder``."""

    def __init__(
        self,
        attempt: Attempt,
        answers: Answers,
        codes: Codes,
        account: Account | None = None,
        redactor: Redactor = REDACTOR,
    ) -> None:
        self._attempt = attempt
        self._answers = answers
        self._account = account or Account(attempt.tenant.operator)
        self._clock = codes.clock
        self._codes = LoginCodes(attempt.tenant.otp, codes, self._account.name)
        self._redactor = redactor
        self._password: Secret | None = None
        self._code: Secret | None = None
        self._is_sent: set[Kind] = set()
        self._last_round: set[Kind] = set()
        self._refusals = 0
        self._refusal = ""
        self._left_out_at: float | None = None
        self._from_person: set[Kind] = set()
        self._in_play: list[Secret] = []
        self._spent: list[Secret] = []

    @property
    def _tenant(self) -> TenantConfig:
        return self._attempt.tenant

    async def prepare_password(self) -> None:
        """Get the password now if it is needed for certain: there is no key."""
        source = self._tenant.password
        if source is not None and self._tenant.key is None and self._password is None:
            self._password = await self._fetch_password(source)

    async def check_rest(self) -> None:
        """Raise ``LoginRefusedError`` if nothing is sent now: then nobody is asked."""
        await self._codes.check_rest()

    async def prepare_code(self) -> None:
        """Get the code now if it is needed before the server can ask."""
        place = self._tenant.otp_in
        with_password = place is OtpPlace.PASSWORD and self._password is not None
        if place is OtpPlace.USER or with_password:
            await self._obtain_unasked_code()

    async def begin(self) -> None:
        """Write down that a try begins; may wait for those of other mounts."""
        self._attempt.awaiting = "another mount's login of the account"
        try:
            with self._attempt.patience.paused():
                await self._codes.begin()
        finally:
            self._attempt.awaiting = ""

    async def end(self) -> None:
        """Take in that there is no link: what was sent and not answered is refused."""
        attempt = self._attempt
        is_staked = attempt.is_answered and attempt.has_sent
        late = LoginRefusedError("no answer")
        is_attended = not is_staked or not plan_rest(self._from_person, late)
        was_sent = is_staked and Kind.CODE in self._is_sent
        if self._codes.has_begun:
            await self._codes.note_refused(was_sent=was_sent, is_attended=is_attended)

    async def refused(self, error: LoginError) -> LoginError | None:
        """Take in that the try failed; None: there shall be another one.

        Then ``prepare_password`` and ``prepare_code`` come first, as before.
        """
        if not isinstance(error, LoginRefusedError):
            with trio.CancelScope(shield=True):
                await self._codes.strike()
            return error
        self._refusals += 1
        is_attended = not plan_rest(self._from_person, error)
        # Whoever gives up now may come again: what was refused stays known.
        with trio.CancelScope(shield=True):
            was_sent = Kind.CODE in self._is_sent
            await self._codes.note_refused(was_sent=was_sent, is_attended=is_attended)
        if self._codes.is_spent or not plan_retry(self._tried(), error):
            return self.explain(error)
        source = self._tenant.password
        is_doubtful = error.blame is not Blame.CODE and not self._is_beyond_password
        if source and source.kind is SourceKind.PROMPT and is_doubtful:
            self._password = None
        self._refusal = self.scrub(str(error))
        self._code = None
        self._is_sent.clear()
        self._attempt.has_sent = False
        self._last_round.clear()
        return None

    def explain(self, error: LoginError) -> LoginError:
        """Return ``error`` with what it means for a seed, and how long to rest."""
        if not isinstance(error, LoginRefusedError):
            return error
        explained = self._codes.explain(error)
        explained.rest_s = max(explained.rest_s, plan_rest(self._from_person, error))
        return explained

    async def accepted(self) -> None:
        """Take in that the login came to be."""
        self._account.prove(self._sent_password)
        self._account.free.note_login(
            self._clock.now(), self._left_out_at, had_code=Kind.CODE in self._is_sent
        )
        was_sent = Kind.CODE in self._is_sent
        if warning := await self._codes.note_accepted(was_sent=was_sent):
            log.warning("%s: %s", self._attempt.target, warning)

    @property
    def _is_beyond_password(self) -> bool:
        """Return whether the password, or the key, is known to be right."""
        return self._account.is_proven(self._sent_password) or self._was_code_last

    @property
    def _sent_password(self) -> Secret | None:
        return self._password if Kind.PASSWORD in self._is_sent else None

    @property
    def _was_code_last(self) -> bool:
        if Kind.CODE not in self._last_round or Kind.PASSWORD in self._last_round:
            return False
        asks_for_none = self._tenant.password is None or self._tenant.key is not None
        return asks_for_none or Kind.PASSWORD in self._is_sent

    def _tried(self) -> Tried:
        return Tried(
            tries=self._refusals,
            from_person=self._codes.from_person,
            had_place_for_code=self._left_out_at is not None
            or Kind.CODE in self._is_sent,
            is_password_proven=self._account.is_proven(self._sent_password),
            was_code_last=self._was_code_last,
        )

    def user_name(self) -> Secret:
        """Return the SSH user name, with the code if that is its place.

        Raises ``NameRefusedError`` if a part would break out of the grammar.
        """
        code = ""
        if self._tenant.otp_in is OtpPlace.USER and self._code:
            code = self._code.reveal()
            self._note_sent(Kind.CODE)
        tenant, target = self._tenant, self._attempt.target
        return Secret(tenant.dialect.user_name(tenant.operator, target, code))

    async def passphrase(self, file: str) -> Secret:
        """Return the passphrase of the key in ``file``."""
        key = self._tenant.key
        source = key.passphrase if key and key.passphrase else _FROM_PERSON
        return await self._fetch(source, Kind.OTHER, f"Passphrase of {file}:")

    async def password(self) -> Secret | None:
        """Return the answer to a request for the password; None the second time."""
        source = self._tenant.password
        if source is None or Kind.PASSWORD in self._is_sent:
            return None
        self._note_sent(Kind.PASSWORD)
        if self._password is None:
            self._password = await self._fetch_password(source)
        self._last_round = {Kind.PASSWORD}
        if self._tenant.otp_in is not OtpPlace.PASSWORD:
            return self._password
        if self._code is None:
            await self._obtain_unasked_code()
        if not self._code:
            return self._password
        self._note_sent(Kind.CODE)
        return self._play(Secret(self._password.reveal() + self._code.reveal()))

    async def reply(
        self, instructions: str, prompts: Sequence[tuple[str, bool]]
    ) -> Sequence[Secret] | None:
        """Return the answers to one round of prompts; None if one has none."""
        replies = []
        for prompt, echo in prompts:
            answer = await self._answer(prompt, instructions, echo=echo)
            if answer is None:
                return None
            replies.append(answer)
        if prompts:
            self._last_round = {classify(prompt, instructions) for prompt, _ in prompts}
        return replies

    def scrub(self, text: str) -> str:
        """Return ``text`` without any secret of this login."""
        texts = {secret.reveal() for secret in (*self._in_play, *self._spent)} - {""}
        for secret in sorted(texts, key=len, reverse=True):
            text = text.replace(secret, MASK)
        return text

    def forget(self) -> None:
        """Let go of every secret at the end of the login, but of the spent codes."""
        for secret in self._in_play:
            self._redactor.forget(secret)
        self._in_play.clear()
        self._codes.forget()
        self._password = self._code = None

    def forget_codes(self) -> None:
        """Let go of the spent codes: the connection is gone that has them as name."""
        for secret in self._spent:
            self._redactor.forget(secret)
        self._spent.clear()

    def _note_sent(self, kind: Kind) -> None:
        self._is_sent.add(kind)
        self._attempt.has_sent = True

    def _play(self, secret: Secret, kind: Kind = Kind.PASSWORD) -> Secret:
        self._redactor.register(secret)
        (self._spent if kind is Kind.CODE else self._in_play).append(secret)
        return secret

    async def _answer(
        self, prompt: str, instructions: str, *, echo: bool
    ) -> Secret | None:
        match classify(prompt, instructions):
            case Kind.PASSWORD:
                return await self.password()
            case Kind.CODE:
                return await self._another_code(prompt)
            case Kind.REASON:
                return await self._reason(prompt)
            case Kind.NEW_PASSWORD:
                raise PasswordExpiredError(
                    "the PAM wants a new password: change it in its web interface"
                )
            case kind:
                # A ticket, or what nobody foresaw: a person reads it as it is.
                return await self._ask(kind, prompt, instructions, echo=echo)

    async def _another_code(self, prompt: str) -> Secret:
        if self._code and Kind.CODE not in self._is_sent:
            # It was meant for behind the password, and the server asks first.
            self._note_sent(Kind.CODE)
            return self._code
        if self._codes.is_spent:
            raise LoginRefusedError(
                "the proxy asks for a one-time code after it was given all there are:"
                " they were wrong, or more are needed",
                Blame.CODE,
            )
        again = "The code was wrong, or another one is needed."
        details = again if Kind.CODE in self._is_sent else self._refusal
        code = await self._next_code(prompt, details, may_be_empty=False)
        self._note_sent(Kind.CODE)
        return code

    async def _reason(self, prompt: str) -> Secret:
        if Kind.REASON in self._is_sent:
            raise LoginRefusedError("the proxy did not accept the reason")
        self._is_sent.add(Kind.REASON)
        source = self._tenant.reason or _FROM_PERSON
        if source.kind is SourceKind.PROMPT:
            return await self._ask(Kind.REASON, prompt, echo=True)
        return await self._fetch(source, Kind.REASON, prompt)

    async def _fetch_password(self, source: AnswerSource) -> Secret:
        text = f"Password of {self._tenant.operator}:"
        return await self._fetch(source, Kind.PASSWORD, text)

    async def _obtain_unasked_code(self) -> None:
        """Get the code that goes out before the server can ask, if one is needed."""
        is_learning = self._tenant.otp_when is OtpWhen.LEARN and not self._refusals
        now = self._clock.now()
        if is_learning and not self._account.free.plan_code(now):
            self._left_out_at = now
        else:
            text = f"One-time code of {self._tenant.operator}:"
            self._code = await self._next_code(text, self._refusal, may_be_empty=True)

    async def _next_code(
        self, text: str, details: str, *, may_be_empty: bool
    ) -> Secret:
        """Return a code from the seed, or from a person."""
        if self._codes.from_person:
            ask = partial(self._ask, Kind.CODE, text, may_be_empty=may_be_empty)
            code = await self._codes.ask(ask, details, may_be_empty=may_be_empty)
        else:
            fetch = partial(self._fetch_seed, text)
            # The wait for the next time step is no slowness of the proxy.
            with self._attempt.patience.paused():
                code = await self._codes.from_seed(fetch)
        return self._play(code, Kind.CODE)

    async def _fetch_seed(self, text: str, source: AnswerSource) -> Secret:
        return await self._fetch(source, Kind.CODE, text)

    async def _fetch(self, source: AnswerSource, kind: Kind, text: str) -> Secret:
        if source.kind is SourceKind.PROMPT:
            return await self._ask(kind, text)
        question = self._question(kind, text)
        with self._attempt.patience.paused():
            secret = await self._answers.fetch(source, question)
        return self._play(secret)

    async def _ask(
        self,
        kind: Kind,
        text: str,
        details: str = "",
        *,
        echo: bool = False,
        may_be_empty: bool = False,
    ) -> Secret:
        question = replace(
            self._question(kind, text),
            details=details,
            echo=echo,
            may_be_empty=may_be_empty,
        )

        async def ask(caller: Caller) -> Secret:
            return await self._answers.ask(replace(question, caller=caller))

        self._from_person.add(kind)
        return self._play(await self._attempt.ask(ask), kind)

    def _question(self, kind: Kind, text: str) -> Question:
        return Question(
            kind=kind,
            text=text,
            target=self._attempt.target,
            caller=self._attempt.caller,
            deadline=trio.current_time() + self._tenant.prompt_timeout_s,
            choices=self._tenant.reasons if kind is Kind.REASON else (),
        )
