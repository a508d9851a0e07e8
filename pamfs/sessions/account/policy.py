"""The policy of logins: which account counts, how long to back off, whether to retry.

Pure. The PAM account behind a login is usually the one of the web login, and it
locks after a few wrong answers of any kind (facts/pam.md#segura-login). So:

- After a refusal nothing is tried unattended before the back-off is over. The
  back-off doubles with each refusal in a row; after an unreachable proxy it is
  short and does not grow, because that costs no account anything.
- A refused login is repeated with another code only if the code is known to be the
  cause: the PAM's words name the code, and neither the password nor a lock; or this
  password (or key) was accepted before in this mount; or the server asked for the
  code by itself, after everything else was answered, and the code came last.
- If a login without a code (``otp_when = "learn"``) is refused, the missing code is
  treated as a wrong code.
- From a seed a second code is sent and never a third. A person is asked for up to
  three codes and may decline: to go on is that person's decision.
- Nothing is repeated after words that name the password or a lock.
- An unattended secret that failed will fail again: back off for
  ``UNATTENDED_BACK_OFF_S``.
"""

from __future__ import annotations

import os
import random
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

import trio

from pamfs.config import TenantConfig
from pamfs.errors import (
    ApprovalPendingError,
    Blame,
    CannotAskError,
    CredentialBusyError,
    DeclinedError,
    LoginError,
    LoginRefusedError,
    NobodyToAskError,
    NoDescriptorError,
    PamfsError,
    UnknownProxyError,
    UnreachableError,
)
from pamfs.model import Caller, Target
from pamfs.processes import job_of
from pamfs.sessions.machine import Event
from pamfs.sessions.prompts.question import Kind


def account_key(tenant: TenantConfig, target: Target) -> str:
    """Return the key of the account that logs in to ``target``.

    Everything that counts wrong answers goes by it: turn and back-off (``turn``),
    the ledger on disk (``ledger``), and what is known of one-time codes.
    """
    login = tenant.login
    account = login.dialect.account(login.operator, target)
    return "\0".join((tenant.proxy.address, *account))


def former_account_key(tenant: TenantConfig) -> str:
    """Return the key that ledgers of earlier versions have for the account."""
    return f"{tenant.login.operator}%{tenant.name}@{tenant.proxy.address}"


class AccountRestingError(LoginError):
    """The account was refused on another target and backs off."""


# An unreachable proxy costs no account anything: the next try may be soon, but not
# with every stat of a file manager.
BRIEF_COOLDOWN_S: Final = 5.0
LONGEST_COOLDOWN_S: Final = 600.0
# After two refusals (``ledger``), or one of a secret that no person typed.
UNATTENDED_BACK_OFF_S: Final = 600.0


# The pauses between the tries of a reconnect; the last one repeats.
RECONNECT_PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0, 4.0, BRIEF_COOLDOWN_S)
_JITTER: Final = 0.2


class Reconnect:
    """How long, how often and for which programs a lost session is opened again.

    They are the processes that used it lately, and their jobs: a program begins
    others, and a script one after the other.
    """

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._until: float | None = None
        self._tries = 0
        self._programs: AbstractSet[int] = set()
        self._jobs: AbstractSet[int | None] = set()

    def begin(self, programs: AbstractSet[int] = frozenset()) -> None:
        """Note that the session was lost now, which ``programs`` used."""
        self._until = trio.current_time() + self._within_s
        self._tries = 0
        self._programs = programs
        self._jobs = {job_of(pid) for pid in programs} - {None}

    def is_for(self, pid: int) -> bool:
        """Whether the process used the session, or is of a job that did."""
        return pid in self._programs or job_of(pid) in self._jobs

    def end(self) -> None:
        """Note that a session is open."""
        self._until = None

    @property
    def is_due(self) -> bool:
        """Whether a proxy that is away is still waited for."""
        return self._until is not None and trio.current_time() < self._until

    def next_pause_s(self) -> float:
        """Return how long to wait before the next try: a back-off with jitter."""
        pause_s = RECONNECT_PAUSES_S[min(self._tries, len(RECONNECT_PAUSES_S) - 1)]
        self._tries += 1
        return pause_s * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311


