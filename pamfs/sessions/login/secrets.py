"""The secrets of one login: each is sent at most once a try, to its kind of question.

Invariants, per try (a try is one connection; an attempt has at most three):

- The password goes on the wire at most once, and only to a question for a password; a
  reason likewise. A server that asks again has refused the secret, and an unattended
  second try would count against the account. ``policy`` decides whether there is a
  second try, and that try always has a new code.
- A code has six to eight digits, no code is sent twice. Over all tries at most two
  codes from a seed, or three from a person, are sent.
- A try is in the ledger (``account.ledger``) before its seed's code is made, and it is
  struck out or counted when its end is known.

``LoginSecrets`` answers the server (it is a ``transport.base.Responder``) and
knows every secret of the login. Each one is known to the log's redactor from the
moment it is fetched; ``forget`` drops them at the end of the login, except the codes
that were sent: these may be part of the SSH user name, and ``forget_codes`` drops them
when the connection is closed. ``LoginCodes`` gives the codes, one after the other.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from pamfs.config import AnswerSource, LoginConfig, OtpPlace, OtpWhen, SourceKind
from pamfs.errors import (
    Blame,
    CannotAskError,
    CutLoginError,
    LoginError,
    LoginRefusedError,
    PasswordExpiredError,
)
from pamfs.logs import REDACTOR, Redactor
from pamfs.model import Caller, Secret
from pamfs.naming.dialects import MASK
from pamfs.sessions.account.clock import as_text
from pamfs.sessions.account.codes import Code, Codes
from pamfs.sessions.account.policy import (
    MOST_FROM_PERSON,
    MOST_FROM_SEED,
    UNATTENDED_BACK_OFF_S,
    RefusedTries,
    plan_rest,
    plan_retry,
)
from pamfs.sessions.account.turn import Account
from pamfs.sessions.answers import Answers
from pamfs.sessions.attempt import Attempt
from pamfs.sessions.prompts import Question
from pamfs.sessions.prompts.question import Kind, classify

log = logging.getLogger(__name__)

_CODE_FORMAT: Final = re.compile(r"[0-9]{6,8}")
_FROM_PERSON: Final = AnswerSource(SourceKind.PROMPT)

AskPerson = Callable[[str], Awaitable[Secret]]
FetchSeed = Callable[[AnswerSource], Awaitable[Secret]]


class LoginCodes:
    """The codes of one attempt, from a seed or from the person who is asked."""

    def __init__(
        self,
        source: AnswerSource | None,
        codes: Codes,
        account: str,
        within_s: float,
    ) -> None:
        """``within_s``: how long a login of this tenant may take."""
        is_seed = source is not None and source.kind is not SourceKind.PROMPT
        self._seed_source = source if is_seed else None
        self._codes = codes
        self._account = account
        self._within_s = within_s
        self._seed: Secret | None = None
        self._asked = 0
        self._typed: set[str] = set()
        self._issued: list[Code] = []
        self._refused: list[Code] = []
        self._has_begun = False
        self._began_at: float | None = None

    @property
    def from_person(self) -> bool:
        """Return whether a person gives them."""
        return self._seed_source is None

    @property
    def is_spent(self) -> bool:
        """Return whether there is none left to give."""
        if self.from_person:
            return self._asked >= MOST_FROM_PERSON
        return len(self._issued) >= MOST_FROM_SEED

    @property
    def has_begun(self) -> bool:
        """Return whether the ledger has an entry for a try that has not ended."""
        return self._has_begun

    async def check_back_off(self) -> None:
        """Raise ``LoginRefusedError`` while the account backs off."""
        await self._codes.ledger.check(self._account)

    async def begin(self) -> None:
        """Write the try into the ledger, once; may wait for those of other daemons."""
        if not self._has_begun:
            self._began_at = await self._codes.ledger.begin(
                self._account, self._within_s
            )
            self._has_begun = True

    async def strike(self) -> None:
        """Strike the try out of the ledger: it cost nothing."""
        if self._began_at is not None:
            await self._codes.ledger.strike(self._account, self._began_at)
        self._has_begun, self._began_at = False, None

    async def from_seed(self, fetch: FetchSeed) -> Secret:
        """Return the next code of the seed; waits for its time step."""
        seed = await self._fetch(fetch)
        await self.begin()
        code = await self._codes.issue(seed, self._account)
        if not _CODE_FORMAT.fullmatch(code.secret.reveal()):
            raise CannotAskError("the otp seed gives no codes of six to eight digits")
        self._issued.append(code)
        return code.secret

    async def _fetch(self, fetch: FetchSeed) -> Secret:
        assert self._seed_source is not None  # noqa: S101 - from_person says so
        if self._seed is None:
            self._seed = await fetch(self._seed_source)
        return self._seed

    async def ask(self, ask: AskPerson, details: str, *, may_be_empty: bool) -> Secret:
        """Return a person's code; ask again if it was sent before.

        May be empty if ``may_be_empty``.
        """
        while not self.is_spent:
            self._asked += 1
            typed = "".join((await ask(details)).reveal().split())
            if not typed and may_be_empty:
                self._asked -= 1
                return Secret(typed)
            if not _CODE_FORMAT.fullmatch(typed):
                raise CannotAskError("a one-time code has six to eight digits")
            if typed not in self._typed:
                self._typed.add(typed)
                return Secret(typed)
            details = "This code was sent already: wait for the next one."
        raise LoginRefusedError("the same one-time code was entered again", Blame.CODE)

    async def note_refused(self, *, was_sent: bool, is_attended: bool) -> None:
        """Note that the sent codes, or another unattended secret, were refused."""
        new = self._issued[len(self._refused) :] if was_sent else []
        self._refused += new
        count = len(new) or int(not is_attended)
        if not count:
            await self.strike()
            return
        await self._codes.ledger.refused(self._account, self._began_at, count)
        self._has_begun, self._began_at = False, None

    def explain(self, error: LoginRefusedError) -> LoginRefusedError:
        """Return ``error`` with the refused codes of a seed and a back-off."""
        if not self._refused:
            return error
        text = f"{error} ({self._suspicion()})"
        rest_s = max(error.rest_s, UNATTENDED_BACK_OFF_S)
        return LoginRefusedError(text, error.blame, rest_s=rest_s)

    async def note_accepted(self, *, was_sent: bool) -> str:
        """Note that the login succeeded; return a warning, or nothing."""
        await self._codes.ledger.accepted(self._account)
        self._has_begun, self._began_at = False, None
        if not (was_sent and self._issued and self._refused):
            return ""
        doubts = self._codes.clock.doubts()
        return (
            f"the one-time code of {as_text(self._refused[-1].begins_at)} was refused,"
            f" that of {as_text(self._issued[-1].begins_at)} accepted: this machine's"
            " clock is behind, or another client used the first"
        ) + (f"; {doubts}" if doubts else "")

    def forget(self) -> None:
        """Drop the seed and the codes."""
        self._seed = None
        self._typed.clear()
        self._issued.clear()
        self._refused.clear()

    def _suspicion(self) -> str:
        times = " and ".join(as_text(code.begins_at) for code in self._refused)
        doubts = self._codes.clock.doubts()
        if len(self._refused) < MOST_FROM_SEED:
            return f"with the code of {times} by this machine's clock"
        return (
            f"two one-time codes, of {times} by this machine's clock, were refused:"
            " check the seed and this machine's clock"
        ) + (f" {doubts}" if doubts else "")


class LoginSecrets:
    """The answers of one login; a ``transport.base.Responder``."""

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
        self._account = account or Account(attempt.tenant.login.operator)
        self._clock = codes.clock
        limits, otp = attempt.tenant.session, attempt.tenant.login.otp
        within_s = limits.connect_timeout_s + limits.login_timeout_s
        self._codes = LoginCodes(otp, codes, self._account.key, within_s)
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
    def _login(self) -> LoginConfig:
        return self._attempt.tenant.login

    async def prepare_password(self) -> None:
        """Get the password before the dial, unless a key is configured."""
        source = self._login.password
        if source is not None and self._login.key is None and self._password is None:
            self._password = await self._fetch_password(source)

    async def check_back_off(self) -> None:
        """Raise ``LoginRefusedError`` while the account backs off."""
        await self._codes.check_back_off()

    async def prepare_code(self) -> None:
        """Get the code now if it is needed before the server can ask."""
        place = self._login.otp_in
        with_password = place is OtpPlace.PASSWORD and self._password is not None
        if place is OtpPlace.USER or with_password:
            await self._obtain_unasked_code()

    async def begin(self) -> None:
        """Write into the ledger that a try begins; may wait for other mounts."""
        self._attempt.awaiting = "another mount's login of the account"
        try:
            with self._attempt.deadline.paused():
                await self._codes.begin()
        finally:
            self._attempt.awaiting = ""

    async def end(self) -> None:
        """Note that there is no link: unanswered secrets count as refused."""
        attempt = self._attempt
        may_be_refused = attempt.is_answered and attempt.has_sent
        late = LoginRefusedError("no answer")
        is_attended = not may_be_refused or not plan_rest(self._from_person, late)
        was_sent = may_be_refused and Kind.CODE in self._is_sent
        if self._codes.has_begun:
            await self._codes.note_refused(was_sent=was_sent, is_attended=is_attended)

    async def refused(self, error: LoginError) -> LoginError | None:
        """Note that the try failed; return None if there is to be another one.

        Then ``prepare_password`` and ``prepare_code`` come first, as before.
        """
        error = self._meaning(error)
        if isinstance(error, CutLoginError) and error.is_unanswered:
            await self._count(LoginRefusedError("no answer"))
            return error
        if not isinstance(error, LoginRefusedError):
            with trio.CancelScope(shield=True):
                await self._codes.strike()
            return error
        self._refusals += 1
        await self._count(error)
        if self._codes.is_spent or not plan_retry(self._tried(), error):
            return self.explain(error)
        source = self._login.password
        is_doubtful = error.blame is not Blame.CODE and not self._is_beyond_password
        if source and source.kind is SourceKind.PROMPT and is_doubtful:
            self._password = None
        self._refusal = self.scrub(str(error))
        self._code = None
        self._is_sent.clear()
        self._attempt.has_sent = False
        self._last_round.clear()
        return None

    def _meaning(self, error: LoginError) -> LoginError:
        """Return what ``error`` means: a refusal, if nothing vouches for the secret.

        A proxy may refuse by hanging up. What it accepted before in this mount is
        taken for right: then the line was lost.
        """
        if not isinstance(error, CutLoginError):
            return error
        with_key = self._login.key is not None and self._account.is_proven(None)
        is_proven = with_key or self._account.is_proven(self._password)
        return error if is_proven else error.meant

    async def _count(self, error: LoginRefusedError) -> None:
        """Count the try in the ledger as refused, or perhaps refused."""
        is_attended = not plan_rest(self._from_person, error)
        # Shielded: a caller that leaves now must not undo the count.
        with trio.CancelScope(shield=True):
            was_sent = Kind.CODE in self._is_sent
            await self._codes.note_refused(was_sent=was_sent, is_attended=is_attended)

    def explain(self, error: LoginError) -> LoginError:
        """Return ``error`` with the refused codes of a seed, and its back-off."""
        if not isinstance(error, LoginRefusedError):
            return error
        explained = self._codes.explain(error)
        explained.rest_s = max(explained.rest_s, plan_rest(self._from_person, error))
        return explained

    async def accepted(self) -> None:
        """Note that the login succeeded."""
        self._account.prove(self._sent_password)
        self._account.code_free.note_login(
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
        asks_for_none = self._login.password is None or self._login.key is not None
        return asks_for_none or Kind.PASSWORD in self._is_sent

    def _tried(self) -> RefusedTries:
        return RefusedTries(
            tries=self._refusals,
            from_person=self._codes.from_person,
            had_place_for_code=self._left_out_at is not None
            or Kind.CODE in self._is_sent,
            is_password_proven=self._account.is_proven(self._sent_password),
            was_code_last=self._was_code_last,
        )

    @property
    def has_code_in_name(self) -> bool:
        """Whether the SSH user name holds a code."""
        return self._login.otp_in is OtpPlace.USER and bool(self._code)

    def user_name(self) -> Secret:
        """Return the SSH user name, with the code if that is its place.

        Raises ``NameRefusedError`` if a part would break out of the grammar.
        """
        code = ""
        if self._code and self.has_code_in_name:
            code = self._code.reveal()
            self._note_sent(Kind.CODE)
        login, target = self._login, self._attempt.target
        return Secret(login.dialect.user_name(login.operator, target, code))

    async def passphrase(self, file: str) -> Secret:
        """Return the passphrase of the key in ``file``."""
        key = self._login.key
        source = key.passphrase if key and key.passphrase else _FROM_PERSON
        return await self._fetch(source, Kind.OTHER, f"Passphrase of {file}:")

    async def password(self) -> Secret | None:
        """Return the answer to a request for the password; None the second time."""
        source = self._login.password
        if source is None or Kind.PASSWORD in self._is_sent:
            return None
        self._note_sent(Kind.PASSWORD)
        if self._password is None:
            self._password = await self._fetch_password(source)
        self._last_round = {Kind.PASSWORD}
        if self._login.otp_in is not OtpPlace.PASSWORD:
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
        """Drop every secret at the end of the login, but the codes that were sent."""
        for secret in self._in_play:
            self._redactor.forget(secret)
        self._in_play.clear()
        self._codes.forget()
        self._password = self._code = None

    def forget_codes(self) -> None:
        """Drop the sent codes: no connection has them in its user name any more."""
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
                # A ticket, or an unknown question: a person reads it as it is.
                said = f"{instructions}\n{prompt}"
                question = self._question(kind, said=said)
                return await self._ask(replace(question, echo=echo))

    async def _another_code(self, prompt: str) -> Secret:
        if self._code and Kind.CODE not in self._is_sent:
            # Meant to be appended to the password, but the server asks for it first.
            self._note_sent(Kind.CODE)
            return self._code
        if self._codes.is_spent:
            raise LoginRefusedError(
                "the proxy asks for one more one-time code, and none is left to send:"
                " the last ones were wrong; check the seed and this machine's clock",
                Blame.CODE,
            )
        again = "The code was wrong, or another one is needed."
        details = again if Kind.CODE in self._is_sent else self._refusal
        code = await self._next_code(details, said=prompt, may_be_empty=False)
        self._note_sent(Kind.CODE)
        return code

    async def _reason(self, prompt: str) -> Secret:
        if Kind.REASON in self._is_sent:
            raise LoginRefusedError("the proxy did not accept the reason")
        self._is_sent.add(Kind.REASON)
        source = self._login.reason or _FROM_PERSON
        if source.kind is SourceKind.PROMPT:
            question = self._question(Kind.REASON, said=prompt)
            return await self._ask(replace(question, echo=True))
        return await self._fetch(source, Kind.REASON)

    async def _fetch_password(self, source: AnswerSource) -> Secret:
        text = f"Password of {self._login.operator}:"
        return await self._fetch(source, Kind.PASSWORD, text)

    async def _obtain_unasked_code(self) -> None:
        """Get the code that goes out before the server can ask, if one is needed."""
        is_learning = self._login.otp_when is OtpWhen.LEARN and not self._refusals
        now = self._clock.now()
        if is_learning and not self._account.code_free.plan_code(now):
            self._left_out_at = now
        else:
            self._code = await self._next_code(self._refusal, may_be_empty=True)

    async def _next_code(
        self, details: str, said: str = "", *, may_be_empty: bool
    ) -> Secret:
        """Return a code from the seed, or from a person."""
        text = f"One-time code of {self._login.operator}:"
        if self._codes.from_person:
            question = replace(
                self._question(Kind.CODE, text, said), may_be_empty=may_be_empty
            )

            async def ask(details: str) -> Secret:
                return await self._ask(replace(question, details=details))

            code = await self._codes.ask(ask, details, may_be_empty=may_be_empty)
        else:
            fetch = partial(self._fetch_seed, text)
            # The wait for the next time step is not the proxy's delay.
            with self._attempt.deadline.paused():
                code = await self._codes.from_seed(fetch)
        return self._play(code, Kind.CODE)

    async def _fetch_seed(self, text: str, source: AnswerSource) -> Secret:
        return await self._fetch(source, Kind.CODE, text)

    async def _fetch(self, source: AnswerSource, kind: Kind, text: str = "") -> Secret:
        if source.kind is SourceKind.PROMPT:
            return await self._ask(self._question(kind, text))
        question = self._question(kind, text)
        with self._attempt.deadline.paused():
            secret = await self._answers.fetch(source, question)
        return self._play(secret)

    async def _ask(self, question: Question) -> Secret:
        async def ask(caller: Caller) -> Secret:
            return await self._answers.ask(replace(question, caller=caller))

        self._from_person.add(question.kind)
        return self._play(await self._attempt.ask(ask), question.kind)

    def _question(self, kind: Kind, text: str = "", said: str = "") -> Question:
        """Return a question in pamfs's words, with what the server ``said``."""
        proxy = self._attempt.tenant.proxy
        return Question(
            kind=kind,
            text=text or f"{kind.value.capitalize()}:",
            said=said,
            target=self._attempt.target,
            pam=f"{proxy.host}:{proxy.port}",
            caller=self._attempt.caller,
            reconnection=self._attempt.reconnection(),
            deadline=trio.current_time() + self._login.prompt_timeout_s,
            choices=self._login.reasons if kind is Kind.REASON else (),
        )
