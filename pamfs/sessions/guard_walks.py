"""Who walks from target to target, judged by what processes did, and when.

A *run* begins when a process lists a tenant and lasts until it is silent for
longer than a pause: a person looks before they enter. Nothing here waits or reads
anything; the caller brings the time.

What is a walk, for the guard:

1. who enters within its own run, or that of a process that started it for the
   same job (``find -exec``, a script's loop);
2. who belongs to the job of a program that does nothing else (``find | xargs``);
3. the second target that the programs of one terminal enter within a run of one
   of them (``for d in acme/*; do ls $d; done``, typed into a shell);
4. the second target that one program enters at once, unless it stands on its
   command line (``cp acme/root@a/f acme/root@b/``).

A shell that a person types into completes names: its own run counts for 3 only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pamfs.model import Target
from pamfs.sessions.guard_process import Process

# More trails than that are not kept; who made the oldest has long ended.
_TRAILS: Final = 512


@dataclass(frozen=True, slots=True)
class Entry:
    """Who wants into a closed target, and what is known of it."""

    target: Target
    process: Process
    elders: tuple[Process, ...] = ()
    is_person: bool = False
    is_named: bool = False  # the target stands on the command line


@dataclass(slots=True)
class Trail:
    """What a process, or a session of processes, did last.

    ``tenant`` is what was listed in the run that goes on; "" is no run.
    ``is_steady``: a run of a program that does nothing else, and never ends.
    """

    process: Process
    active_at: float
    tenant: str = ""
    is_steady: bool = False
    entered: Target | None = None
    entered_at: float = 0.0
    refused: Target | None = None


class Walks:
    """The trails of all processes that listed a tenant or entered a target."""

    def __init__(self, pause_s: float, burst_s: float) -> None:
        self._pause_s = pause_s
        self._burst_s = burst_s
        self.processes: dict[int, Trail] = {}
        self._sessions: dict[int, Trail] = {}

    def listed(
        self, process: Process, tenant: str, now: float, *, is_steady: bool
    ) -> None:
        """Hear that ``process`` listed ``tenant``."""
        for trail in self._trails_of(process, now):
            trail.tenant = tenant
            trail.active_at = now
        self._trail(process, now).is_steady = is_steady

    def walked_tenant(self, entry: Entry, now: float) -> str:
        """Return the tenant through which ``entry`` would be a walk, or ""."""
        for trail in self._counting(entry, now):
            return trail.tenant
        here = self._sessions.get(entry.process.session)
        if here is None or not self._in_run(here, now):
            return ""
        return "" if here.entered in {None, entry.target} else here.tenant

    def _counting(self, entry: Entry, now: float) -> Iterator[Trail]:
        process = entry.process
        kin = [elder for elder in entry.elders if elder.job == process.job]
        if not entry.is_person:
            kin.append(process)
        for trail in self.processes.values():
            if not self._in_run(trail, now):
                continue
            if trail.process in kin or self._is_mate(trail, process, now):
                yield trail

    def _is_mate(self, trail: Trail, process: Process, now: float) -> bool:
        is_recent = now - trail.active_at <= self._pause_s
        is_same_job = process.job and trail.process.job == process.job
        return bool(trail.is_steady and is_recent and is_same_job)

    def other_target(self, entry: Entry, now: float) -> Target | None:
        """Return the target that the same process entered a moment ago, if any."""
        trail = self._trail(entry.process, now)
        within_s = self._pause_s if entry.is_person else self._burst_s
        if entry.is_named or trail.entered in {None, entry.target}:
            return None
        return trail.entered if now - trail.entered_at <= within_s else None

    def refused(self, entry: Entry, now: float) -> None:
        """Hear that ``entry`` was refused: a walker goes on at once."""
        mine = self._trail(entry.process, now)
        if mine.refused == entry.target:
            return  # a person tries the same again
        mine.refused = entry.target
        own = self._trails_of(entry.process, now)
        for trail in (*self._counting(entry, now), *own):
            trail.active_at = now

    def entered(self, entry: Entry, now: float) -> None:
        """Hear that ``entry`` was let in, or that the request that did is over."""
        for trail in self._trails_of(entry.process, now):
            trail.entered = entry.target
            trail.entered_at = trail.active_at = now

    def left(self, entry: Entry, now: float) -> None:
        """Hear that the request that entered is over: it lasts as long as a prompt."""
        for trail in self._kept(entry.process):
            if trail.entered == entry.target:
                trail.entered_at = trail.active_at = now

    def arrives(self, pid: int, now: float) -> None:
        """Hear that ``pid`` asks something of an open target: its run may go on."""
        if trail := self.processes.get(pid):
            self._renew(trail, now)
            trail.active_at = now

    def leaves(self, pid: int, now: float) -> None:
        """Hear that ``pid`` has its answer, however long that took."""
        if trail := self.processes.get(pid):
            trail.active_at = now

    # -- trails --------------------------------------------------------------------

    def _in_run(self, trail: Trail, now: float) -> bool:
        is_recent = now - trail.active_at <= self._pause_s
        return bool(trail.tenant) and (trail.is_steady or is_recent)

    def _renew(self, trail: Trail, now: float) -> None:
        if not self._in_run(trail, now):
            trail.tenant = ""

    def _trails_of(self, process: Process, now: float) -> list[Trail]:
        mine = self._trail(process, now)
        return [mine, self._chain(process, now)] if process.session else [mine]

    def _kept(self, process: Process) -> list[Trail]:
        found = (
            self.processes.get(process.pid),
            self._sessions.get(process.session),
        )
        return [trail for trail in found if trail is not None]

    def _trail(self, process: Process, now: float) -> Trail:
        trail = self.processes.get(process.pid)
        if trail is None or trail.process.started != process.started:
            trail = Trail(process, now)
            _make_room(self.processes)
            self.processes[process.pid] = trail
        self._renew(trail, now)
        return trail

    def _chain(self, process: Process, now: float) -> Trail:
        chain = self._sessions.get(process.session)
        if chain is None or not self._in_run(chain, now):
            chain = Trail(process, now)
            _make_room(self._sessions)
            self._sessions[process.session] = chain
        return chain


def _make_room(trails: dict[int, Trail]) -> None:
    if len(trails) >= _TRAILS:
        oldest = min(trails, key=lambda number: trails[number].active_at)
        del trails[oldest]
