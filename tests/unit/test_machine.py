"""The table of the session machine: its shape, and the rows that carry a promise."""

from __future__ import annotations

import pytest

from pamfs.sessions.machine import TABLE, Do, Event, IllegalStepError, State, step


def run(*events: Event) -> tuple[State, list[Do]]:
    state, done = State.ABSENT, list[Do]()
    for event in events:
        state, actions = step(state, event)
        done += actions
    return state, done


IN_USE = (State.READY, State.DRAINING, State.READ_ONLY)
OPEN = (Event.WANTED, Event.ANSWERED, Event.CODE_OBTAINED, Event.OPENED)


def test_a_first_want_is_one_login() -> None:
    state, done = run(*OPEN)
    assert state is State.READY
    assert done == [Do.LOG_IN, Do.WATCH, Do.ANNOUNCE, Do.WAKE_WAITERS]


def test_a_missing_row_is_a_bug_and_says_which() -> None:
    with pytest.raises(IllegalStepError, match="OPENED while READY"):
        step(State.READY, Event.OPENED)


@pytest.mark.parametrize(
    "before",
    [State.ASKING, State.WAITING_CODE, State.DIALING, State.CLOSING, *IN_USE],
)
def test_a_second_want_starts_nothing(before: State) -> None:
    assert step(before, Event.WANTED) == (before, ())


def test_a_refusal_fails_the_waiters_and_cools_longer_each_time() -> None:
    state, actions = step(State.DIALING, Event.REFUSED)
    assert state is State.COOLING
    assert actions == (Do.FAIL_WAITERS, Do.COOL_DOWN)


def test_an_unreachable_proxy_cools_briefly() -> None:
    state, actions = step(State.DIALING, Event.FAILED)
    assert state is State.COOLING
    assert actions == (Do.FAIL_WAITERS, Do.COOL_BRIEFLY)


@pytest.mark.parametrize(
    ("state", "event"),
    [
        *((state, event) for state in IN_USE for event in (Event.LOST, Event.ENDED)),
        (State.READY, Event.IDLE_EXPIRED),
        (State.DRAINING, Event.LEASE_OVER),
        (State.READ_ONLY, Event.LEASE_OVER),
    ],
)
def test_what_ends_a_session_drops_its_content_before_hanging_up(
    state: State, event: Event
) -> None:
    after, actions = step(state, event)
    assert after is State.CLOSING
    assert actions[-2:] == (Do.FORGET, Do.HANG_UP)


@pytest.mark.parametrize("state", State)
def test_a_check_in_makes_what_is_open_stale_in_every_state(state: State) -> None:
    assert step(state, Event.ENDED).actions[0] is Do.REVOKE


def test_only_a_lost_session_may_be_opened_again_behind_open_files() -> None:
    without = {
        (state, event)
        for (state, event), row in TABLE.items()
        if Do.FORGET in row.actions and Do.REVOKE not in row.actions
    }
    assert without == {(State.READY, Event.LOST)}


def test_a_lease_that_ends_is_drained_then_read_only_then_closed() -> None:
    state, _ = run(*OPEN, Event.LEASE_ENDING, Event.DRAINED)
    assert state is State.READ_ONLY
    assert step(State.READ_ONLY, Event.LEASE_OVER).state is State.CLOSING


def test_a_drain_that_hangs_does_not_outlast_the_lease() -> None:
    assert step(State.DRAINING, Event.LEASE_OVER).state is State.CLOSING


@pytest.mark.parametrize("state", [State.ASKING, State.WAITING_CODE, State.DIALING])
def test_what_nobody_waits_for_is_given_up_without_cooling(state: State) -> None:
    after, actions = step(state, Event.DESERTED)
    assert after is State.CLOSING
    assert actions == (Do.ABANDON, Do.FAIL_WAITERS)
    assert step(State.CLOSING, Event.DECLINED) == (State.ABSENT, (Do.LET_IN,))


def test_an_unlock_ends_the_cooling_and_leaves_open_files_alone() -> None:
    assert step(State.COOLING, Event.UNLOCKED) == (State.ABSENT, (Do.STOP_COOLING,))


def test_a_lost_session_may_be_dialed_anew() -> None:
    state, done = run(*OPEN, Event.LOST, Event.HUNG_UP, Event.WANTED)
    assert state is State.ASKING
    assert done.count(Do.LOG_IN) == 2


def test_nobody_dials_before_the_last_login_was_handed_back() -> None:
    state, done = run(*OPEN, Event.LOST, Event.WANTED)
    assert state is State.CLOSING
    assert done.count(Do.LOG_IN) == 1


def test_a_login_that_lands_after_the_end_is_handed_straight_back() -> None:
    state, done = run(*OPEN[:-1], Event.ENDED, Event.OPENED, Event.HUNG_UP)
    assert state is State.ABSENT
    assert done.count(Do.HANG_UP) == 1
    assert Do.WAKE_WAITERS not in done


def test_a_session_whose_lease_ends_is_drained_first() -> None:
    state, done = run(*OPEN, Event.LEASE_ENDING, Event.DRAINED, Event.LEASE_OVER)
    assert state is State.CLOSING
    assert done[-4:] == [Do.DRAIN, Do.REVOKE, Do.FORGET, Do.HANG_UP]


def test_cooling_ends_by_rest_and_never_by_a_want() -> None:
    assert step(State.COOLING, Event.RESTED).state is State.ABSENT
    with pytest.raises(IllegalStepError):
        step(State.COOLING, Event.WANTED)


def test_every_state_can_be_ended_and_can_be_reached() -> None:
    assert all((state, Event.ENDED) in TABLE for state in State)
    assert {row.state for row in TABLE.values()} == set(State)
