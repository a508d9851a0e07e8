"""SSH user names of the PAM products: presets, templates, and a target's user name.

A preset is one row of ``PRESETS``: a template, the default port, and the characters at
which the server splits, which no value may contain then. Brackets, ``%``, ``/`` and
control characters are refused everywhere (``pamfs.naming.targets``). Sources of the
forms: facts/pam.md#segura-user-names and facts/pam.md#other-user-names.

A template is literal text, ``<placeholder>`` and ``(optional group)``. Invariant: a
template that ``parse_template`` returns can be parsed back. A delimiter stands between
each two placeholders, and ``refused_characters`` keeps delimiters out of the values.

Law: ``Dialect.user_name`` returns a name that the server splits into exactly the given
parts, or it raises. To add a PAM see docs/architecture.md, "How to add".
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise, product
from typing import Final

from pamfs.errors import NameRefusedError
from pamfs.model import Target
from pamfs.naming.targets import DEFAULT_PORT, DEFAULT_PROTO, check_part, is_tenant_name


@dataclass(frozen=True, slots=True)
class Preset:
    """A template with its default port and what its values may not hold.

    ``refused`` is what the product's server splits at, for each placeholder. Without it
    the characters are derived from the template, as for a template of one's own; that
    refuses more than most servers need.
    """

    template: str
    port: int
    refused: Mapping[str, str] | None = None
    operator_prefixes: tuple[str, ...] = ()


# Segura splits at characters that are refused everywhere (``targets.NEVER``).
_NEVER_ONLY: Final[Mapping[str, str]] = {}

PRESETS: Final[Mapping[str, Preset]] = {
    # U11, U12: operator to "%", tenant to "[", target to "]", the rest is the
    # code. The target: braces off its end, then the last "@".
    "segura-sftp": Preset(
        "<operator>%<tenant>[<credential>@<device>{<proto>.<port>}]<otp>",
        4022,
        _NEVER_ONLY,
    ),
    # U3 to U8: as above without a tenant. Proxy 1.0 knows no braces, so they
    # are there only for a service other than ssh.22.
    "segura-onprem": Preset(
        "<operator>[<credential>@<device>({<proto>.<port>})]<otp>",
        22,
        _NEVER_ONLY,
    ),
    # U9, U10: the tenant after the last "%".
    "segura-ssh": Preset(
        "<operator>[<credential>@<device>({<proto>.<port>})]<otp>%<tenant>",
        22,
        _NEVER_ONLY,
    ),
    # Split at the last two "@"; then account#domain and address#port. Only the
    # operator, leftmost, may hold "@" (name@company.com, Privilege Cloud).
    "cyberark": Preset(
        "<operator>@<account>(#<domain>)@<device>(#<port>)",
        22,
        {"operator": "#", "account": "@#:", "domain": "@#:", "device": "@#:"},
    ),
    # Split at ":", the first part at "@": account[@domain]@device.
    "wallix": Preset(
        "<account>(@<domain>)@<device>:SSH:<operator>",
        22,
        {"operator": ":", "account": "@:", "domain": "@:", "device": "@:"},
    ),
    # The last "@" (or "%"), then ":" (or "+", "/") before the port; "=" begins
    # inband options. The operator logs in by gateway authentication.
    "oneidentity-sps": Preset(
        "<credential>@<device>(:<port>)",
        22,
        {"account": "@:+=", "domain": "@:+=", "device": "@:+="},
    ),
    # koko pkg/auth/ssh.go: exactly three parts at "@", else at "#"; "JMS-" in
    # front makes the whole name a connection token.
    "jumpserver": Preset(
        "<operator>@<credential>@<device>",
        2222,
        {"operator": "@#", "account": "@#", "domain": "@#", "device": "@#"},
        ("JMS-",),
    ),
    # warpgate-common auth/selector.rs: the first "#" if there is one anywhere,
    # else the first ":"; "ticket-" in front makes it a ticket. The credential
    # is the named target's own and is not sent.
    "warpgate": Preset(
        "<operator>:<device>", 2222, {"operator": "#:", "device": "#"}, ("ticket-",)
    ),
    # plugin/username-router: the first "+"; before it host[:port].
    "sshpiper": Preset("<device>(:<port>)+<credential>", 2222, {"device": "+:"}),
}
ALIASES: Final[Mapping[str, str]] = {
    "segura": "segura-sftp",
    "segura-saas-sftp": "segura-sftp",
    "segura-tenant-last": "segura-ssh",
    "segura-ssh-tenant-last": "segura-ssh",
}

# Names that no tenant of Segura can have (facts/pam.md#segura-user-names). The main
# tenant is one of them; it is addressed by leaving "%tenant" out.
RESERVED_TENANTS: Final = frozenset(
    ("mt4", "segura", "senhasegura", "orbit", "orbini", "tenant", "tenancy", "none")
)


PLACEHOLDERS: Final = (
    "operator",
    "tenant",
    "credential",
    "account",
    "domain",
    "device",
    "proto",
    "port",
    "otp",
)
OPTIONAL: Final = frozenset(("domain", "proto", "port", "otp"))
# What servers are known to take for a delimiter even where the template
# uses another: SPS, CyberArk and JumpServer each accept two spellings.
SUSPECT: Final = frozenset("@#:+%")
_TOKEN: Final = re.compile(r"<([^<>]*)>|([()])|([^<>()]+)")
_SERVICE: Final = "<proto>.<port>"


@dataclass(frozen=True, slots=True)
class TemplatePart:
    """A literal, or a placeholder; ``group`` is 0 outside of parentheses."""

    text: str
    is_placeholder: bool
    group: int = 0


Template = tuple[TemplatePart, ...]


@lru_cache(maxsize=64)
def parse_template(text: str) -> Template:
    """Return the pieces of ``text``; raise ``ValueError`` with what is wrong."""
    if not text.isascii() or not text.isprintable():
        raise ValueError(
            f"the template {text!a} contains characters other than printable ASCII"
        )
    pieces = _split(text)
    _check_placeholders(pieces)
    _check_delimiters(pieces)
    _check_groups(pieces)
    return pieces


def placeholders_of(template: Template) -> tuple[str, ...]:
    """Return the placeholders' names in order."""
    return tuple(piece.text for piece in template if piece.is_placeholder)


