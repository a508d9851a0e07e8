"""Why a PAM refused a login, found in the text that it sent.

SSH has one code for a refused login (RFC 4252, 5.1). The reason is in banners, in the
text of a disconnect and on the channel's stderr. No vendor documents these texts
(docs/facts/pam.md), so they are matched by key words, and a text without a match is a
plain refusal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from pamfs.errors import (
    Blame,
    CredentialBusyError,
    LoginError,
    LoginRefusedError,
    NoFileTransferError,
    PasswordExpiredError,
)
from pamfs.printable import one_line

LONGEST_TEXT: Final = 300
_EXPIRED: Final = re.compile(
    r"(password|senha|passphrase)\b.{0,40}\b(has )?(expired|expirou|expirada)"
    r"|(expired|expirada).{0,40}\b(password|senha)"
    r"|(must|have to|need to) (change|reset) (your|the) password"
    r"|change (your|the) password|password must be changed",
    re.IGNORECASE | re.DOTALL,
)
_BUSY: Final = re.compile(
    r"\bin use\b|\bem uso\b|simultaneous|concurrent session"
    r"|already (has|have|is|in) .{0,20}\b(session|use)"
    r"|another (active )?session",
    re.IGNORECASE,
)
_CODE: Final = re.compile(
    r"\bt?otp\b|one[- ]?time (password|code|passcode)|\btoken\b|\bpasscode\b"
    r"|\b[m2]fa\b|two[- ]factor|second factor|verification code|\bcode\b"
    r"|\bc[oó]digo\b",
    re.IGNORECASE,
)
_PASSWORD: Final = re.compile(
    r"\bpassword\b|\bsenha\b|contraseña|mot de passe|\bpasswort\b|\bcredentials?\b",
    re.IGNORECASE,
)
_ACCOUNT: Final = re.compile(
    r"\block(ed|out)\b|\bblocked\b|\bbloquead[oa]\b|\bdisabled\b|\bsuspended\b"
    r"|\bdesativad[oa]\b|too many (failed|attempts|tries)|\bgesperrt\b",
    re.IGNORECASE,
)


def tidy(texts: Sequence[str]) -> str:
    """Return the texts of a server as one printable line of bounded length."""
    lines = [one_line(text, LONGEST_TEXT) for text in texts]
    return one_line("; ".join(dict.fromkeys(filter(None, lines))), LONGEST_TEXT)


def means_expired(text: str) -> bool:
    """Whether ``text`` says that the operator's password has expired."""
    return _EXPIRED.search(text) is not None


def _known(text: str) -> type[LoginError] | None:
    if means_expired(text):
        return PasswordExpiredError
    return CredentialBusyError if _BUSY.search(text) else None


def blame_of(text: str) -> Blame:
    """Return what ``text`` calls wrong; UNSAID if it names both password and code."""
    if _ACCOUNT.search(text):
        return Blame.ACCOUNT
    without_code = _CODE.sub(" ", text)
    names_code, names_password = without_code != text, _PASSWORD.search(without_code)
    if names_code and not names_password:
        return Blame.CODE
    return Blame.PASSWORD if names_password and not names_code else Blame.UNSAID


def login_refusal(prefix: str, said: Sequence[str]) -> LoginError:
    """Return the error for a login that the server refused with the texts ``said``."""
    text = tidy(said)
    whole = f"{prefix}: {text}" if text else prefix
    if (kind := _known(text)) is not None:
        return kind(whole)
    return LoginRefusedError(whole, blame_of(text))


def channel_refusal(prefix: str, said: Sequence[str]) -> LoginError:
    """Return the error for a login that worked and got no file channel."""
    text = tidy(said)
    kind = _known(text) or NoFileTransferError
    return kind(f"{prefix}: {text}" if text else prefix)
