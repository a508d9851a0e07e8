"""The accounts of a mount: one login at a time for each, and what logins showed.

Many targets share one account at the PAM, and the account locks after a few wrong
answers. So the PAM's count is per account, and so is everything here.

Invariants:

- Unless a login of the account was accepted within the last ``_TRUSTED_S`` seconds,
  its logins go one after the other: one holds the turn from its first secret to the
  end of its dial. The deadlines of the waiting logins are paused
  (``Attempt.deadline``).
- A refusal makes all targets of the account back off. One that was accepted lately
  backs off from the second refusal in a row on: the first may be about the target.
- During the back-off nothing is checked out, fetched or asked for: ``login.steps``
  calls ``check`` before each of these steps.

Only ``outcome_noted`` and ``back_off_noted`` change what is known of refusals. All of
it ends with the mount; ``ledger`` is the part that other mounts and later ones share.
"""

from __future__ import annotations

import hmac
import math
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Self

import trio

from pamfs.config import TenantConfig
from pamfs.errors import (
    LoginError,
    LoginRefusedError,
    PasswordExpiredError,
    UnreachableError,
)
from pamfs.model import Secret, Target
from pamfs.sessions.account.policy import (
    AccountRestingError,
    account_key,
    former_account_key,
    plan_cooldown,
)
from pamfs.sessions.attempt import Attempt

# An account that was accepted lately backs off from this refusal in a row on.
_DOUBTFUL: Final = 2
# How long an accepted login vouches for the next. Passwords are rotated meanwhile.
_TRUSTED_S: Final = 60.0
# Segura's default for "time between token requirement", and the most that it takes
# (facts/pam.md#segura-login).
USUAL_FREE_S: Final = 300.0
LONGEST_FREE_S: Final = 3600.0
_GROWTH: Final = 1.5


@dataclass(slots=True)
class CodeFreeTime:
    """How long after a code the PAM needs no further one.

    At least ``seen_s``, less than ``over_s`` seconds.
    """

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
        """Update the limits after a successful login.

        ``left_out_at``: when it was tried without a code.
        """
        if self.last_code_at is not None and left_out_at is not None:
            age_s = left_out_at - self.last_code_at
            if had_code:
                self.over_s = min(self.over_s, age_s)
                self.seen_s = min(self.seen_s, age_s)
            else:
                self.seen_s = max(self.seen_s, age_s)
        if had_code:
            self.last_code_at = now


def _new_turn() -> trio.Semaphore:
    # A lock would belong to a task; a turn belongs to a login.
    return trio.Semaphore(1, max_value=1)


