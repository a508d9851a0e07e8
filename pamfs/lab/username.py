r"""The proxy's own reading of a multi-hop SSH user name.

Both documented places of the tenant are understood (facts/pam.md#segura-user-names)::

    operator[%tenant]                                          terminal
    operator[%tenant]'['[domain\]credential@device[{proto.port}]']'[code]
    operator'['...']'[code][%tenant]

Nothing here is shared with the client, or a mistake would agree with itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pamfs.model import Secret

# Greedy on the credential: a credential may hold "@", a device may not.
_LOGIN = re.compile(
    r"""
    (?P<operator> [^%\[\]{}\s]+ )
    (?: % (?P<before> [a-z_][a-z0-9_]* ) )?
    (?: \[
        (?: (?P<domain> [^\\\[\]{}%@]+ ) \\ )?
        (?P<credential> [^\\\[\]{}%]+ )
        @ (?P<device> [^@\\\[\]{}%\s]+ )
        (?: \{ (?P<proto> [a-z]+ ) \. (?P<port> [0-9]{1,5} ) \} )?
        \]
        (?P<code> [0-9]{6,8} )?
    )?
    (?: % (?P<after> [a-z_][a-z0-9_]* ) )?
    """,
    re.VERBOSE,
)


class UserNameError(ValueError):
    """The user name does not follow the grammar."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The credential and device that a user name asks for.

    ``proto`` and ``port`` are None when the name leaves the choice to the vault.
    """

    credential: str
    device: str
    domain: str = ""
    proto: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        domain = f"{self.domain}\\" if self.domain else ""
        service = f"{{{self.proto}.{self.port}}}" if self.proto else ""
        return f"{domain}{self.credential}@{self.device}{service}"


@dataclass(frozen=True, slots=True)
class Login:
    """Who logs in, through which tenant (None: not said), to what, with which code."""

    operator: str
    tenant: str | None
    wanted: Wanted | None
    code: Secret | None


def parse_login(text: str) -> Login:
    """Return what the SSH user name ``text`` says; raise ``UserNameError``."""
    match = _LOGIN.fullmatch(text)
    if match is None:
        raise UserNameError("not a multi-hop user name")
    part = match.groupdict()
    if part["before"] and part["after"]:
        raise UserNameError("the tenant is given twice")
    return Login(
        operator=part["operator"],
        tenant=part["before"] or part["after"],
        wanted=_wanted(part) if part["device"] else None,
        code=Secret(part["code"]) if part["code"] else None,
    )


def _wanted(part: dict[str, str | None]) -> Wanted:
    return Wanted(
        credential=part["credential"] or "",
        device=part["device"] or "",
        domain=part["domain"] or "",
        proto=part["proto"],
        port=int(part["port"]) if part["port"] else None,
    )