def refused_characters(text: str) -> Mapping[str, frozenset[str]]:
    """Return for each placeholder of template ``text`` what its value may not hold.

    Every delimiter, and the usual delimiters besides; but inside square
    brackets, which no value can leave, only the delimiters there.
    """
    inside = re.search(r"\[([^][]*)\]", text)
    bracketed = inside[1] if inside else ""
    outside = text.replace(f"[{bracketed}]", "[]")
    names = placeholders_of(parse_template(text))
    extra = SUSPECT if len(names) > 1 else frozenset[str]()
    return {
        name: _refused_in(name, bracketed, frozenset())
        if f"<{name}>" in bracketed
        else _refused_in(name, outside, extra)
        for name in names
    }


def _refused_in(name: str, region: str, extra: frozenset[str]) -> frozenset[str]:
    refused = _delimiters(region) | extra
    if name == "operator":
        # The operator is the configuration's word, no path's: alice@corp.example.
        return _delimiters(region) | (extra - {"@"})
    # The last "@" parts credential and device wherever it is the only one.
    is_last_at = re.search(r"<(credential|account)>@<device>", region) is not None
    if name in {"credential", "account"} and is_last_at and region.count("@") == 1:
        return refused - {"@"}
    return refused


def _delimiters(text: str) -> frozenset[str]:
    # proto and port have alphabets of their own: the dot between parts nothing else.
    literal = re.sub(r"<[^<>]*>|[()]", "", text.replace(_SERVICE, ""))
    return frozenset(char for char in literal if not char.isalnum())


