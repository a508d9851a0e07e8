"""The guard: which programs may cause a login, by what they are and did before.

The pool asks the guard for closed targets only; an open session is lent to every
program that the mount lets in. The guard prevents accidental logins (crawlers,
previews, walks). It does not stop a program that hides, for example under the name
``cat``.

A *run* begins when a process lists a tenant, and ends when the process sends no request
for ``pause_s`` seconds (a person who reads the listing takes longer). These accesses
are a walk, and are refused:

1. a process enters a target during its own run, or during the run of an ancestor in the
   same job (``find -exec``, a loop in a script);
2. a process enters a target while its job contains a program of ``walking_programs``
   with a run (``find | xargs``);
3. the second target that the programs of one terminal enter within a run of one of them
   (``for d in acme/*; do ls $d; done``, typed into a shell);
4. the second target that one program enters at once, unless it stands on its command
   line (``cp acme/root@a/f acme/root@b/``).

A shell that a person types into completes names: its own run counts for 3 only.

Invariants: ``Walks`` never waits or reads anything, its caller brings the time; between
the read of a caller's arguments and the note of its entry nothing is awaited, so that
what is judged is what is noted. ``Guard.watched`` holds every process whose requests of
open targets count; the pool reports no others (``pool.Loan``).
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import trio

from pamfs.audit import Audit, NoAudit
from pamfs.config import Guarding
from pamfs.config.tables import DEFAULT_WORD
from pamfs.errors import GuardRefusedError
from pamfs.model import Caller, Target
from pamfs.naming.targets import unlock_line
from pamfs.sessions.account.clock import time_of_day
from pamfs.sessions.process_table import (
    Process,
    Processes,
    ProcTable,
    all_names,
    ancestors,
)

log = logging.getLogger(__name__)

# The kernel keeps that much of a name (TASK_COMM_LEN of Linux, less its NUL).
COMM_LENGTH: Final = 15
_SHELLS: Final = frozenset(
    {"sh", "bash", "dash", "zsh", "ksh", "mksh", "fish", "tcsh", "csh", "nu", "elvish"}
)


def matches_any(names: Iterable[str], patterns: Sequence[str]) -> bool:
    """Whether a pattern matches a name; names from the kernel are cut at 15 bytes."""
    return any(_fits(name, pattern) for name in names for pattern in patterns)


def _fits(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or name == pattern[:COMM_LENGTH]


def is_interactive_shell(process: Process, arguments: Sequence[bytes]) -> bool:
    """Whether this is a shell that a person types into, and not a script's.

    True if it has a terminal, and is the session leader or was started without a
    script.
    """
    if not process.has_terminal or not _SHELLS.intersection(process.names):
        return False
    given = arguments[1:]
    is_bare = all(not word or word.startswith(b"-") for word in given)
    return b"-c" not in given and (is_bare or process.pid == process.session)


# A bound for memory; the process of the oldest trail has usually ended.
_TRAILS: Final = 512


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """A request for a closed target, with what is known of its process."""

    target: Target
    process: Process
    ancestors: tuple[Process, ...] = ()
    is_interactive_shell: bool = False
    is_named: bool = False  # the target stands on the command line


@dataclass(slots=True)
class Trail:
    """What a process, or a session of processes, did last.

    ``tenant`` is the tenant listed in the current run; "" without a run.
    ``is_steady``: the program is one of ``walking_programs``; its run does not end with
    a pause.
    """

    process: Process
    active_at: float
    tenant: str = ""
    is_steady: bool = False
    entered: Target | None = None
    entered_at: float = 0.0
    refused: Target | None = None


class Walks:
    """The trails of all processes that listed a tenant or entered a target.

    Two tables: a trail for each process, and one for each session of processes
    (setsid), which is what a terminal has. Rules 1, 2 and 4 of the head read the first,
    rule 3 the second. ``listed``, ``refused``, ``entered``, ``left``, ``arrives`` and
    ``leaves`` change them; a question (``walked_tenant``, ``other_target``) at most
    makes an empty trail, or ends a run that is over. Each is at most ``_TRAILS`` long.
    """

    def __init__(self, pause_s: float, burst_s: float) -> None:
        self._pause_s = pause_s
        self._burst_s = burst_s
        self.processes: dict[int, Trail] = {}
        self._sessions: dict[int, Trail] = {}

    def listed(
        self, process: Process, tenant: str, now: float, *, is_steady: bool
    ) -> None:
        """Note that ``process`` listed ``tenant``: its run begins or goes on."""
        for trail in self._trails_of(process, now):
            trail.tenant = tenant
            trail.active_at = now
        self._trail(process, now).is_steady = is_steady

    def walked_tenant(self, entry: AccessRequest, now: float) -> str:
        """Return the tenant of the run that makes ``entry`` a walk.

        "" if it is none.
        """
        for trail in self._counting(entry, now):
            return trail.tenant
        here = self._sessions.get(entry.process.session)
        if here is None or not self._in_run(here, now):
            return ""
        return "" if here.entered in {None, entry.target} else here.tenant

    def _counting(self, entry: AccessRequest, now: float) -> Iterator[Trail]:
        process = entry.process
        related = [
            ancestor for ancestor in entry.ancestors if ancestor.job == process.job
        ]
        if not entry.is_interactive_shell:
            related.append(process)
        for trail in self.processes.values():
            if not self._in_run(trail, now):
                continue
            if trail.process in related or self._is_walker_of_job(trail, process, now):
                yield trail

    def _is_walker_of_job(self, trail: Trail, process: Process, now: float) -> bool:
        is_recent = now - trail.active_at <= self._pause_s
        is_same_job = process.job and trail.process.job == process.job
        return bool(trail.is_steady and is_recent and is_same_job)

    def other_target(self, entry: AccessRequest, now: float) -> Target | None:
        """Return the target that the same process entered a moment ago, if any."""
        trail = self._trail(entry.process, now)
        within_s = self._pause_s if entry.is_interactive_shell else self._burst_s
        if entry.is_named or trail.entered in {None, entry.target}:
            return None
        return trail.entered if now - trail.entered_at <= within_s else None

    def refused(self, entry: AccessRequest, now: float) -> None:
        """Note a refusal.

        It extends the run, because a walk continues with the next target.
        """
        mine = self._trail(entry.process, now)
        if mine.refused == entry.target:
            return  # a person tries the same again
        # The run goes on from here: a walk that is refused target by target would be
        # silent for longer than a pause otherwise, and its next one be admitted.
        mine.refused = entry.target
        own = self._trails_of(entry.process, now)
        for trail in (*self._counting(entry, now), *own):
            trail.active_at = now

    def entered(self, entry: AccessRequest, now: float) -> None:
        """Note that ``entry`` was admitted."""
        for trail in self._trails_of(entry.process, now):
            trail.entered = entry.target
            trail.entered_at = trail.active_at = now

    def left(self, entry: AccessRequest, now: float) -> None:
        """Note that the admitted request is over: a prompt may have taken minutes."""
        for trail in self._kept(entry.process):
            if trail.entered == entry.target:
                trail.entered_at = trail.active_at = now

    def arrives(self, pid: int, now: float) -> None:
        """Note a request of ``pid`` for an open target: its run may go on."""
        if trail := self.processes.get(pid):
            self._renew(trail, now)
            trail.active_at = now

    def leaves(self, pid: int, now: float) -> None:
        """Note that the request of ``pid`` is answered: its pause begins now."""
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
        # A process number is used again: the start time tells the two apart.
        trail = self.processes.get(process.pid)
        if trail is None or trail.process.started != process.started:
            trail = Trail(process, now)
            _make_room(self.processes)
            self.processes[process.pid] = trail
        self._renew(trail, now)
        return trail

    def _chain(self, process: Process, now: float) -> Trail:
        # What a terminal entered before counts only within one run: to open one target
        # after the other by name, without listing a tenant, is no walk.
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


# How many refusals are kept for the status.
KEPT: Final = 20
# Repeated refusals of a program within this time are logged at DEBUG only.
QUIET_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class GuardRefusal:
    """A refused program of a user, as the status shows it; ``times`` counts.

    ``pid``, ``target`` and ``at``, in seconds since the epoch, are of the last
    refusal. ``how`` says what would admit it.
    """

    program: str
    pid: int
    uid: int
    at: float
    target: str
    why: str
    how: str
    times: int = 1


class Guard:
    """Lets callers into closed targets, or raises ``GuardRefusedError``."""

    def __init__(
        self,
        config: Guarding,
        mountpoint: Path = Path(),
        *,
        processes: Processes | None = None,
        audit: Audit | None = None,
        now: Callable[[], float] = time_of_day,
    ) -> None:
        """``mountpoint`` is named in the ``pamfs unlock`` line of a refusal."""
        self._config = config
        self._mountpoint = mountpoint
        self._processes = processes or ProcTable()
        self._audit = audit or NoAudit()
        self._now = now
        self._walks = Walks(config.pause_s, config.burst_s)
        # By process number: requests for open targets are reported for these only.
        # The same dict as in ``Walks``, so the pool needs no call to look.
        self.watched: Mapping[int, object] = self._walks.processes
        self._entering: dict[int, AccessRequest] = {}
        self._refusals: dict[tuple[str, int, str], GuardRefusal] = {}

    def refusals(self) -> Sequence[GuardRefusal]:
        """Return the last refusals, the latest last."""
        return list(self._refusals.values())

    def note_listing(self, tenant: str, caller: Caller) -> None:
        """Note that ``caller`` listed ``tenant``: a walk may follow."""
        process = self._processes.find(caller.pid)
        is_steady = matches_any(process.names, self._config.walking_programs)
        now = trio.current_time()
        self._walks.listed(process, tenant, now, is_steady=is_steady)

    async def admit(self, target: Target, caller: Caller) -> None:
        """Let ``caller`` enter ``target``, which is closed; or raise."""
        process = self._processes.find(caller.pid)
        arguments = await self._processes.arguments(process)
        process = replace(process, names=tuple(all_names(process, arguments)))
        name = f"{target.credential}@{target.device}".encode()
        # No await below: the decision and the note must use the same state.
        entry = AccessRequest(
            target,
            process,
            tuple(ancestors(self._processes, process)),
            is_interactive_shell=is_interactive_shell(process, arguments),
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
        """Note that a request of ``caller`` is over, however it ended."""
        now = trio.current_time()
        if entry := self._entering.pop(caller.pid, None):
            self._walks.left(entry, now)
        self._walks.leaves(caller.pid, now)

    def _refuse_strangers(self, entry: AccessRequest, caller: Caller) -> None:
        config, process = self._config, entry.process
        if matches_any(process.names, config.allowed_programs):
            return
        for one in (process, *entry.ancestors):
            if not matches_any(one.names, config.refused_programs):
                continue
            if matches_any(one.names, config.allowed_programs):
                continue
            whose = "it" if one is process else f"{one.name}, which started it,"
            why = f"{whose} never opens a target"
            key = f'allowed_programs = ["{DEFAULT_WORD}", "{one.name}"]'
            raise self._refusal(entry, caller, why, key)

    def _may_walk(self, entry: AccessRequest) -> bool:
        ancestors = (
            ancestor
            for ancestor in entry.ancestors
            if ancestor.job == entry.process.job
        )
        return any(
            matches_any(one.names or ("",), self._config.may_walk)
            for one in (entry.process, *ancestors)
        )

    def _refuse_walkers(self, entry: AccessRequest, caller: Caller) -> None:
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
        self, entry: AccessRequest, caller: Caller, why: str, key: str
    ) -> GuardRefusedError:
        process, target = entry.process, str(entry.target)
        line = unlock_line(self._mountpoint, entry.target)
        how = f"{line}, or [guard] {key}"
        refusal = GuardRefusal(
            process.name, process.pid, caller.uid, self._now(), target, why, how
        )
        error = GuardRefusedError(target, process.name, process.pid, f"{why} ({how})")
        self._keep(refusal, error)
        return error

    def _keep(self, refusal: GuardRefusal, error: GuardRefusedError) -> None:
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
    """Admits every program."""

    def __init__(self) -> None:
        super().__init__(Guarding())

    def note_listing(self, tenant: str, caller: Caller) -> None:
        """Ignore it."""

    async def admit(self, target: Target, caller: Caller) -> None:
        """Admit ``caller``."""
