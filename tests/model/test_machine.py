"""Whatever the order of events, a lease taken is a lease given back.

The model is the world around the machine: an attempt under way, logins that are
open at the PAM, hang-ups under way. It sends only what such a world can send.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from pamfs.sessions.machine import Do, Event, State, step

IN_USE = {State.READY, State.DRAINING, State.READ_ONLY}
ATTEMPT = (Event.ANSWERED, Event.CODE_OBTAINED, Event.OPENED)


class SessionModel(RuleBasedStateMachine):
    """Holds the law of pamfs.sessions.machine."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State.ABSENT
        self.steps: list[Event] = []  # what the attempt under way would report
        self.leases = 0
        self.hang_ups = 0
        self.waiters = 0
        self.is_cooling = False
        # Files that are open, and may be opened again behind their handles.
        self.usable_files = 0
        self.stale_files = 0

    def send(self, event: Event) -> None:
        if event is Event.OPENED:
            self.leases += 1
        self.state, actions = step(self.state, event)
        for action in actions:
            self.carry_out(action)

    def carry_out(self, action: Do) -> None:
        match action:
            case Do.LOG_IN:
                self.steps += reversed(ATTEMPT)
            case Do.HANG_UP:
                self.hang_ups += 1
            case Do.ANNOUNCE | Do.WAKE_WAITERS | Do.FAIL_WAITERS | Do.LET_IN:
                self.waiters = 0
            case Do.COOL_DOWN | Do.COOL_BRIEFLY:
                self.is_cooling = True
            case Do.STOP_COOLING:
                self.is_cooling = False
            case Do.REVOKE:
                self.stale_files += self.usable_files
                self.usable_files = 0
            case Do.ABANDON | Do.WATCH | Do.DRAIN | Do.FORGET:
                pass

    @precondition(lambda self: self.state is not State.COOLING)
    @rule()
    def somebody_wants_it(self) -> None:
        self.send(Event.WANTED)
        if self.state not in IN_USE:
            self.waiters += 1

    @precondition(lambda self: self.steps)
    @rule()
    def the_attempt_gets_on(self) -> None:
        self.send(self.steps.pop())

    @precondition(lambda self: self.steps)
    @rule()
    def a_person_declines(self) -> None:
        self.steps.clear()
        self.send(Event.DECLINED)

    @precondition(lambda self: self.steps == [Event.OPENED])
    @rule()
    def the_pam_refuses(self) -> None:
        self.steps.clear()
        self.send(Event.REFUSED)

    @precondition(lambda self: self.steps)
    @rule()
    def the_attempt_fails(self) -> None:
        self.steps.clear()
        self.send(Event.FAILED)

    @precondition(lambda self: self.state in IN_USE)
    @rule()
    def the_connection_is_lost(self) -> None:
        is_lease_ending = self.state is not State.READY
        self.send(Event.LOST)
        assert not (is_lease_ending and self.usable_files)

    @precondition(lambda self: self.state in IN_USE)
    @rule()
    def a_file_is_opened(self) -> None:
        self.usable_files += 1

    @precondition(lambda self: self.waiters and self.steps)
    @rule()
    def the_last_waiter_leaves(self) -> None:
        self.waiters = 0
        self.send(Event.DESERTED)
        assert self.state is State.CLOSING

    @precondition(lambda self: self.state is State.READY and not self.usable_files)
    @rule()
    def it_was_idle_for_too_long(self) -> None:
        self.send(Event.IDLE_EXPIRED)

    @precondition(lambda self: self.state is State.READY)
    @rule()
    def the_lease_is_about_to_end(self) -> None:
        self.send(Event.LEASE_ENDING)

    @precondition(lambda self: self.state is State.DRAINING)
    @rule()
    def the_data_is_stored(self) -> None:
        self.send(Event.DRAINED)

    @precondition(lambda self: self.state in {State.DRAINING, State.READ_ONLY})
    @rule()
    def the_lease_is_over(self) -> None:
        self.send(Event.LEASE_OVER)
        assert not self.usable_files

    @precondition(lambda self: self.hang_ups)
    @rule()
    def the_hang_up_is_done(self) -> None:
        self.hang_ups -= 1
        self.leases -= 1
        self.send(Event.HUNG_UP)

    @precondition(lambda self: self.hang_ups)
    @rule()
    def the_server_broke_the_protocol_again(self) -> None:
        self.hang_ups -= 1
        self.leases -= 1
        self.send(Event.REST_DUE)
        assert self.is_cooling

    @precondition(lambda self: self.is_cooling)
    @rule()
    def it_has_cooled_down(self) -> None:
        self.is_cooling = False
        self.send(Event.RESTED)

    @precondition(lambda self: self.is_cooling)
    @rule()
    def somebody_unlocks(self) -> None:
        before = self.usable_files
        self.send(Event.UNLOCKED)
        assert self.state is State.ABSENT
        assert self.usable_files == before

    @rule()
    def somebody_locks_or_unmounts(self) -> None:
        self.send(Event.ENDED)
        assert not self.usable_files

    @invariant()
    def never_two_leases(self) -> None:
        assert 0 <= self.leases <= 1

    @invariant()
    def never_two_attempts(self) -> None:
        assert len(self.steps) <= len(ATTEMPT)
        assert not (self.steps and self.leases)

    @invariant()
    def nothing_is_held_when_down(self) -> None:
        if self.state in {State.ABSENT, State.COOLING}:
            assert self.leases == 0
            assert not self.steps

    @invariant()
    def a_lease_is_in_use_or_on_its_way_back(self) -> None:
        assert self.leases == int(self.state in IN_USE) + self.hang_ups

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        if self.waiters:
            assert self.steps or self.hang_ups

    @invariant()
    def cooling_ends(self) -> None:
        assert self.is_cooling == (self.state is State.COOLING)


TestSessionModel = SessionModel.TestCase
TestSessionModel.settings = settings(max_examples=300, stateful_step_count=40)