def _split(text: str) -> Template:
    pieces: list[TemplatePart] = []
    group, depth, end = 0, 0, 0
    for token in _TOKEN.finditer(text):
        if token.start() != end:
            break
        end = token.end()
        if token[2]:
            depth += 1 if token[2] == "(" else -1
            group += token[2] == "("
        else:
            is_placeholder = token[3] is None
            inner = token[1] if is_placeholder else token[3]
            pieces.append(TemplatePart(inner, is_placeholder, group if depth else 0))
        if depth not in {0, 1}:
            raise ValueError(f"the parentheses in {text!r} do not pair")
    if end != len(text) or depth:
        raise ValueError(
            f"the brackets in {text!r} do not pair: < > name a placeholder"
        )
    return tuple(pieces)


def _check_placeholders(pieces: Template) -> None:
    names = placeholders_of(pieces)
    known = ", ".join(f"<{name}>" for name in PLACEHOLDERS)
    for name in names:
        if name not in PLACEHOLDERS:
            raise ValueError(f"unknown placeholder <{name}>; known are {known}")
        if names.count(name) > 1:
            raise ValueError(f"<{name}> occurs twice")
    if {"credential", "account"} <= set(names):
        raise ValueError("<credential> contains <account>; use one of them")
    if {"credential", "domain"} <= set(names):
        raise ValueError("<credential> contains <domain>; use <account>")
    if not {"credential", "account", "device"} & set(names):
        raise ValueError(
            f"it contains neither <credential> nor <device>; known are {known}"
        )


def _check_delimiters(pieces: Template) -> None:
    for shown in _with_and_without_groups(pieces):
        for left, right in pairwise(shown):
            if left.is_placeholder and right.is_placeholder:
                between = f"<{left.text}> and <{right.text}>"
                raise ValueError(f"there is no delimiter between {between}")
    for piece in pieces[1:-1]:
        if not piece.is_placeholder and piece.text.isalnum():
            raise ValueError(f"{piece.text!r} is not a delimiter: use punctuation")


def _with_and_without_groups(pieces: Template) -> Iterator[Template]:
    groups = sorted({piece.group for piece in pieces if piece.group})
    for shown in product((True, False), repeat=len(groups)):
        hidden = {
            group for group, is_on in zip(groups, shown, strict=True) if not is_on
        }
        yield tuple(piece for piece in pieces if piece.group not in hidden)


def _check_groups(pieces: Template) -> None:
    for group in range(1, max((piece.group for piece in pieces), default=0) + 1):
        members = [piece for piece in pieces if piece.group == group]
        names = set(placeholders_of(tuple(members)))
        if not names or not names <= OPTIONAL:
            optional = ", ".join(f"<{name}>" for name in sorted(OPTIONAL))
            raise ValueError(
                f"a group in ( ) must contain one or more of {optional}, no other"
            )
        if len(members) == len(names):
            raise ValueError("a group in ( ) needs a delimiter")


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
        shown = names[:1] if "operator" in names else names or ["device"]
        parts = [*shown, "tenant"] if self.takes("tenant") else shown
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
            raise NameRefusedError(f"{self.name} would read this operator as a token")

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
        return "is not a tenant name: letters, digits, '_', '-' and '.', at most 63"
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
        raise NameRefusedError(f"{values['tenant']!a} is not a tenant name")
    if not _PROTO.fullmatch(values["proto"]) or not 0 < int(values["port"]) < 1 << 16:
        raise NameRefusedError(f"{values['proto']!a}.{values['port']} is not a service")
    if values["otp"] and not _OTP.fullmatch(values["otp"]):
        # Not shown: it is a secret.
        raise NameRefusedError("the code contains more than letters and digits")


@lru_cache(maxsize=64)
def _refused_of(dialect: Dialect) -> Mapping[str, frozenset[str]]:
    preset = PRESETS.get(dialect.name)
    if preset and preset.refused is not None:
        return {name: frozenset(chars) for name, chars in preset.refused.items()}
    refused = dict(refused_characters(dialect.template))
    whole = refused.pop("credential", None)
    if whole is not None:
        refused.update(dict.fromkeys(_PARTS_OF_CREDENTIAL, whole - {"\\"}))
    # Made of digits and letters, or checked as such.
    for name in ("proto", "port", "otp"):
        refused.pop(name, None)
    return refused
