"""One operator's way through authentication, as a table without a network.

What is asked, in this order: the password or a key, then a code if the
credential or the operator needs one and none was in the user name or behind the
password, then a reason. A code that is given where none is needed is neither
checked nor spent.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from pamfs.model import Secret

if TYPE_CHECKING:
    from pamfs.lab.spec import CredentialSpec
    from pamfs.lab.username import Login
    from pamfs.lab.vault import Operator, Vault


class Ask(Enum):
    """What is asked next, in the words of the prompt."""

    PASSWORD = "Password: "  # noqa: S105 - a prompt
    CODE = "One-time password: "
    REASON = "Reason: "


class Verdict(Enum):
    """What an answer led to."""

    LET_IN = "let in"
    GO_ON = "go on"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict; ``why`` is for the audit log, ``notice`` for the operator."""

    verdict: Verdict
    why: str = ""
    notice: str = ""
    has_locked: bool = False


_LET_IN = Outcome(Verdict.LET_IN)
_GO_ON = Outcome(Verdict.GO_ON)


class Gate:
    """The authentication of one user name on one connection."""

    def __init__(self, vault: Vault, login: Login) -> None:
        self._vault = vault
        self.login = login
        self.operator: Operator | None = vault.operator_of(login)
        self.credential: CredentialSpec | None = vault.credential_of(login)
        self.tenant = vault.tenant_of(login)
        self.reason = ""
        self.methods: list[str] = []
        self._is_known = False
        self._has_code = False

    def asks(self) -> Ask | None:
        """Return what must be answered next; None when all is answered."""
        if not self._is_known:
            return Ask.PASSWORD
        if self._needs_code() and not self._has_code:
            return Ask.CODE
        if self.credential and self.credential.needs_reason and not self.reason:
            return Ask.REASON
        return None

    def offers(self, method: str) -> bool:
        """Return whether ``method`` may be used now."""
        allowed = self.operator.spec.methods if self.operator else ("password",)
        if self._is_known:
            return method == "keyboard-interactive"
        return method in allowed

    def give_password(self, text: str) -> Outcome:
        """Check a password, and the codes that came with it."""
        if (barred := self._barred()) is not None:
            return barred
        operator = self._present()
        right, appended = self._vault.split_password(operator, text)
        if not right:
            return self._wrong("wrong password")
        if operator.is_expired:
            return Outcome(
                Verdict.REFUSED,
                "password expired",
                "Your password expired; change it in the web interface "
                "before connecting.\r\n",
            )
        self.methods.append("password")
        return self._known(appended)

    def give_key(self) -> Outcome:
        """Go on after the proof of an authorized key."""
        if (barred := self._barred()) is not None:
            return barred
        self.methods.append("publickey")
        return self._known(None)

    def give_answer(self, text: str) -> Outcome:
        """Take the answer to what ``asks()`` said."""
        match self.asks():
            case Ask.PASSWORD:
                return self.give_password(text)
            case Ask.CODE:
                if (barred := self._barred()) is not None:
                    return barred
                return self._check_code(Secret(text), "keyboard-interactive")
            case Ask.REASON:
                self.reason = text.strip()
                return self._onward() if self.reason else self._no_reason()
            case None:
                return _LET_IN

    def _present(self) -> Operator:
        if self.operator is None:
            raise LookupError("no such operator")
        return self.operator

    def _barred(self) -> Outcome | None:
        if self.operator is None:
            return Outcome(Verdict.REFUSED, "unknown operator or tenant")
        if self.operator.is_locked:
            return Outcome(Verdict.REFUSED, "locked", "This account is locked.\r\n")
        return None

    def _needs_code(self) -> bool:
        policy = self.credential is not None and self.credential.needs_code
        return policy or (self.operator is not None and self.operator.spec.needs_code)

    def _known(self, appended: Secret | None) -> Outcome:
        self._is_known = True
        if not self._needs_code():
            return self._onward()
        if self.login.code is not None:
            return self._check_code(self.login.code, "user")
        if appended is not None:
            return self._check_code(appended, "password")
        return _GO_ON

    def _check_code(self, code: Secret, place: str) -> Outcome:
        operator = self._present()
        allowed = place in operator.spec.code_in
        if not (allowed and self._vault.spend_code(operator, code)):
            self._is_known = False
            return self._wrong("wrong or used code")
        self._has_code = True
        self.methods.append(f"code in {place}")
        return self._onward()

    def _onward(self) -> Outcome:
        if self.asks() is not None:
            return _GO_ON
        self._present().wrong_answers = 0
        return _LET_IN

    def _no_reason(self) -> Outcome:
        self._is_known = self._has_code = False
        return Outcome(Verdict.REFUSED, "no reason given")

    def _wrong(self, why: str) -> Outcome:
        locked = self._vault.count_wrong(self._present())
        return Outcome(Verdict.REFUSED, why, has_locked=locked)
