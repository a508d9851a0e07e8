"""The codes of one attempt: from a seed, or from the person who is asked.

Law: what is sent has six to eight digits; no code is sent twice; of a seed at most
two are sent and of a person three, over all tries of the attempt; a try is written
down (``tries``) before its seed's code is made.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final

from pamfs.config import AnswerSource, SourceKind
from pamfs.errors import Blame, CannotAskError, LoginRefusedError
from pamfs.model import Secret
from pamfs.sessions.clock import as_text
from pamfs.sessions.otp import Code, Codes
from pamfs.sessions.retries import MOST_FROM_PERSON, MOST_FROM_SEED
from pamfs.sessions.tries import REST_S

_FORM: Final = re.compile(r"[0-9]{6,8}")

AskPerson = Callable[[str], Awaitable[Secret]]
FetchSeed = Callable[[AnswerSource], Awaitable[Secret]]


class LoginCodes:
    """Gives one code after another; nothing here is played or kept."""

    def __init__(
        self,
        source: AnswerSource | None,
        codes: Codes,
        account: str,
    ) -> None:
        is_seed = source is not None and source.kind is not SourceKind.PROMPT
        self._seed_source = source if is_seed else None
        self._codes = codes
        self._account = account
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
        """Return whether a try is written down that has not ended."""
        return self._has_begun

    async def check_rest(self) -> None:
        """Raise ``LoginRefusedError`` while the account rests."""
        await self._codes.tries.check(self._account)

    async def begin(self) -> None:
        """Write the try down, once; may wait for those of other daemons."""
        if not self._has_begun:
            self._began_at = await self._codes.tries.begin(self._account)
            self._has_begun = True

    async def strike(self) -> None:
        """Strike the try out again: it cost nothing."""
        if self._began_at is not None:
            await self._codes.tries.strike(self._account, self._began_at)
        self._has_begun, self._began_at = False, None

    async def from_seed(self, fetch: FetchSeed) -> Secret:
        """Return the next code of the seed; waits for its time step."""
        seed = await self._fetch(fetch)
        await self.begin()
        code = await self._codes.issue(seed, self._account)
        if not _FORM.fullmatch(code.secret.reveal()):
            raise CannotAskError("the otp seed gives no codes of six to eight digits")
        self._issued.append(code)
        return code.secret

    async def _fetch(self, fetch: FetchSeed) -> Secret:
        assert self._seed_source is not None  # noqa: S101 - from_person says so
        if self._seed is None:
            self._seed = await fetch(self._seed_source)
        return self._seed

    async def ask(self, ask: AskPerson, details: str, *, may_be_empty: bool) -> Secret:
        """Return the code that a person gives, asked again if it is an old one."""
        while not self.is_spent:
            self._asked += 1
            typed = "".join((await ask(details)).reveal().split())
            if not typed and may_be_empty:
                self._asked -= 1
                return Secret(typed)
            if not _FORM.fullmatch(typed):
                raise CannotAskError("a one-time code has six to eight digits")
            if typed not in self._typed:
                self._typed.add(typed)
                return Secret(typed)
            details = "This code was sent already. Wait for the next one."
        raise LoginRefusedError("the same one-time code was given again", Blame.CODE)

    async def note_refused(self, *, was_sent: bool, is_attended: bool) -> None:
        """Note that the codes so far were refused, or what else nobody gave."""
        new = self._issued[len(self._refused) :] if was_sent else []
        self._refused += new
        count = len(new) or int(not is_attended)
        if not count:
            await self.strike()
            return
        await self._codes.tries.refused(self._account, self._began_at, count)
        self._has_begun, self._began_at = False, None

    def explain(self, error: LoginRefusedError) -> LoginRefusedError:
        """Return ``error`` with what it means for the codes of a seed."""
        if not self._refused:
            return error
        text = f"{error} ({self._suspicion()})"
        rest_s = max(error.rest_s, REST_S)
        return LoginRefusedError(text, error.blame, rest_s=rest_s)

    async def note_accepted(self, *, was_sent: bool) -> str:
        """Note that the login came to be; return a warning, or nothing."""
        await self._codes.tries.accepted(self._account)
        self._has_begun, self._began_at = False, None
        if not (was_sent and self._issued and self._refused):
            return ""
        doubts = self._codes.clock.doubts()
        return (
            f"the one-time code of {as_text(self._refused[-1].begins_at)} was refused,"
            f" that of {as_text(self._issued[-1].begins_at)} accepted: this machine's"
            " clock is behind, or somebody else used the first"
        ) + (f"; {doubts}" if doubts else "")

    def forget(self) -> None:
        """Let go of the seed and of the codes."""
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
            " is the seed the right one, and the clock right?"
        ) + (f" {doubts}" if doubts else "")
