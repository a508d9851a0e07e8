"""The life of a session as a table: which event leads where, and what is then done.

Law: a login that was opened is hung up exactly once, and there are never two at
once for a target. Every attempt ends in exactly one of ``OPENED``, ``DECLINED``,
``REFUSED`` and ``FAILED``, also when it was abandoned; a state that ``ABANDON``
leads to waits for that end. After a lost session a new one may be opened for the files
that are still open; any other end closes the session on purpose, and ``REVOKE`` makes
those files stale for good. Pure: only ``step`` reads the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final, NamedTuple


class IllegalStepError(Exception):
    """An event came in a state that has no row for it: a bug, not a failure."""


class State(Enum):
    """Where the session of one target is in its life."""

    ABSENT = auto()
    ASKING = auto()  # host key, lease, keys: nothing was sent to the account yet
    WAITING_CODE = auto()  # the account's turn, its password, its one-time code
    DIALING = auto()
    READY = auto()
    DRAINING = auto()  # the lease is about to end: dirty data is stored first
    READ_ONLY = auto()  # dirty data is stored; no change is accepted
    CLOSING = auto()  # hanging up, or an abandoned attempt has yet to end
    COOLING = auto()


class Event(Enum):
    """What happened."""

    WANTED = auto()
    ANSWERED = auto()
    CODE_OBTAINED = auto()
    OPENED = auto()
    DECLINED = auto()  # a person said no, or said nothing in time
    REFUSED = auto()  # the PAM said no
    FAILED = auto()  # no answer: the proxy, the vault or a person is not there
    LOST = auto()
    IDLE_EXPIRED = auto()
    LEASE_ENDING = auto()
    DRAINED = auto()
    LEASE_OVER = auto()
    HUNG_UP = auto()
    REST_DUE = auto()  # hung up; the server broke the protocol twice in a row
    RESTED = auto()
    UNLOCKED = auto()  # a person wants it opened now, whatever failed before
    DESERTED = auto()  # no caller waits any more for an attempt that would ask
    ENDED = auto()  # the mount ends, or a person closed this target


class Do(Enum):
    """What the driver has to do, in the order of the row."""

    LOG_IN = auto()  # one attempt, which reports ANSWERED and CODE_OBTAINED
    ABANDON = auto()
    ANNOUNCE = auto()  # what is kept of this target begins anew
    WAKE_WAITERS = auto()
    FAIL_WAITERS = auto()
    WATCH = auto()
    DRAIN = auto()
    REVOKE = auto()  # what is open is stale for good: no session is opened for it
    FORGET = auto()  # caches of this target are dropped
    HANG_UP = auto()
    COOL_DOWN = auto()  # longer each time: each attempt may count against an account
    COOL_BRIEFLY = auto()  # no account counted anything
    STOP_COOLING = auto()
    LET_IN = auto()  # wake the callers that waited for the end of the last session


class Row(NamedTuple):
    """The next state, and what is done on the way there."""

    state: State
    actions: tuple[Do, ...] = ()


_REFUSED: Final = Row(State.COOLING, (Do.FAIL_WAITERS, Do.COOL_DOWN))
_FAILED: Final = Row(State.COOLING, (Do.FAIL_WAITERS, Do.COOL_BRIEFLY))
_ABANDONED: Final = Row(State.CLOSING, (Do.ABANDON, Do.FAIL_WAITERS))
_ENDED: Final = Row(State.CLOSING, (Do.REVOKE, Do.ABANDON, Do.FAIL_WAITERS))
_LOST: Final = Row(State.CLOSING, (Do.FORGET, Do.HANG_UP))
_OVER: Final = Row(State.CLOSING, (Do.REVOKE, Do.FORGET, Do.HANG_UP))
_GONE: Final = Row(State.ABSENT, (Do.LET_IN,))

TABLE: Final[Mapping[tuple[State, Event], Row]] = {
    (State.ABSENT, Event.WANTED): Row(State.ASKING, (Do.LOG_IN,)),
    # Files may be open still, of a session that was lost.
    (State.ABSENT, Event.ENDED): Row(State.ABSENT, (Do.REVOKE,)),
    (State.ASKING, Event.WANTED): Row(State.ASKING),
    (State.ASKING, Event.ANSWERED): Row(State.WAITING_CODE),
    (State.ASKING, Event.DECLINED): _REFUSED,
    (State.ASKING, Event.FAILED): _FAILED,
    (State.ASKING, Event.DESERTED): _ABANDONED,
    (State.ASKING, Event.ENDED): _ENDED,
    (State.WAITING_CODE, Event.WANTED): Row(State.WAITING_CODE),
    (State.WAITING_CODE, Event.CODE_OBTAINED): Row(State.DIALING),
    (State.WAITING_CODE, Event.DECLINED): _REFUSED,
    (State.WAITING_CODE, Event.FAILED): _FAILED,
    (State.WAITING_CODE, Event.DESERTED): _ABANDONED,
    (State.WAITING_CODE, Event.ENDED): _ENDED,
    (State.DIALING, Event.WANTED): Row(State.DIALING),
    (State.DIALING, Event.OPENED): Row(
        State.READY, (Do.WATCH, Do.ANNOUNCE, Do.WAKE_WAITERS)
    ),
    (State.DIALING, Event.DECLINED): _REFUSED,
    (State.DIALING, Event.REFUSED): _REFUSED,
    (State.DIALING, Event.FAILED): _FAILED,
    (State.DIALING, Event.DESERTED): _ABANDONED,
    (State.DIALING, Event.ENDED): _ENDED,
    (State.READY, Event.WANTED): Row(State.READY),
    (State.READY, Event.LOST): _LOST,
    (State.READY, Event.IDLE_EXPIRED): _OVER,
    (State.READY, Event.LEASE_ENDING): Row(State.DRAINING, (Do.DRAIN,)),
    (State.READY, Event.ENDED): _OVER,
    # Dirty data is stored through the session: it is still lent.
    (State.DRAINING, Event.WANTED): Row(State.DRAINING),
    (State.DRAINING, Event.DRAINED): Row(State.READ_ONLY),
    (State.DRAINING, Event.LEASE_OVER): _OVER,
    # The PAM may have ended the lease early, as its clock is ahead: treat the loss as
    # the lease's end.
    (State.DRAINING, Event.LOST): _OVER,
    (State.DRAINING, Event.ENDED): _OVER,
    (State.READ_ONLY, Event.WANTED): Row(State.READ_ONLY),
    (State.READ_ONLY, Event.LEASE_OVER): _OVER,
    (State.READ_ONLY, Event.LOST): _OVER,
    (State.READ_ONLY, Event.ENDED): _OVER,
    (State.CLOSING, Event.WANTED): Row(State.CLOSING),
    (State.CLOSING, Event.HUNG_UP): _GONE,
    (State.CLOSING, Event.REST_DUE): Row(State.COOLING, (Do.COOL_DOWN, Do.LET_IN)),
    # The attempt was abandoned and opened all the same: hang up at once.
    (State.CLOSING, Event.OPENED): Row(State.CLOSING, (Do.HANG_UP,)),
    (State.CLOSING, Event.ANSWERED): Row(State.CLOSING),
    (State.CLOSING, Event.CODE_OBTAINED): Row(State.CLOSING),
    (State.CLOSING, Event.DECLINED): _GONE,
    (State.CLOSING, Event.REFUSED): _GONE,
    (State.CLOSING, Event.FAILED): _GONE,
    (State.CLOSING, Event.DESERTED): Row(State.CLOSING),
    (State.CLOSING, Event.ENDED): Row(State.CLOSING, (Do.REVOKE,)),
    (State.COOLING, Event.RESTED): Row(State.ABSENT),
    (State.COOLING, Event.UNLOCKED): Row(State.ABSENT, (Do.STOP_COOLING,)),
    (State.COOLING, Event.ENDED): Row(State.ABSENT, (Do.REVOKE, Do.STOP_COOLING)),
}


def step(state: State, event: Event) -> Row:
    """Return the row for ``event`` in ``state``; raise ``IllegalStepError`` if none."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise IllegalStepError(f"{event.name} while {state.name}") from None
