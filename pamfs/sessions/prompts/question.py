"""Questions for a person: what a server's prompt means, and the form of an answer.

SSH does not say what a prompt asks for (RFC 4256), and the texts differ
(facts/pam.md#other-prompts). Law: a text that is not certainly a question for a
password gets none, and what is not understood goes to a person unchanged. A code is
looked for before a password: "One-time password" asks for a code, and so does
"Passcode".
"""

from __future__ import annotations

import pwd
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from pamfs.errors import DeclinedError
from pamfs.model import Caller, Secret, Target
from pamfs.printable import columns_of, one_line, printable
from pamfs.processes import program_of
from pamfs.transport.ssh.refusals import means_expired


class Kind(Enum):
    """What is asked for."""

    PASSWORD = "password"  # noqa: S105 - a kind, not a secret
    CODE = "one-time code"
    REASON = "reason"
    TICKET = "ticket"
    HOST_KEY = "unknown host key"
    NEW_PASSWORD = "new password"  # noqa: S105 - a kind, not a secret
    OTHER = "answer"


# In English and in the languages of the PAM makers: Portuguese, Spanish, French,
# German.
_NEW_PASSWORD: Final = re.compile(
    r"\b(new|retype|re-?enter|confirm|nova|repita|confirme|nueva|neues)\b"
    r".{0,30}(password|senha|contraseña|passwor|kennwort)"
)
# A choice, an approval: a person reads those.
_CHOICE: Final = re.compile(
    r"\boption\b|\bselect\b|\bchoose\b|\bopção\b|\[y/n\]|\(y/n\)|\byes/no\b"
    r"|press enter"
)
# Before a code: Segura calls it "governance code" (facts/pam.md#segura-login).
_TICKET: Final = re.compile(r"\bticket|\bchange id\b|\bgovernance\b")
_CODE: Final = re.compile(
    r"\bt?otp\b|one[- ]?time|\bonetime\b|\btoken\b|\bpasscode\b|\b[m2]fa\b"
    r"|two[- ]factor|second factor|authenticator|verification|\bcode\b"
    r"|\bc[oó]digo\b|\beinmal"
)
_REASON: Final = re.compile(
    r"\breason\b|justif|\bmotivo\b|\bmotive\b|\bgrund\b|\braison\b|purpose"
)
_PASSWORD: Final = re.compile(
    r"\bpassword\b|\bsenha\b|contraseña|mot de passe|\bpasswort\b|\bkennwort\b"
)


def classify(prompt: str, instructions: str = "") -> Kind:
    """Return what ``prompt`` asks for; ``instructions`` decide what it leaves open."""
    text = " ".join(prompt.casefold().split())
    if _NEW_PASSWORD.search(text) or means_expired(f"{instructions}\n{prompt}"):
        return Kind.NEW_PASSWORD
    if _CHOICE.search(text):
        return Kind.OTHER
    for pattern, kind in (
        (_TICKET, Kind.TICKET),
        (_CODE, Kind.CODE),
        (_REASON, Kind.REASON),
        (_PASSWORD, Kind.PASSWORD),
    ):
        if pattern.search(text):
            return kind
    return Kind.OTHER


# What a server says is shown in lines so short that a terminal breaks none of them: a
# broken one would begin with words of the server's choice.
_SAID_COLUMNS: Final = 50
_MOST_SAID_LINES: Final = 8
_LONGEST_SAID: Final = 300
_LONGEST_OWN: Final = 500
# RFC 4226, 5.3: six digits at least; RFC 6238 goes up to eight.
_CODE_FORM: Final = re.compile(r"[0-9]{6,8}")
ASK_AT_MOST: Final = 3


