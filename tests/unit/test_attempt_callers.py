"""A program that nobody can be asked for shuts nobody out who can be."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pamfs.errors import CoolingError, NobodyToAskError
from pamfs.model import Caller, Secret
from pamfs.processes import job_of
from pamfs.sessions.attempt import Attempt
from pamfs.sessions.pool import Pool
from pamfs.sessions.prompts import ChainPrompter, Question
from pamfs.sessions.prompts.question import Kind
from tests.conftest import LogLedger
from tests.fakes.dialer import FakeDialer
from tests.fakes.people import FakePerson
from tests.fakes.pools import pool_of, status_of
from tests.fakes.tenants import WEB01


@contextmanager
def job(*, leads: int = 0) -> Iterator[Caller]:
    """Run a program of this user in a job of its own, or in the one of ``leads``."""
    with subprocess.Popen(["sleep", "60"], process_group=leads) as program:
        try:
            yield Caller(program.pid, os.getuid(), os.getgid())
        finally:
            program.kill()


@dataclass
class Room:
    """Whoever sits here is asked and thinks; whoever does not cannot be."""

    seated: list[Caller] = field(default_factory=list)
    answers: list[Caller] = field(default_factory=list)
    asked: list[Caller] = field(default_factory=list)

    async def ask(self, attempt: Attempt) -> None:
        await trio.sleep(1)  # a checkout
        await attempt.ask(self._ask)

    async def _ask(self, caller: Caller) -> None:
        self.asked.append(caller)
        await trio.sleep(1)
        if caller not in self.seated:
            raise NobodyToAskError("nobody is there", caller.uid, job_of(caller.pid))
        if caller not in self.answers:
            await trio.sleep_forever()


@pytest.fixture
def callers() -> Iterator[tuple[Caller, Caller, Caller]]:
    """Yield a program without a person, another one of its job, and a person's."""
    with ExitStack() as stack:
        loop = stack.enter_context(job())
        again = stack.enter_context(job(leads=loop.pid))
        yield loop, again, stack.enter_context(job())


async def want(pool: Pool, caller: Caller) -> None:
    async with pool.lend(WEB01, caller):
        pass


async def test_a_loop_without_a_person_keeps_only_itself_out(
    callers: tuple[Caller, Caller, Caller],
    expect_log: LogLedger,
    autojump_clock: MockClock,
) -> None:
    expect_log("nobody is there")
    loop, again, person = callers
    room = Room([person], [person])
    async with pool_of(FakeDialer(takes_s=0, ask=room.ask)) as pool:
        with pytest.raises(NobodyToAskError):
            await want(pool, loop)
        for caller in (loop, again):
            with pytest.raises(CoolingError):
                await want(pool, caller)
        await want(pool, person)
    assert room.asked == [loop, person]


async def test_who_waits_with_a_program_that_cannot_be_asked_is_asked_instead(
    callers: tuple[Caller, Caller, Caller], autojump_clock: MockClock
) -> None:
    loop, again, person = callers
    room = Room([person], [person])
    dialer = FakeDialer(takes_s=0, ask=room.ask)
    async with pool_of(dialer) as pool, trio.open_nursery() as nursery:
        for caller in callers:
            nursery.start_soon(want, pool, caller)
            await wait_all_tasks_blocked()
    assert room.asked == [loop, again, person]


async def test_after_ctrl_c_the_person_is_asked_again_whoever_waited_meanwhile(
    callers: tuple[Caller, Caller, Caller],
    expect_log: LogLedger,
    autojump_clock: MockClock,
) -> None:
    expect_log("nobody is there")
    loop, _, person = callers
    room = Room([person])
    async with pool_of(FakeDialer(takes_s=0, ask=room.ask)) as pool:

        async def wait_in_vain() -> None:
            with pytest.raises(NobodyToAskError):
                await want(pool, loop)

        async with trio.open_nursery() as nursery:
            with trio.move_on_after(5):
                async with trio.open_nursery() as at_the_prompt:
                    at_the_prompt.start_soon(want, pool, person)
                    await wait_all_tasks_blocked()
                    nursery.start_soon(wait_in_vain)
        assert room.asked == [person, loop]
        assert status_of(pool).state == "cooling"
        room.answers.append(person)
        await want(pool, person)


async def test_the_chain_says_whom_it_could_not_ask() -> None:
    with job() as caller:
        question = Question(Kind.PASSWORD, "Password:", WEB01, caller, deadline=60)
        with pytest.raises(NobodyToAskError) as caught:
            await _ask_nobody(question)
        assert (caught.value.uid, caught.value.job) == (caller.uid, caller.pid)
    assert job_of(caller.pid) is None


async def _ask_nobody(question: Question) -> Secret:
    return await ChainPrompter([("a", FakePerson())], str).ask(question)


@pytest.mark.parametrize("leaves", [False, True], ids=["not-there", "leaves"])
async def test_a_question_is_passed_on_to_the_mounts_own_user_first(
    leaves: bool, callers: tuple[Caller, Caller, Caller], autojump_clock: MockClock
) -> None:
    first, _, person = callers
    stranger = Caller(4711, os.getuid() + 1, os.getgid())
    room = Room([person, *([first] if leaves else [])], [person])
    dialer = FakeDialer(takes_s=0, ask=room.ask)
    async with pool_of(dialer) as pool, trio.open_nursery() as nursery:

        async def want_for_a_while() -> None:
            with trio.move_on_after(5):
                await want(pool, first)

        nursery.start_soon(want_for_a_while)
        for caller in (stranger, person):
            await wait_all_tasks_blocked()
            nursery.start_soon(want, pool, caller)
    assert room.asked == [first, person]
