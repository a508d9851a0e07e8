"""The user-name templates of the PAM products, and how each server reads them.

A row says what the server splits at, and which characters a value may not hold
so that this split finds our parts and no others (on top of what
``pamfs.naming.parts`` refuses everywhere: brackets, ``%``, ``/``, controls).
Sources: facts/pam.md#segura-user-names and facts/pam.md#other-user-names.
tests/unit/test_naming_presets.py holds one independent parser a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Preset:
    """A template with its default port and what its values may not hold."""

    template: str
    port: int
    refused: Mapping[str, str] = field(default_factory=dict)
    operator_prefixes: tuple[str, ...] = ()


PRESETS: Final[Mapping[str, Preset]] = {
    # U11, U12: operator to "%", tenant to "[", target to "]", the rest is the
    # code. The target: braces off its end, then the last "@".
    "segura-sftp": Preset(
        "<operator>%<tenant>[<credential>@<device>{<proto>.<port>}]<otp>", 4022
    ),
    # U3 to U8: as above without a tenant. Proxy 1.0 knows no braces, so they
    # are there only for a service other than ssh.22.
    "segura-onprem": Preset(
        "<operator>[<credential>@<device>({<proto>.<port>})]<otp>", 22
    ),
    # U9, U10: the tenant after the last "%".
    "segura-ssh": Preset(
        "<operator>[<credential>@<device>({<proto>.<port>})]<otp>%<tenant>", 22
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
