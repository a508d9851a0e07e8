"""The answers of a Segura vault, as values.

Shapes: facts/pam.md#segura-vault-answers. Errors: facts/pam.md#segura-vault-errors.

Pure. Law: the fields that hold a secret are dropped while the text is decoded and
are never looked at; the proxy injects the secret, nobody here needs it.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pamfs.errors import LoginError, UnreachableError, VaultError
from pamfs.model import json_object

_SECRETS: Final = frozenset({"password", "content", "senha", "private_key"})
_NUMBERED: Final = re.compile(r"\s*(\d{4})\s*:")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_SERVICE: Final = re.compile(r"\s*([A-Za-z][A-Za-z0-9]*)\s*:\s*(\d{1,5})\s*")
# These two are not documented (facts/pam.md#segura-vault-errors): a text must match.
_BUSY: Final = re.compile(
    r"custody of (another|other|a different|somebody|someone)|already in custody"
    r"|in use by|checked out by",
    re.IGNORECASE,
)
_WAITING: Final = re.compile(
    r"(waiting|awaiting|pending|requires?|needs?)\b.{0,30}\bapprov", re.IGNORECASE
)
_HOLDER: Final = re.compile(r"\buser: ?([\w.@\\-]+)\s*$", re.IGNORECASE)
_LONGEST_SAYING: Final = 200
_MESSAGES: Final = ("message", "mensagem", "error_description")
NOT_IN_CUSTODY: Final = 1018
SSH_KEY: Final = "SSH Key"
ERRNOS: Final[Mapping[int, int]] = {
    1002: errno.ESTALE,
    1003: errno.EINVAL,
    1004: errno.EINVAL,
    1007: errno.ENOENT,
    1008: errno.EACCES,
    1009: errno.EACCES,
    1010: errno.EINVAL,
    1011: errno.ENOENT,
    1015: errno.ENOENT,
    1016: errno.EINVAL,
    1017: errno.EACCES,
    1023: errno.ENOENT,
    1024: errno.EACCES,
    1039: errno.EPERM,
    1043: errno.EEXIST,
    1045: errno.EEXIST,
}

Body = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class CredentialRow:
    """One credential of the list; ``name`` and ``hostname`` as the vault has them."""

    id: str
    name: str
    hostname: str
    domain: str = ""
    is_key: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an error answer says; ``number`` is 0 where the vault gave none."""

    status: int
    number: int
    text: str

    @property
    def is_busy(self) -> bool:
        """Whether somebody else has the credential."""
        return _BUSY.search(self.text) is not None

    @property
    def is_waiting(self) -> bool:
        """Whether somebody has yet to approve."""
        return not self.is_busy and _WAITING.search(self.text) is not None

    @property
    def holder(self) -> str:
        """Return who has it, if that is said."""
        found = _HOLDER.search(self.text)
        return found[1] if found else ""

    def error(self, what: str) -> LoginError:
        """Return the failure of ``what``, with the errno that fits."""
        text = f"{what}: the vault says {self.text or self.status!r}"
        if self.number in ERRNOS:
            return VaultError(text, ERRNOS[self.number])
        if "timed out" in self.text.casefold() or self.status in _BUSY_STATUS:
            return UnreachableError(text)
        if self.status == 500 and "not authorized" not in self.text.casefold():  # noqa: PLR2004
            return VaultError(text, errno.EIO)
        return VaultError(text, errno.EACCES)


# 429: too many requests; the rest is a gateway whose vault is away.
_BUSY_STATUS: Final = frozenset({408, 429, 502, 503, 504})


def decode(text: bytes) -> Body | None:
    """Return the JSON object in ``text`` without its secrets; None: it is none."""
    return json_object(text, _without_secrets)


def _without_secrets(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    return {key: value for key, value in pairs if key not in _SECRETS}


def refusal_of(status: int, body: Body | None) -> Refusal | None:
    """Return what is wrong according to an answer; None: nothing."""
    response = _object(body, "response")
    is_error = response.get("error", response.get("erro")) in (True, "true", 1, "1")
    raised = _object(body, "exception")
    if status < 400 and not is_error and body is not None:  # noqa: PLR2004 - HTTP
        return None
    text = _saying(body, raised, response)
    found = _NUMBERED.match(text)
    number = as_int(raised.get("code")) or (int(found[1]) if found else 0)
    return Refusal(status, number, _CONTROL.sub(" ", text)[:_LONGEST_SAYING].strip())


def _saying(body: Body | None, *parts: Body) -> str:
    """Return the message of an error; the gateway's own shape has it on top."""
    if body is None:
        return "no JSON object"
    texts = [part.get(key) for part in (*parts, body) for key in _MESSAGES]
    return next((text for text in texts if isinstance(text, str) and text), "")


def credentials_of(body: Body) -> list[CredentialRow]:
    """Return the rows of the list of credentials; what is no row is left out."""
    return [row for raw in _objects(body, "credentials") if (row := _credential(raw))]


def _credential(raw: Body) -> CredentialRow | None:
    number, name, hostname = (_text(raw, k) for k in ("id", "username", "hostname"))
    number = number or _text(raw, "identifier") or _text(raw, "tag")
    if not (number and name and hostname):
        return None
    is_key = _text(raw, "type").casefold() == SSH_KEY.casefold()
    return CredentialRow(number, name, hostname, _text(raw, "domain"), is_key)


def devices_of(body: Body) -> dict[str, str]:
    """Return the devices' ids by host name."""
    rows = [*_objects(body, "devices"), *_objects(body, "device")]
    return {
        hostname: number
        for raw in rows
        if (hostname := _text(raw, "hostname")) and (number := _text(raw, "id"))
    }


def services_of(body: Body) -> list[tuple[str, int]]:
    """Return ``("ssh", 22)`` and the like from a device's ``connectivities``."""
    text = _text(_object(body, "device"), "connectivities")
    found = (_SERVICE.fullmatch(part) for part in text.split(","))
    services = [(m[1].lower(), int(m[2])) for m in found if m]
    return [(proto, port) for proto, port in services if 0 < port < 1 << 16]


def id_of(body: Body) -> str:
    """Return the id in the answer to a request for one credential."""
    return _text(_object(body, "credential"), "id")


def expiry_of(body: Body) -> float | None:
    """Return when custody ends, in seconds since the epoch.

    Without a zone it is taken to be in ours: the vault's own is said nowhere.
    """
    text = _text(_object(body, "credential"), "expiration_time")
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except (ValueError, OverflowError, OSError):
        return None


def as_int(value: object) -> int:
    """Return a number that may be given as a text; 0 if it is neither."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0
    try:
        return int(value)
    except (ValueError, OverflowError):
        return 0


def _object(body: Body | None, key: str) -> Body:
    value = None if body is None else body.get(key)
    return value if isinstance(value, dict) else {}


def _objects(body: Body, key: str) -> Iterator[Body]:
    value = body.get(key)
    rows = value if isinstance(value, list) else []
    return (row for row in rows if isinstance(row, dict))


def _text(body: Body, key: str) -> str:
    """Return a text, also where another release has a number."""
    value = body.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value).strip()
