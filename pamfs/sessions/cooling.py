"""How an attempt ended, and how long the target rests after it.

Law: after a refusal nothing is tried again unattended before the rest is over.
The PAM account is the one of the web login, and it locks.
"""

from __future__ import annotations

import os
from typing import Final

from pamfs.errors import (
    ApprovalPendingError,
    CannotAskError,
    CredentialBusyError,
    DeclinedError,
    LoginError,
    LoginRefusedError,
    NobodyToAskError,
    PamfsError,
    UnknownProxyError,
    UnreachableError,
)
from pamfs.model import Caller
from pamfs.processes import job_of
from pamfs.sessions.machine import Event


class AccountRestingError(LoginError):
    """The account was refused on another target, and is not tried before it rested."""


# A proxy that is down costs nobody's account anything: the next try may be soon,
# but not with every stat of a file manager.
BRIEF_COOLDOWN_S: Final = 5.0
LONGEST_COOLDOWN_S: Final = 600.0


def plan_brief_cooldown(cooldown_s: float, error: PamfsError | None = None) -> float:
    """Return how long to rest after nobody answered; it does not grow.

    An approval that is yet to come is waited for: whoever comes next goes on with it.
    """
    if isinstance(error, ApprovalPendingError):
        return 0.0
    return min(BRIEF_COOLDOWN_S, cooldown_s)


def plan_cooldown(
    failures: int, cooldown_s: float, error: PamfsError | None = None
) -> float:
    """Return how long to rest after the ``failures``-th refusal in a row.

    A refusal may ask for more: nobody would notice that a job with a wrong seed
    uses up one answer after the other.
    """
    longest = max(cooldown_s, LONGEST_COOLDOWN_S)
    rest_s = min(cooldown_s * 2.0 ** min(failures - 1, 20), longest)
    asked_s = error.rest_s if isinstance(error, LoginRefusedError) else 0.0
    return max(rest_s, asked_s)


def concerns(error: PamfsError | None, caller: Caller) -> bool:
    """Whether what ended the last attempt stops ``caller`` as well.

    That there is nobody behind one job says nothing of another one of the mount's
    user. The same job is stopped: it would check out and dial at each access.
    """
    if not isinstance(error, NobodyToAskError) or caller.uid != os.getuid():
        return True
    return (error.uid, error.job) == (caller.uid, job_of(caller.pid))


def event_of(error: LoginError, *, is_dialing: bool) -> Event:
    """Return how an attempt ended that ended with ``error``."""
    match error:
        case UnknownProxyError():
            return Event.DECLINED  # each try is a connection, and none helps
        case UnreachableError() | CannotAskError() | ApprovalPendingError():
            return Event.FAILED
        case AccountRestingError():
            return Event.FAILED  # nothing was sent, and the account's rest is its own
        case CredentialBusyError() if not is_dialing:
            return Event.FAILED  # asked of a vault, which counts no such question
        case DeclinedError():
            return Event.DECLINED
        case _:
            return Event.REFUSED if is_dialing else Event.DECLINED


def as_login_error(error: PamfsError) -> LoginError:
    """Return ``error`` as one of a login, with its errno and without its frames.

    It outlives the login (status, cooling), and frames hold the login's secrets.
    """
    if isinstance(error, LoginError):
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    other = LoginError(str(error))
    other.code = error.code
    return other
