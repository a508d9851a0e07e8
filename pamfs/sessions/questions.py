"""What a server's prompt asks for, judged by its text alone.

SSH does not say (RFC 4256), and the texts differ (facts/pam.md#other-prompts). Law: a
text that is not surely a question for a password gets none, and what is not
understood goes to a person as it is. A code is looked for before a password:
"One-time password" asks for a code, and so does "Passcode".
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

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
