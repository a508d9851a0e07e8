"""What earlier logins have shown of an operator's account; it ends with the mount.

Two things: passwords that were accepted, so that a refusal is known to be about
the code; and for how long after a code the proxy wants none (PAM.md 1.3, "time
between token requirement").
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pamfs.config import TenantConfig
from pamfs.model import Secret, Target

# What Segura has as its default, and the most that it takes (PAM.md 1.3).
USUAL_FREE_S: Final = 300.0
LONGEST_FREE_S: Final = 3600.0
_GROWTH: Final = 1.5


@dataclass(slots=True)
class FreeTime:
    """How long after a code none is needed: between ``seen_s`` and ``over_s``."""

    seen_s: float = 0.0
    over_s: float = LONGEST_FREE_S
    last_code_at: float | None = None

    def plan_code(self, now: float) -> bool:
        """Return whether to send a code at ``now``."""
        if self.last_code_at is None:
            return True
        age_s = now - self.last_code_at
        longest_s = max(USUAL_FREE_S, _GROWTH * self.seen_s)
        return not 0 <= age_s < min(self.over_s, longest_s)

    def note_login(
        self, now: float, left_out_at: float | None, *, had_code: bool
    ) -> None:
        """Learn from a login that came to be, its code first left out or not."""
        if self.last_code_at is not None and left_out_at is not None:
            age_s = left_out_at - self.last_code_at
            if had_code:
                self.over_s = min(self.over_s, age_s)
                self.seen_s = min(self.seen_s, age_s)
            else:
                self.seen_s = max(self.seen_s, age_s)
        if had_code:
            self.last_code_at = now


class Account:
    """What is known of one account; ``former``: its names in earlier versions."""

    def __init__(self, name: str, former: Sequence[str] = ()) -> None:
        self.name = name
        self.former = former
        self.free = FreeTime()
        self._key = secrets.token_bytes(32)
        self._proven: set[bytes] = set()

    def prove(self, password: Secret | None) -> None:
        """Note that a login came to be with ``password`` (None: with a key)."""
        self._proven.add(self._digest(password))

    def is_proven(self, password: Secret | None) -> bool:
        """Return whether exactly this was accepted before."""
        return self._digest(password) in self._proven

    def _digest(self, password: Secret | None) -> bytes:
        text = "\0" if password is None else password.reveal()
        return hmac.digest(self._key, text.encode(), "sha256")


@dataclass(frozen=True, slots=True)
class Accounts:
    """The accounts of a mount."""

    _by_name: dict[str, Account] = field(default_factory=dict)

    def of(self, tenant: TenantConfig, target: Target) -> Account:
        """Return the account that logs in to ``target``."""
        name = account_name(tenant, target)
        former = former_account_name(tenant)
        account = self._by_name.setdefault(name, Account(name))
        if former not in account.former:
            account.former = (*account.former, former)
        return account


def account_name(tenant: TenantConfig, target: Target) -> str:
    """Return the key of the account that logs in to ``target``.

    All that counts wrong answers goes by it: the rest and the turn of ``lockout``,
    the ledger of ``tries``, and what is known of codes.
    """
    proxy = f"{tenant.proxy_host}:{tenant.proxy_port}"
    return "\0".join((proxy, *tenant.dialect.account(tenant.operator, target)))


def former_account_name(tenant: TenantConfig) -> str:
    """Return what ledgers had as key before there was ``account_name``."""
    return f"{tenant.operator}%{tenant.name}@{tenant.proxy_host}:{tenant.proxy_port}"
