"""Who may cause a login, decided from who asks and what it did before.

The guard is asked for closed targets only: what is open is served to everybody
whom the mount lets in. It keeps accidents out (crawlers, previews, walks), not a
program that wants in: that can call itself ``cat``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import trio

from pamfs.audit import Audit, NoAudit
from pamfs.config import Guarding
from pamfs.config.tables import DEFAULT_WORD
from pamfs.errors import GuardRefusedError
from pamfs.model import Caller, Target
from pamfs.naming.targets import unlock_line
from pamfs.sessions.guard_process import (
    Processes,
    ProcTable,
    all_names,
    ancestors,
)
from pamfs.sessions.guard_programs import is_meant, is_person
from pamfs.sessions.guard_walks import Entry, Walks

log = logging.getLogger(__name__)

# How many refusals are kept for the status.
KEPT: Final = 20
# How long a program may go on before the log names it again.
QUIET_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the status says of a program of a user; ``times`` says how often.

    ``pid``, ``target`` and ``at``, in seconds since the epoch, are those of the
    last time. ``how`` says what would let it in.
    """

    program: str
    pid: int
    uid: int
    at: float
    target: str
    why: str
    how: str
    times: int = 1


def _time_of_day() -> float:
    return datetime.now(UTC).timestamp()


class Guard:
    """Lets callers into closed targets, or raises ``GuardRefusedError``."""

    def __init__(
        self,
        config: Guarding,
        mountpoint: Path = Path(),
        *,
        processes: Processes | None = None,
        audit: Audit | None = None,
        now: Callable[[], float] = _time_of_day,
    ) -> None:
        """``mountpoint`` is for the line that opens a target in spite of it."""
        self._config = config
        self._mountpoint = mountpoint
        self._processes = processes or ProcTable()
        self._audit = audit or NoAudit()
        self._now = now
        self._walks = Walks(config.pause_s, config.burst_s)
        # The programs by number whose requests of open targets it has to see.
        self.watched: Mapping[int, object] = self._walks.processes
        self._entering: dict[int, Entry] = {}
        self._refusals: dict[tuple[str, int, str], Refusal] = {}

    def refusals(self) -> Sequence[Refusal]:
        """Return the last refusals, the latest last."""
        return list(self._refusals.values())

    def note_listing(self, tenant: str, caller: Caller) -> None:
        """Hear that ``caller`` listed ``tenant``: it may be about to walk."""
        process = self._processes.find(caller.pid)
        is_steady = is_meant(process.names, self._config.walking_programs)
        now = trio.current_time()
        self._walks.listed(process, tenant, now, is_steady=is_steady)

    async def admit(self, target: Target, caller: Caller) -> None:
        """Let ``caller`` enter ``target``, which is closed; or raise."""
        process = self._processes.find(caller.pid)
        arguments = await self._processes.arguments(process)
        process = replace(process, names=tuple(all_names(process, arguments)))
        name = f"{target.credential}@{target.device}".encode()
        # No await below: what is judged is what is noted.
        entry = Entry(
            target,
            process,
            tuple(ancestors(self._processes, process)),
            is_person=is_person(process, arguments),
            is_named=any(name in argument for argument in arguments),
        )
        self._refuse_strangers(entry, caller)
        if not self._may_walk(entry):
            self._refuse_walkers(entry, caller)
        self._walks.entered(entry, trio.current_time())
        self._entering[caller.pid] = entry

    def arrives(self, caller: Caller) -> None:
        """Note that ``caller``, which is watched, uses a target that is open."""
        self._walks.arrives(caller.pid, trio.current_time())

    def leaves(self, caller: Caller) -> None:
        """Hear that a request of ``caller`` is over, however it ended."""
        now = trio.current_time()
        if entry := self._entering.pop(caller.pid, None):
            self._walks.left(entry, now)
        self._walks.leaves(caller.pid, now)

    def _refuse_strangers(self, entry: Entry, caller: Caller) -> None:
        config, process = self._config, entry.process
        if is_meant(process.names, config.allowed_programs):
            return
        for one in (process, *entry.elders):
            if not is_meant(one.names, config.refused_programs):
                continue
            if is_meant(one.names, config.allowed_programs):
                continue
            whose = "it" if one is process else f"{one.name}, which started it,"
            why = f"{whose} never opens a target"
            key = f'allowed_programs = ["{DEFAULT_WORD}", "{one.name}"]'
            raise self._refusal(entry, caller, why, key)

    def _may_walk(self, entry: Entry) -> bool:
        elders = (elder for elder in entry.elders if elder.job == entry.process.job)
        return any(
            is_meant(one.names or ("",), self._config.may_walk)
            for one in (entry.process, *elders)
        )

    def _refuse_walkers(self, entry: Entry, caller: Caller) -> None:
        now = trio.current_time()
        tenant = self._walks.walked_tenant(entry, now)
        other = self._walks.other_target(entry, now)
        if not tenant and other is None:
            return
        self._walks.refused(entry, now)
        why = f"it walks through the targets of {tenant}"
        if not tenant:
            why = f"it entered {other} a moment before"
        key = f'traversal = ["{entry.process.name}"]'
        raise self._refusal(entry, caller, why, key)

    def _refusal(
        self, entry: Entry, caller: Caller, why: str, key: str
    ) -> GuardRefusedError:
        process, target = entry.process, str(entry.target)
        line = unlock_line(self._mountpoint, entry.target)
        how = f"{line}, or [guard] {key}"
        refusal = Refusal(
            process.name, process.pid, caller.uid, self._now(), target, why, how
        )
        error = GuardRefusedError(target, process.name, process.pid, f"{why} ({how})")
        self._keep(refusal, error)
        return error

    def _keep(self, refusal: Refusal, error: GuardRefusedError) -> None:
        key = (refusal.program, refusal.uid, refusal.why)
        before = self._refusals.pop(key, None)
        is_news = before is None or refusal.at - before.at > QUIET_S
        log.log(logging.WARNING if is_news else logging.DEBUG, "%s", error)
        times = 1 if before is None else before.times + 1
        self._refusals[key] = replace(refusal, times=times)
        while len(self._refusals) > KEPT:
            del self._refusals[next(iter(self._refusals))]
        self._audit.record(
            "guard_refused",
            target=refusal.target,
            program=refusal.program,
            pid=refusal.pid,
            uid=refusal.uid,
            why=refusal.why,
        )


class NoGuard(Guard):
    """Lets everybody in."""

    def __init__(self) -> None:
        super().__init__(Guarding())

    def note_listing(self, tenant: str, caller: Caller) -> None:
        """Hear it, and think nothing of it."""

    async def admit(self, target: Target, caller: Caller) -> None:
        """Let the caller in."""
