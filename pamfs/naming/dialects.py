"""SSH user names of the PAM products: what a target is called on the wire.

Law: what ``user_name`` returns is read by the server as exactly the values it
was given, or it raises. Sources of the forms: facts/pam.md#other-user-names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Final

from pamfs.errors import NameRefusedError
from pamfs.model import Target
from pamfs.naming.parts import check_part
from pamfs.naming.presets import ALIASES, PRESETS, RESERVED_TENANTS
from pamfs.naming.targets import DEFAULT_PORT, DEFAULT_PROTO, is_tenant_name
from pamfs.naming.templates import (
    parse_template,
    placeholders_of,
    refused_characters,
)

SSH_PORT: Final = 22
MASK: Final = "******"
_OTP: Final = re.compile(r"[0-9A-Za-z]{1,64}|\*{1,64}")
_PROTO: Final = re.compile(r"[a-z][a-z0-9]{0,15}")
# What names the account of a login; the operator alone, where there is one.
_ACCOUNT_PARTS: Final = ("operator", "credential", "account", "domain")
# What <credential> is made of, for the rules of a preset.
_PARTS_OF_CREDENTIAL: Final = ("account", "domain")


@dataclass(frozen=True, slots=True)
class Dialect:
    """A checked user-name template, e.g. ``<operator>%<tenant>[...]<otp>``."""

    name: str
    template: str

    @property
    def takes_otp(self) -> bool:
        """Whether the template has a place for a one-time code."""
        return self.takes("otp")

    @property
    def default_port(self) -> int:
        """The port of the product's SSH service, where its makers name one."""
        preset = PRESETS.get(self.name)
        return preset.port if preset else SSH_PORT

    def takes(self, placeholder: str) -> bool:
        """Whether the template has a place for ``placeholder``."""
        return placeholder in placeholders_of(parse_template(self.template))

    def user_name(self, operator: str, target: Target, otp: str) -> str:
        """Return the SSH user name; raise ``NameRefusedError`` on a break-out.

        ``otp`` may be empty: a PAM need not require a code at each login
        (facts/pam.md#segura-login). Raises ``ValueError`` if the template has no
        place for the code.
        """
        if otp and not self.takes_otp:
            raise ValueError(f"the template {self.template} has no place for a code")
        values = _values(operator, target, otp)
        if self.takes("operator"):
            check_part("the operator", operator)
        self._check(values)
        return "".join(self._render(values))

    def account(self, operator: str, target: Target) -> tuple[str, ...]:
        """Return the account that a user name logs in to, as the server tells them.

        Its wrong answers are counted together. It is the operator; the credential
        where the user name has no operator, and the device where it has neither.
        Two tenants are two accounts exactly where the user name says the tenant.
        """
        values = _values(operator, target, "")
        names = [name for name in _ACCOUNT_PARTS if self.takes(name)]
        who = names[:1] if "operator" in names else names or ["device"]
        parts = [*who, "tenant"] if self.takes("tenant") else who
        return tuple(text for name in parts for text in (name, values[name]))

    def _check(self, values: Mapping[str, str]) -> None:
        _check_values(values)
        for name in ("domain", "proto", "port"):
            if values[name] != _DEFAULTS[name] and not self._conveys(name):
                raise NameRefusedError(
                    f"the dialect {self.name} cannot say {name} {values[name]!a}"
                )
        refused = _refused_of(self)
        for name, characters in refused.items():
            found = characters.intersection(values[name])
            if found:
                raise NameRefusedError(
                    f"the {name} {values[name]!a} holds {min(found)!r},"
                    f" a delimiter of the dialect {self.name}"
                )
        preset = PRESETS.get(self.name)
        if preset and values["operator"].startswith(preset.operator_prefixes):
            raise NameRefusedError(f"{self.name} takes this operator for a token")

    def _conveys(self, name: str) -> bool:
        return self.takes(name) or (name == "domain" and self.takes("credential"))

    def _render(self, values: Mapping[str, str]) -> Iterator[str]:
        template = parse_template(self.template)
        for group, pieces in groupby(template, key=lambda piece: piece.group):
            members = tuple(pieces)
            names = placeholders_of(members)
            if group and all(values[name] == _DEFAULTS[name] for name in names):
                continue
            for piece in members:
                yield values[piece.text] if piece.is_placeholder else piece.text


def find_dialect(text: str) -> Dialect:
    """Return the preset called ``text``, or ``text`` itself as a template.

    Raises ``ValueError`` with what is wrong and what would be right.
    """
    name = ALIASES.get(text, text)
    if name in PRESETS:
        return Dialect(name, PRESETS[name].template)
    if "<" in text:
        parse_template(text)
        return Dialect(text, text)
    near = difflib.get_close_matches(text, (*PRESETS, *ALIASES), n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(
        f"no dialect is called {text!r}; {guess}known are {', '.join(PRESETS)},"
        " or a template of your own such as '<operator>@<credential>@<device>'"
    )


def find_tenant_problem(name: str, dialect: Dialect) -> str:
    """Return why ``name`` cannot be a tenant in ``dialect``, or nothing."""
    if not is_tenant_name(name):
        return "is no tenant's name: letters, digits, '_', '-' and '.', at most 63"
    if dialect.takes("tenant") and name.lower() in RESERVED_TENANTS:
        return (
            "is reserved by Segura; for its main tenant use a dialect without"
            " <tenant> (segura-onprem) and any other name here"
        )
    return ""


_DEFAULTS: Final[Mapping[str, str]] = {
    "domain": "",
    "proto": DEFAULT_PROTO,
    "port": str(DEFAULT_PORT),
    "otp": "",
}


def _values(operator: str, target: Target, otp: str) -> dict[str, str]:
    prefix = f"{target.domain}\\" if target.domain else ""
    return {
        "operator": operator,
        "tenant": target.tenant,
        "credential": prefix + target.credential,
        "account": target.credential,
        "domain": target.domain,
        "device": target.device,
        "proto": target.proto,
        "port": str(target.port),
        "otp": otp,
    }


def _check_values(values: Mapping[str, str]) -> None:
    for name in ("account", "device"):
        check_part(f"the {name}", values[name])
    if values["domain"]:
        check_part("the domain", values["domain"])
    if "\\" in values["account"] + values["domain"] + values["device"]:
        raise NameRefusedError("a credential, domain or device holds a backslash")
    if "@" in values["device"] + values["domain"]:
        raise NameRefusedError("a domain or device holds '@'")
    if not is_tenant_name(values["tenant"]):
        raise NameRefusedError(f"{values['tenant']!a} is no tenant's name")
    if not _PROTO.fullmatch(values["proto"]) or not 0 < int(values["port"]) < 1 << 16:
        raise NameRefusedError(f"{values['proto']!a}.{values['port']} is no service")
    if values["otp"] and not _OTP.fullmatch(values["otp"]):
        # Not shown: it is a secret.
        raise NameRefusedError("the code holds more than letters and digits")


@lru_cache(maxsize=64)
def _refused_of(dialect: Dialect) -> Mapping[str, frozenset[str]]:
    preset = PRESETS.get(dialect.name)
    if preset:
        return {name: frozenset(chars) for name, chars in preset.refused.items()}
    refused = dict(refused_characters(dialect.template))
    whole = refused.pop("credential", None)
    if whole is not None:
        refused.update(dict.fromkeys(_PARTS_OF_CREDENTIAL, whole - {"\\"}))
    # Made of digits and letters, or checked as such.
    for name in ("proto", "port", "otp"):
        refused.pop(name, None)
    return refused
