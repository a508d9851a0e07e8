"""Two refused logins of an account in ten minutes, whoever makes them, and no third."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from pamfs.config import AnswerSource, OtpPlace
from pamfs.errors import LoginRefusedError, UnreachableError
from pamfs.model import Secret
from pamfs.sessions.account.clock import Clock
from pamfs.sessions.account.ledger import (
    UNDER_WAY_S,
    VOUCHED_S,
    AccountHistory,
    FileStore,
    LedgerContents,
    LedgerStore,
    LoginLedger,
    MemoryStore,
    plan_begin,
    plan_rest_s,
)
from pamfs.sessions.account.policy import UNATTENDED_BACK_OFF_S
from pamfs.sessions.login.secrets import LoginSecrets
from pamfs.sessions.prompts.question import Kind
from tests.unit.test_login_secrets_codes import (
    PASSWORD,
    PROMPT,
    Site,
    Typist,
    no,
    refuse,
    send,
)

ALICE = "alice@pam"
LOGIN_S = 5.0
NO_CODE: dict[str, object] = {"otp": None, "otp_in": OtpPlace.NONE}


def tries_of(state: LedgerStore) -> LoginLedger:
    return LoginLedger(state, Clock(trio.current_time))


class Mounts:
    """Daemons that all log in at the same moment with the same secret."""

    def __init__(
        self,
        states: Sequence[LedgerStore],
        *,
        is_right: bool,
        takes_s: float = LOGIN_S,
    ) -> None:
        self.states = states
        self.takes_s = takes_s
        self.is_right = is_right
        self.sent = self.resting = 0

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for state in self.states:
                nursery.start_soon(self._log_in, tries_of(state))

    async def _log_in(self, tries: LoginLedger) -> None:
        try:
            began = await tries.begin(ALICE)
        except LoginRefusedError:
            self.resting += 1
            return
        self.sent += 1
        await trio.sleep(self.takes_s)
        if self.is_right:
            await tries.accepted(ALICE)
        else:
            await tries.refused(ALICE, began)


async def test_many_at_once_send_a_wrong_secret_twice(
    autojump_clock: MockClock,
) -> None:
    state = MemoryStore()
    mounts = Mounts([state] * 6, is_right=False)
    await mounts.run()
    assert (mounts.sent, mounts.resting) == (2, 4)


async def test_many_at_once_all_get_in_with_a_right_one(
    autojump_clock: MockClock,
) -> None:
    state = MemoryStore()
    mounts = Mounts([state] * 6, is_right=True)
    start = trio.current_time()
    await mounts.run()
    assert (mounts.sent, mounts.resting) == (6, 0)
    # Two are first, the others go side by side.
    assert trio.current_time() - start < 3 * LOGIN_S


async def test_daemons_that_share_a_file_send_a_wrong_secret_twice(
    tmp_path: Path,
) -> None:
    states = [FileStore(tmp_path / "codes.json") for _ in range(6)]
    mounts = Mounts(states, is_right=False, takes_s=0.3)
    await mounts.run()
    assert (mounts.sent, mounts.resting) == (2, 4)


async def test_what_is_sent_does_not_matter_to_the_count(
    autojump_clock: MockClock,
) -> None:
    site = Site()
    talk = site.begin(password=PASSWORD, **NO_CODE)
    await send(talk)
    await refuse(talk, no())
    talk = site.begin()  # another tenant of it has a seed
    await send(talk)
    await refuse(talk, no())
    for changes in (NO_CODE, {}):
        with pytest.raises(LoginRefusedError, match="none is sent before"):
            await site.begin(**changes).check_back_off()


async def test_a_daemon_that_is_killed_while_it_logs_in_has_used_up_its_try(
    autojump_clock: MockClock,
) -> None:
    state = MemoryStore()
    for _ in range(2):
        assert await tries_of(state).begin(ALICE) is not None
    start = trio.current_time()
    with pytest.raises(LoginRefusedError, match="none is sent before"):
        await tries_of(state).begin(ALICE)
    assert trio.current_time() - start == pytest.approx(UNDER_WAY_S, abs=1)
    await trio.sleep(UNATTENDED_BACK_OFF_S)
    assert await tries_of(state).begin(ALICE) is not None


async def test_a_login_that_may_take_long_is_under_way_until_its_own_end(
    autojump_clock: MockClock,
) -> None:
    """``login_timeout`` of a tenant may be longer than any other login takes."""
    site = Site()
    slow = {"login_timeout_s": 2.5 * UNDER_WAY_S} | NO_CODE
    talks = [site.begin(password=PASSWORD, **slow) for _ in range(2)]
    for talk in talks:
        await talk.begin()

    async def end() -> None:
        await trio.sleep(2 * UNDER_WAY_S)
        for talk in talks:
            await talk.refused(UnreachableError("no answer"))

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        with trio.fail_after(3 * UNDER_WAY_S):
            await site.begin(password=PASSWORD, **NO_CODE).begin()
    assert trio.current_time() - start >= 2 * UNDER_WAY_S


async def test_who_stops_waiting_leaves_nothing_behind(
    autojump_clock: MockClock,
) -> None:
    state = MemoryStore()
    tries = tries_of(state)
    began = [await tries.begin(ALICE) for _ in range(2)]
    with trio.move_on_after(10):
        await tries.begin(ALICE)
    for instant in began:
        assert instant is not None
        await tries.strike(ALICE, instant)
    assert known(state) == {}


def known(state: MemoryStore) -> dict[str, AccountHistory]:
    return LedgerContents.from_json(state._sheet.to_json()).accounts


async def test_an_accepted_login_vouches_for_a_minute_and_a_refusal_ends_that(
    autojump_clock: MockClock,
) -> None:
    tries = tries_of(MemoryStore())
    await tries.accepted(ALICE)
    assert await tries.begin(ALICE) is None
    await trio.sleep(VOUCHED_S)
    assert await tries.begin(ALICE) is not None
    await tries.accepted(ALICE)
    await tries.refused(ALICE, None)
    assert await tries.begin(ALICE) is not None


@pytest.mark.parametrize(
    ("refused", "tried", "rest_s", "may_begin"),
    [
        ([], [], 0, True),
        ([900], [], 0, True),
        ([900, 950], [], UNATTENDED_BACK_OFF_S - 50, False),
        ([900], [990], 0, False),
        ([], [980, 990], 0, False),
        ([], [990], 0, True),
        ([300], [990], 0, True),
        ([900], [800], UNATTENDED_BACK_OFF_S - 100, False),
        ([2000, 2000], [], 0, True),  # by a clock that was ahead
        ([], [1001, 1002], 0, False),  # while this one waited for the lock
    ],
)
def test_whether_one_more_may_begin(
    refused: list[float], tried: list[float], rest_s: float, may_begin: bool
) -> None:
    record = AccountHistory(refused, tried)
    assert plan_rest_s(record, 1000) == rest_s
    assert plan_begin(record, 1000) == may_begin


def test_a_record_is_kept_as_it_is() -> None:
    sheet = LedgerContents()
    sheet.accounts = {
        "a": AccountHistory([1.5], [2.25], 3.125),
        "b": AccountHistory([], [1.0]),
    }
    assert LedgerContents.from_json(sheet.to_json()) == sheet


async def cut_short(talk: LoginSecrets, *, is_answered: bool) -> None:
    await talk.check_back_off()
    await send(talk)
    talk._attempt.is_answered = is_answered
    await talk.end()


@pytest.mark.parametrize(
    ("password", "is_answered", "is_counted"),
    [(PASSWORD, True, True), (PASSWORD, False, False), (PROMPT, True, False)],
    ids=["from-file", "nothing-was-sent", "typed"],
)
async def test_a_login_without_an_answer_to_what_nobody_typed_is_a_refused_one(
    password: AnswerSource,
    is_answered: bool,
    is_counted: bool,
    autojump_clock: MockClock,
) -> None:
    site = Site(Typist({Kind.PASSWORD: "hunter2"}))
    for _ in range(2):
        talk = site.begin(password=password, **NO_CODE)
        await cut_short(talk, is_answered=is_answered)
    assert (await site.codes.ledger.rest_s("alice") > 0) == is_counted


async def test_a_code_without_an_answer_is_a_refused_one(
    autojump_clock: MockClock,
) -> None:
    site = Site(Typist({Kind.PASSWORD: "hunter2"}))
    for _ in range(2):
        await cut_short(site.begin(password=PROMPT), is_answered=True)
    assert await site.codes.ledger.rest_s("alice") > 0


async def test_a_proxy_that_cannot_be_reached_costs_nothing(
    autojump_clock: MockClock,
) -> None:
    site = Site()
    for _ in range(3):
        talk = site.begin()
        await send(talk)
        await refuse(talk, UnreachableError("no answer"))
    assert await site.codes.ledger.rest_s("alice") == 0
    assert await site.codes.ledger.begin("alice") is not None


async def test_a_seed_gives_no_code_before_its_try_is_written_down(
    autojump_clock: MockClock,
) -> None:
    site = Site()
    for _ in range(2):
        await site.codes.ledger.begin("alice")  # of other mounts
    talk = site.begin()
    with trio.move_on_after(10):
        await send(talk)
    seed = Secret("JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP")
    assert (await site.codes.issue(seed)).begins_at == 60