class Account:
    """What this mount knows of one account; ``former_keys``: of earlier versions."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.former_keys: tuple[str, ...] = ()
        self.code_free = CodeFreeTime()
        self.turn = _new_turn()
        self._outcomes = _Outcomes()
        self._proven = _Proven()

    # -- passwords that were accepted ----------------------------------------------

    def prove(self, password: Secret | None) -> None:
        """Note that a login succeeded with ``password`` (None: with a key)."""
        self._proven.add(password)

    def is_proven(self, password: Secret | None) -> bool:
        """Return whether exactly this was accepted before in this mount."""
        return password in self._proven

    # -- back-off --------------------------------------------------------------------

    @property
    def is_accepted(self) -> bool:
        """Whether a login was accepted within the last ``_TRUSTED_S`` seconds."""
        return trio.current_time() - self._outcomes.accepted_at < _TRUSTED_S

    def check(self, wanted_at: float) -> None:
        """Raise if the account backs off, or its proxy did not answer meanwhile.

        ``AccountRestingError``, or ``UnreachableError`` if the proxy did not answer
        since ``wanted_at``.
        """
        left_s = self._outcomes.back_off_until - trio.current_time()
        if left_s > 0:
            raise AccountRestingError(
                f"the account backs off for {left_s:.0f} s: {self._outcomes.reason}"
            )
        if self._outcomes.unreachable_at >= wanted_at:
            raise UnreachableError(self._outcomes.reason)

    def pardon(self) -> None:
        """Let the account be tried at once: a person wants it so."""
        self._outcomes.back_off_until = -math.inf

    @contextmanager
    def back_off_noted(self) -> Iterator[None]:
        """Back off for ``rest_s`` if the body raises ``LoginRefusedError`` with it."""
        try:
            yield
        except LoginRefusedError as exc:
            if exc.rest_s > 0:  # its seed was refused before, by this daemon or another
                self._back_off(str(exc), exc.rest_s)
            raise

    @contextmanager
    def outcome_noted(self, attempt: Attempt) -> Iterator[None]:
        """Note how the dial in the body ends, for all logins of the account."""
        try:
            yield
        except UnreachableError as exc:
            self._unreachable(str(exc))
            raise
        except trio.Cancelled:
            self._note_late(attempt)
            raise
        except (LoginRefusedError, PasswordExpiredError) as exc:
            self._refused(exc, attempt.tenant.session.cooldown_s)
            raise
        self._outcomes.accepted_at = trio.current_time()
        self._outcomes.refusals = 0

    def _note_late(self, attempt: Attempt) -> None:
        if attempt.deadline.is_cancelled:
            return  # ended on purpose: that says nothing of the account
        if not attempt.is_answered:
            self._unreachable("the proxy does not answer")
        elif attempt.has_sent:  # some proxies never answer a wrong password
            self._refused(attempt.lateness(), attempt.tenant.session.cooldown_s)

    def _refused(self, error: LoginError, cooldown_s: float) -> None:
        outcomes = self._outcomes
        outcomes.refusals += 1
        if self.is_accepted and outcomes.refusals < _DOUBTFUL:
            return
        back_off_s = plan_cooldown(outcomes.refusals, cooldown_s, error)
        self._back_off(str(error), back_off_s)

    def _back_off(self, reason: str, seconds: float) -> None:
        self._outcomes.accepted_at = -math.inf
        self._outcomes.reason = reason
        self._outcomes.back_off_until = trio.current_time() + seconds

    def _unreachable(self, reason: str) -> None:
        self._outcomes.unreachable_at = trio.current_time()
        self._outcomes.reason = reason


@dataclass(slots=True)
class _Outcomes:
    """How the last logins of an account ended; instants are of trio's clock."""

    accepted_at: float = -math.inf
    refusals: int = 0  # in a row
    reason: str = ""
    back_off_until: float = -math.inf
    unreachable_at: float = -math.inf


class _Proven:
    """Passwords that were accepted, by digest under a key of this process."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._digests: set[bytes] = set()

    def add(self, password: Secret | None) -> None:
        self._digests.add(self._digest(password))

    def __contains__(self, password: Secret | None) -> bool:
        return self._digest(password) in self._digests

    def _digest(self, password: Secret | None) -> bytes:
        text = "\0" if password is None else password.reveal()
        return hmac.digest(self._key, text.encode(), "sha256")


class Turn:
    """The turn of one login at its account; ``with`` gives it back on any way out."""

    def __init__(self, account: Account, attempt: Attempt) -> None:
        self._account = account
        self._attempt = attempt
        self._is_held = False

    def __enter__(self) -> Self:
        """Hold nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()

    async def take(self) -> None:
        """Wait for the turn, unless it is held or the account needs none."""
        if not (self._is_held or self._account.is_accepted):
            await self._wait()

    async def _wait(self) -> None:
        self._attempt.awaiting = "another login of the account"
        try:
            with self._attempt.deadline.paused():  # that login takes this time
                await self._account.turn.acquire()
        finally:
            self._attempt.awaiting = ""
        self._is_held = True
        if self._account.is_accepted:  # by that login: the rest go side by side
            self._give_back()

    def _give_back(self) -> None:
        if self._is_held:
            self._is_held = False
            self._account.turn.release()


@dataclass(frozen=True, slots=True)
class Accounts:
    """The accounts of a mount, by key."""

    _by_key: dict[str, Account] = field(default_factory=dict)

    def of(self, tenant: TenantConfig, target: Target) -> Account:
        """Return the account that logs in to ``target``."""
        key = account_key(tenant, target)
        account = self._by_key.setdefault(key, Account(key))
        former = former_account_key(tenant)
        if former not in account.former_keys:
            account.former_keys = (*account.former_keys, former)
        return account
