"""Whatever callers, the PAM and the clock do, a target has one session at most.

A story is a list of steps, played against a pool with a directed dialer under a
clock that jumps. The ledger of the dialer is looked at after each step.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from pamfs.errors import LoginRefusedError, PamfsError, UnreachableError
from pamfs.model import Target
from pamfs.sessions.attempt import Attempt, Link, Reached
from pamfs.sessions.machine import Event
from pamfs.sessions.pool import Pool
from tests.fakes.dialer import FakeDialer
from tests.fakes.pools import borrow
from tests.fakes.tenants import ME, WEB01, WEB02, tenant

TARGETS = (WEB01, WEB02)


@dataclass
class CountingDialer(FakeDialer):
    """Knows at all times what is on the wire for each target."""

    in_the_air: Counter[Target] = field(default_factory=Counter)

    def begin(self, attempt: Attempt) -> CountingLogin:  # type: ignore[override]
        return CountingLogin(self, attempt)

    def held(self, target: Target) -> int:
        links = [link for link in self.open_links if link.attempt.target == target]
        return self.in_the_air[target] + len(links)


@dataclass
class CountingLogin:
    dialer: CountingDialer
    attempt: Attempt

    async def run(self, reached: Reached) -> Link:
        await trio.sleep(0.5)
        await reached(Event.ANSWERED)
        await trio.sleep(0.5)
        await reached(Event.CODE_OBTAINED)
        self.dialer.in_the_air[self.attempt.target] += 1
        try:
            return await FakeDialer.begin(self.dialer, self.attempt).dial()
        finally:
            self.dialer.in_the_air[self.attempt.target] -= 1

    async def close(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()


@dataclass
class Story:
    """A pool, its dialer, and the callers that are inside."""

    pool: Pool
    dialer: CountingDialer
    nursery: trio.Nursery
    callers: list[trio.CancelScope] = field(default_factory=list)
    pins: Counter[Target] = field(default_factory=Counter)

    async def want(self, target: Target) -> None:
        scope = trio.CancelScope()
        self.callers.append(scope)
        self.nursery.start_soon(self._borrow, target, scope)

    async def hold(self, target: Target) -> None:
        self.nursery.start_soon(self._hold, target)

    async def leave(self, _target: Target) -> None:
        if self.callers:
            self.callers.pop(0).cancel()

    async def lose(self, target: Target) -> None:
        for link in self.dialer.open_links:
            if link.attempt.target == target:
                link.lose()

    async def pin(self, target: Target) -> None:
        self.pool.pin(target)
        self.pins[target] += 1

    async def unpin(self, target: Target) -> None:
        if self.pins[target]:
            self.pool.unpin(target)
            self.pins[target] -= 1

    async def end(self, target: Target) -> None:
        await self.pool.end(target)

    async def refuse(self, _target: Target) -> None:
        self.dialer.failures.append(LoginRefusedError("no"))

    async def be_silent(self, _target: Target) -> None:
        self.dialer.failures.append(UnreachableError("silence"))

    async def wait_a_moment(self, _target: Target) -> None:
        await trio.sleep(0.3)

    async def wait_a_login(self, _target: Target) -> None:
        await trio.sleep(3)

    async def wait_a_minute(self, _target: Target) -> None:
        await trio.sleep(61)

    async def _borrow(self, target: Target, scope: trio.CancelScope) -> None:
        with scope:
            try:
                await borrow(self.pool, target)
            except PamfsError:
                return

    async def _hold(self, target: Target) -> None:
        try:
            async with self.pool.lend(target, ME):
                await trio.sleep(20)
        except PamfsError:
            return

    def check(self) -> None:
        for target in TARGETS:
            assert self.dialer.held(target) <= 1
            if self.pool.ready(target) is not None:
                assert self.dialer.held(target) == 1


Step = Callable[[Story, Target], Awaitable[None]]
STEPS: list[Step] = [
    Story.want,
    Story.hold,
    Story.leave,
    Story.lose,
    Story.pin,
    Story.unpin,
    Story.end,
    Story.refuse,
    Story.be_silent,
    Story.wait_a_moment,
    Story.wait_a_login,
    Story.wait_a_minute,
]


async def play(steps: list[tuple[Step, Target]], takes_s: tuple[float, float]) -> None:
    acme = tenant(idle_close_s=60, cooldown_s=10)
    dialer = CountingDialer(takes_s=takes_s[0], close_takes_s=takes_s[1])
    async with trio.open_nursery() as nursery:
        pool = Pool(nursery, {"acme": acme}, dialer, now=trio.current_time)
        story = Story(pool, dialer, nursery)
        for step, target in steps:
            await step(story, target)
            await wait_all_tasks_blocked()
            story.check()
        for caller in story.callers:
            caller.cancel()
        assert await pool.close(60) == ()
        assert dialer.open_links == []
        assert dialer.in_the_air.total() == 0
    assert pool.statistics().callers == 0
    assert set(pool.statistics().sessions) <= {"absent"}


LOSS: list[tuple[Step, Target]] = [
    (Story.want, WEB01),
    (Story.wait_a_login, WEB01),
    (Story.lose, WEB01),
    (Story.want, WEB01),
]


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(TARGETS)), max_size=25),
    st.tuples(st.sampled_from([0.0, 1.0, 40.0]), st.sampled_from([0.0, 2.0])),
)
@example(LOSS, (1.0, 2.0))
def test_a_target_has_one_session_at_most(
    steps: list[tuple[Step, Target]], takes_s: tuple[float, float]
) -> None:
    with only_errors():
        trio.run(play, steps, takes_s, clock=MockClock(autojump_threshold=0))


@contextmanager
def only_errors() -> Iterator[None]:
    """Keep refusals and losses, which the stories are made of, out of the log."""

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger = logging.getLogger("pamfs.sessions.session")
    logger.addFilter(is_error)
    try:
        yield
    finally:
        logger.removeFilter(is_error)
