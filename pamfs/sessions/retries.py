"""Whether a login that was refused is tried once more with another code: the law.

The account behind is that of the web login, and it locks after a few wrong answers
of any kind. So the machine repeats itself only if it knows that it was the code:

- the PAM's own words name the code, and neither the password nor a lock; or
- this password (or key) was accepted before, in this mount's life; or
- the server asked for the code by itself, after everything else was answered, and
  the code was the last that it heard.

A code that was left out because none was needed a while ago counts as a wrong one.
From a seed a second code is sent and never a third. A person is asked again, three
codes in all, and may say no: that is their decision, not the machine's. Nothing is
repeated after words that name the password or a lock.

What no person gave is as wrong the next time: it rests as long as a refused seed.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from pamfs.errors import Blame, LoginError, LoginRefusedError
from pamfs.sessions.questions import Kind
from pamfs.sessions.tries import REST_S

MOST_FROM_SEED: Final = 2
MOST_FROM_PERSON: Final = 3


@dataclass(frozen=True, slots=True)
class Tried:
    """What the refused tries of one attempt were."""

    tries: int
    from_person: bool
    # Whether a code was sent, or one was left out that could have been sent.
    had_place_for_code: bool
    is_password_proven: bool = False
    was_code_last: bool = False


def plan_retry(tried: Tried, error: LoginError) -> bool:
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
    """Return how long to rest at least, by what a person gave to the attempt."""
    match error.blame:
        case Blame.PASSWORD:
            suspects = {Kind.PASSWORD}
        case Blame.CODE:
            suspects = {Kind.CODE}
        case _:
            suspects = {Kind.PASSWORD, Kind.CODE, Kind.OTHER}
    return 0.0 if suspects & from_person else REST_S
