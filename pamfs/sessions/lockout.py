"""The operator's account behind many targets: it is what locks.

Law: wrong answers are counted by the PAM per account, so a refusal is the whole
account's. Unless a login was accepted just now, an account's logins have one turn
after the other, from the first secret that is fetched or asked for to the end, and
a refusal lets all its targets rest. An account that was accepted just now rests from
the second refusal in a row on: one may be about the target. While it rests nothing
is checked out, fetched or asked for: this dialer is around all that does so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import trio

from pamfs.config import TenantConfig
from pamfs.errors import (
    LoginError,
    LoginRefusedError,
    PasswordExpiredError,
    UnreachableError,
)
from pamfs.model import Target
from pamfs.sessions.accounts import account_name
from pamfs.sessions.cooling import AccountRestingError, plan_cooldown
from pamfs.sessions.dial import Attempt, Dialer, Link, Login

# How often an account that was accepted may be refused before all of it rests.
_DOUBTFUL: Final = 2
# How long an accepted login vouches for the next: passwords are rotated meanwhile.
_TRUSTED_S: Final = 60.0


def _new_turn() -> trio.Semaphore:
    # No lock: one stage of a login takes it, another lets go.
    return trio.Semaphore(1, max_value=1)


@dataclass(slots=True)
class Account:
    """What the logins of one account have shown."""

    accepted_at: float = -math.inf
    refusals: int = 0
    reason: str = ""
    rests_until: float = -math.inf
    silent_at: float = -math.inf
    turn: trio.Semaphore = field(default_factory=_new_turn)

    @property
    def is_accepted(self) -> bool:
        """Whether a login was accepted so lately that the next will be as well."""
        return trio.current_time() - self.accepted_at < _TRUSTED_S

    def check(self, wanted_at: float) -> None:
        """Raise what is known already of a login that was wanted at ``wanted_at``."""
        left_s = self.rests_until - trio.current_time()
        if left_s > 0:
            raise AccountRestingError(
                f"the account rests for {left_s:.0f} s: {self.reason}"
            )
        if self.silent_at >= wanted_at:
            raise UnreachableError(self.reason)

    def accepted(self) -> None:
        """Note that a login came to be."""
        self.accepted_at = trio.current_time()
        self.refusals = 0

    def refused(self, error: LoginError, cooldown_s: float) -> None:
        """Note a wrong answer, as far as can be known."""
        self.refusals += 1
        if self.is_accepted and self.refusals < _DOUBTFUL:
            return
        self.rest(str(error), plan_cooldown(self.refusals, cooldown_s, error))

    def rest(self, reason: str, rest_s: float) -> None:
        """Let no target of the account be tried for ``rest_s``."""
        self.accepted_at = -math.inf
        self.reason = reason
        self.rests_until = trio.current_time() + rest_s

    def silent(self, reason: str) -> None:
        """Note that the proxy did not answer."""
        self.silent_at = trio.current_time()
        self.reason = reason


class AccountDialer:
    """Sends the logins of another dialer with a thought for their account."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self._accounts: dict[str, Account] = {}

    def begin(self, attempt: Attempt) -> Login:
        """Return a login that has done nothing yet."""
        account = self._account(attempt.tenant, attempt.target)
        return _AccountLogin(self._dialer.begin(attempt), attempt, account)

    def pardon(self, tenant: TenantConfig, target: Target) -> None:
        """Let the account of ``target`` be tried at once: a person wants it so."""
        self._account(tenant, target).rests_until = -math.inf

    def _account(self, tenant: TenantConfig, target: Target) -> Account:
        return self._accounts.setdefault(account_name(tenant, target), Account())


class _AccountLogin:
    def __init__(self, login: Login, attempt: Attempt, account: Account) -> None:
        self._login = login
        self._attempt = attempt
        self._account = account
        self._wanted_at = -math.inf
        self._has_turn = False

    async def ask(self) -> None:
        """Get what comes before, unless it is known already to be of no use."""
        self._account.check(trio.current_time())
        await self._login.ask()

    async def obtain_code(self) -> None:
        """Get the account's secrets when it is this login's turn.

        A code would grow old meanwhile, and a person be asked for nothing.
        """
        self._wanted_at = trio.current_time()
        await self._take_turn()
        self._account.check(self._wanted_at)
        try:
            await self._login.obtain_code()
        except LoginRefusedError as exc:
            if exc.rest_s > 0:  # its seed was refused before, by this daemon or another
                self._account.rest(str(exc), exc.rest_s)
            raise

    async def open(self) -> Link:
        """Dial when it is this login's turn."""
        await self._take_turn()  # its account may have been refused since
        try:
            self._account.check(self._wanted_at)
            return await self._open()
        finally:
            self._give_turn()

    async def close(self) -> None:
        """Let the next one have its turn, and go of all that was got."""
        self._give_turn()
        await self._login.close()

    async def _take_turn(self) -> None:
        if not (self._has_turn or self._account.is_accepted):
            await self._wait_turn()

    async def _wait_turn(self) -> None:
        self._attempt.awaiting = "another login of the account"
        try:
            with self._attempt.patience.paused():  # that login takes this time
                await self._account.turn.acquire()
        finally:
            self._attempt.awaiting = ""
        self._has_turn = True
        if self._account.is_accepted:  # by that login: the rest go side by side
            self._give_turn()

    def _give_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self._account.turn.release()

    async def _open(self) -> Link:
        try:
            link = await self._login.open()
        except UnreachableError as exc:
            self._account.silent(str(exc))
            raise
        except trio.Cancelled:
            self._note_late()
            raise
        except (LoginRefusedError, PasswordExpiredError) as exc:
            self._account.refused(exc, self._attempt.tenant.cooldown_s)
            raise
        self._account.accepted()
        return link

    def _note_late(self) -> None:
        """Note what it means that the login was not finished in time."""
        attempt = self._attempt
        if attempt.patience.is_ended:
            return  # somebody ended it
        if not attempt.is_answered:
            self._account.silent("the proxy does not answer")
        elif attempt.has_sent:  # some proxies let a wrong answer wait for ever
            self._account.refused(attempt.lateness(), attempt.tenant.cooldown_s)