def is_waited_out(error: PamfsError | None) -> bool:
    """Whether a reconnect that failed with ``error`` is tried again: no refusal."""
    return isinstance(error, UnreachableError | NoDescriptorError)


def plan_brief_cooldown(cooldown_s: float, error: PamfsError | None = None) -> float:
    """Return the back-off after an attempt that no account counts; it does not grow.

    There is none while an approval is pending: the next access continues it. None
    either without a file descriptor: nothing was sent.
    """
    if isinstance(error, ApprovalPendingError | NoDescriptorError):
        return 0.0
    return min(BRIEF_COOLDOWN_S, cooldown_s)


def plan_cooldown(
    failures: int, cooldown_s: float, error: PamfsError | None = None
) -> float:
    """Return the back-off after the ``failures``-th refusal in a row.

    A refusal may ask for more (``rest_s``): an unattended job with a wrong seed
    would use up one wrong answer after the other.
    """
    longest = max(cooldown_s, LONGEST_COOLDOWN_S)
    rest_s = min(cooldown_s * 2.0 ** min(failures - 1, 20), longest)
    asked_s = error.rest_s if isinstance(error, LoginRefusedError) else 0.0
    return max(rest_s, asked_s)


def concerns(error: PamfsError | None, caller: Caller) -> bool:
    """Whether the error of the last attempt holds for ``caller`` as well.

    If one job has no terminal or desktop, another job of the mount's user may have one,
    so the error holds for the same job only. That job is refused until the cooldown
    ends, or each access would check out and dial.
    """
    if not isinstance(error, NobodyToAskError) or caller.uid != os.getuid():
        return True
    return (error.uid, error.job) == (caller.uid, job_of(caller.pid))


def event_of(error: LoginError, *, is_dialing: bool) -> Event:
    """Return the machine's event for an attempt that ended with ``error``."""
    match error:
        case UnknownProxyError():
            return Event.DECLINED  # each try is a connection, and none helps
        case UnreachableError() | CannotAskError() | ApprovalPendingError():
            return Event.FAILED
        case AccountRestingError() | NoDescriptorError():
            return Event.FAILED  # nothing was sent; the account has its own back-off
        case CredentialBusyError() if not is_dialing:
            return Event.FAILED  # a vault does not count such requests
        case DeclinedError():
            return Event.DECLINED
        case _:
            return Event.REFUSED if is_dialing else Event.DECLINED


def as_login_error(error: PamfsError) -> LoginError:
    """Return ``error`` as one of a login, with its errno and without its frames.

    The error is kept after the login, and the frames of a traceback would keep its
    secrets.
    """
    if isinstance(error, LoginError):
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    other = LoginError(str(error))
    other.code = error.code
    return other


# -- one more try within the attempt ------------------------------------------------

MOST_FROM_SEED: Final = 2
MOST_FROM_PERSON: Final = 3


@dataclass(frozen=True, slots=True)
class RefusedTries:
    """The refused tries of one attempt."""

    tries: int
    from_person: bool
    # Whether a code was sent, or one was left out that could have been sent.
    had_place_for_code: bool
    is_password_proven: bool = False
    was_code_last: bool = False


def plan_retry(tried: RefusedTries, error: LoginError) -> bool:
    """Return whether to log in once more with another code after ``error``."""
    if type(error) is not LoginRefusedError or not tried.had_place_for_code:
        return False
    if error.blame in {Blame.PASSWORD, Blame.ACCOUNT} or error.rest_s > 0:
        return False
    if tried.from_person:
        return tried.tries < MOST_FROM_PERSON
    was_the_code = (
        error.blame is Blame.CODE or tried.is_password_proven or tried.was_code_last
    )
    return was_the_code and tried.tries < MOST_FROM_SEED


def plan_rest(from_person: AbstractSet[Kind], error: LoginRefusedError) -> float:
    """Return the least back-off in seconds, by what a person typed in the attempt."""
    match error.blame:
        case Blame.PASSWORD:
            suspects = {Kind.PASSWORD}
        case Blame.CODE:
            suspects = {Kind.CODE}
        case _:
            suspects = {Kind.PASSWORD, Kind.CODE, Kind.OTHER}
    return 0.0 if suspects & from_person else UNATTENDED_BACK_OFF_S