@dataclass(frozen=True, slots=True)
class Question:
    """One question; ``deadline`` is an instant of trio's clock.

    If there are ``choices`` the answer is one of them, or its number.
    ``text`` is the prompt and ``details`` what belongs to it, both in pamfs's words.
    ``said`` is what the server said: its prompt too. ``pam`` is the address of the
    proxy. ``caller`` is the process whose system call needs the answer. ``on_shown``
    is called when a person is about to see it. ``reconnection`` says that the login
    replaces a session that was lost.

    Law: a server cannot speak as pamfs. Each line of its words is marked with the
    tenant's name, is printable and short, and stands before pamfs's own lines, which
    say which target, which PAM and which program, and are never cut.
    """

    kind: Kind
    text: str
    target: Target
    caller: Caller
    deadline: float
    echo: bool = False
    details: str = ""
    said: str = ""
    pam: str = ""
    reconnection: str = ""
    may_be_empty: bool = False
    choices: Sequence[str] = ()
    on_shown: Callable[[], object] = lambda: None

    @property
    def is_yes_or_no(self) -> bool:
        """Whether yes is the only answer: a no declines."""
        return self.kind is Kind.HOST_KEY

    @property
    def prompt(self) -> str:
        """Return what is asked, on one line."""
        return one_line(self.text, _LONGEST_OWN) or f"{self.kind.value}:"

    def said_lines(self) -> list[str]:
        """Return the server's words, each line marked as the server's."""
        lines = [
            f"{self.target.tenant} says: {piece}"
            for line in self.said.splitlines()
            for piece in columns_of(one_line(line, _LONGEST_SAID), _SAID_COLUMNS)
        ]
        kept = lines[:_MOST_SAID_LINES]
        if len(lines) > len(kept):
            kept.append(
                f"({len(lines) - len(kept)} more lines of {self.target.tenant})"
            )
        return kept

    def own_lines(self) -> list[str]:
        """Return pamfs's words: the details, the target, the PAM and the cause."""
        shown = [
            *self.details.splitlines(),
            f"pamfs: {self.target}" + (f" at {self.pam}" if self.pam else ""),
            self.reconnection,
            cause(self.caller),
            *(f"{number:>3}  {text}" for number, text in enumerate(self.choices, 1)),
        ]
        return [printable(line) for line in shown if line.strip()]

    def about(self) -> list[str]:
        """Return the head of the question: the server's words, then pamfs's."""
        return [*self.said_lines(), *self.own_lines()]

    def lines(self) -> list[str]:
        """Return all that a person reads, the prompt last."""
        return [*self.about(), self.prompt]

    def fit(self, answer: Secret) -> Secret:
        """Return ``answer`` as it is sent; raise ``UnfitError`` if it cannot be."""
        text = answer.reveal()
        if not _is_utf8(text):
            raise UnfitError("this is no UTF-8 text: set the terminal to UTF-8")
        if self.is_yes_or_no:
            return self._fit_yes(text)
        if self.choices:
            return self._fit_choice(text)
        if self.kind is Kind.CODE:
            text = "".join(text.split())  # apps show "123 456"
        if not text and not self.may_be_empty and self.kind in _NEVER_EMPTY:
            raise UnfitError(f"a {self.kind.value} is not empty")
        if text and self.kind is Kind.CODE and not _CODE_FORM.fullmatch(text):
            raise UnfitError("a one-time code has six to eight digits")
        return Secret(text)

    def _fit_yes(self, text: str) -> Secret:
        match text.strip().casefold():
            case "yes":
                return Secret("yes")
            case "no":
                raise DeclinedError(f"the {self.kind.value} was declined")
            case _:
                raise UnfitError("type yes or no, in full")

    def _fit_choice(self, text: str) -> Secret:
        given = text.strip()
        for number, choice in enumerate(self.choices, 1):
            if given.casefold() in {str(number), choice.casefold()}:
                return Secret(choice)
        raise UnfitError(f"type a number from 1 to {len(self.choices)}, or the text")


def _is_utf8(text: str) -> bool:
    """Whether ``text`` can be sent: bytes that were no UTF-8 are surrogates in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_NEVER_EMPTY: Final = frozenset({Kind.PASSWORD, Kind.CODE})


class UnfitError(Exception):
    """An answer that cannot be right whatever is true; never holds the answer."""


class Prompter(Protocol):
    """Asks a person. Cancelling it takes the question back."""

    async def ask(self, question: Question) -> Secret:
        """Return the answer.

        Raises ``DeclinedError`` if the person said no, ``CannotAskError`` if
        there is nobody to ask. The caller keeps to ``question.deadline``.
        """
        ...


async def until_fit(
    question: Question, ask: Callable[[str], Awaitable[Secret]]
) -> Secret:
    """Return an answer of the right form: ``ask`` again with what is wrong, if need be.

    Raises ``DeclinedError`` if none came; what is unfit has gone nowhere.
    """
    remark = ""
    question.on_shown()
    for _ in range(ASK_AT_MOST):
        try:
            return question.fit(await ask(remark))
        except UnfitError as exc:
            remark = str(exc)
    raise DeclinedError(f"{ASK_AT_MOST} answers had the wrong form: {remark}")


def cause(caller: Caller) -> str:
    """Return the program that caused the question, as a text."""
    try:
        user = pwd.getpwuid(caller.uid).pw_name
    except KeyError:
        user = str(caller.uid)
    # A program names itself as it likes: no line of ours is made up by it.
    program = " ".join(program_of(caller.pid).split()) or "a program"
    return f"wanted by {program} (pid {caller.pid}, user {user})"
