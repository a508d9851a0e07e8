"""Logins that may count against an account, on disk: two refused in ten minutes.

Law: a login is written down before it sends anything, and struck out when it is known
to have cost nothing. So neither many mounts that begin at once nor one that is killed
make more of them: who finds ``MOST_REFUSED`` refused is told to rest, who finds them
under way waits for how they end. What was sent does not matter: a seed's code and a
password from a file are one count, for the account that locks is one. An account that
was accepted lately by any mount needs no writing down. What a person typed is struck
out when it is refused: whether to type again is their decision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from pamfs.errors import LoginRefusedError
from pamfs.sessions.clock import Clock, as_text
from pamfs.sessions.codes_state import CodesState, Record, Sheet

REST_S: Final = 600.0
MOST_REFUSED: Final = 2
# As long as an accepted login vouches for the next within one mount (``lockout``).
VOUCHED_S: Final = 60.0
# A login that takes longer has a daemon that died, or waits for a person: nobody
# waits for it any more, and it counts as refused until it has ended.
UNDER_WAY_S: Final = 180.0
LOOK_AGAIN_S: Final = 0.5
# Who waited for the lock on the file may be told of what began after its own now.
AHEAD_S: Final = 10.0


class Tries:
    """The count of every account; shared by all who share ``state``."""

    def __init__(self, state: CodesState, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self._former: dict[str, Sequence[str]] = {}

    def note_former(self, account: str, former: Sequence[str]) -> None:
        """Count what the state has under ``former`` names as that of ``account``."""
        self._former[account] = former

    async def begin(self, account: str) -> float | None:
        """Write down that a login begins; may wait for those that are under way.

        Returns its name for ``refused`` and ``strike``, None if the account needs
        none. Raises ``LoginRefusedError`` while the account rests.
        """
        while True:
            await self.check(account)
            now = self._clock.now()
            began: list[float] = []

            def note(
                record: Record, now: float = now, began: list[float] = began
            ) -> bool:
                may_begin = plan_begin(record, now)
                if may_begin and not is_vouched(record, now):
                    record.tried = [*_recent(record.tried, now), now]
                    began.append(now)
                return may_begin

            # Who leaves meanwhile knows what to strike out.
            with trio.CancelScope(shield=True):
                has_begun = await self._change(account, note)
            if has_begun:
                return began[0] if began else None
            await trio.sleep(LOOK_AGAIN_S)

    async def refused(self, account: str, began: float | None, count: int = 1) -> None:
        """Note that what began at ``began`` was refused, with ``count`` answers."""
        now = self._clock.now()

        def note(record: Record) -> bool:
            record.strike(began)
            record.refused += [now] * count
            record.accepted_at = None
            return True

        await self._change(account, note)

    async def strike(self, account: str, began: float) -> None:
        """Note that what began at ``began`` cost the account nothing."""

        def note(record: Record) -> bool:
            record.strike(began)
            return True

        await self._change(account, note)

    async def accepted(self, account: str) -> None:
        """Note that a login came to be: what was refused before counts no more."""
        now = self._clock.now()

        def note(record: Record) -> bool:
            record.refused, record.tried = [], []
            # Not each time: many logins at once would wait for the disk in turn.
            if not _is_within(record.accepted_at, now, VOUCHED_S / 2):
                record.accepted_at = now
            return True

        await self._change(account, note)

    async def pardon(self, account: str) -> None:
        """Forget what ``account`` refused: a person says that it is right now."""

        def note(record: Record) -> bool:
            record.refused, record.tried = [], []
            return True

        await self._change(account, note)

    async def rest_s(self, account: str) -> float:
        """Return for how long nothing is sent to ``account``."""
        now = self._clock.now()
        found: list[float] = []

        def look(record: Record) -> bool:
            found.append(plan_rest_s(record, now))
            return True

        await self._change(account, look)
        return found[0]

    async def check(self, account: str) -> None:
        """Raise ``LoginRefusedError`` while nothing is sent to ``account``."""
        rest_s = await self.rest_s(account)
        if rest_s > 0:
            until = as_text(self._clock.now() + rest_s)
            raise LoginRefusedError(
                f"{MOST_REFUSED} logins of this account that nobody typed a secret for"
                f" were refused: none is sent before {until}",
                rest_s=rest_s,
            )

    async def _change(self, account: str, act: Callable[[Record], bool]) -> bool:
        former = [name.encode() for name in self._former.get(account, ())]

        def change(sheet: Sheet) -> bool:
            return act(sheet.record(account.encode(), former))

        return await self._state.change(change)


def plan_rest_s(record: Record, now: float) -> float:
    """Return for how long the account of ``record`` rests from ``now`` on."""
    given_up = [at for at in record.tried if not _is_within(at, now, UNDER_WAY_S)]
    last = sorted([*record.refused, *given_up])[-MOST_REFUSED:]
    if len(last) < MOST_REFUSED or last[-1] - last[0] >= REST_S:
        return 0.0
    age_s = max(0.0, now - last[-1])
    return REST_S - age_s if _is_within(last[-1], now, REST_S) else 0.0


def plan_begin(record: Record, now: float) -> bool:
    """Return whether one more login may begin, if all under way may be refused."""
    if plan_rest_s(record, now) > 0:
        return False
    under_way = [at for at in record.tried if _is_within(at, now, UNDER_WAY_S)]
    if not under_way or is_vouched(record, now):
        return True
    counted = [*_recent(record.refused, now), *_recent(record.tried, now)]
    return len(counted) < MOST_REFUSED


def is_vouched(record: Record, now: float) -> bool:
    """Return whether the account was accepted so lately that it will be again."""
    return _is_within(record.accepted_at, now, VOUCHED_S)


def _recent(instants: list[float], now: float) -> list[float]:
    return [at for at in instants if _is_within(at, now, REST_S)]


def _is_within(at: float | None, now: float, seconds: float) -> bool:
    return at is not None and -AHEAD_S <= now - at < seconds
