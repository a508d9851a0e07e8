"""A machine with the processes that a test puts there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import trio

from pamfs.model import Caller
from pamfs.sessions.process_table import Process, Processes

UID = 1000


@dataclass
class FakeMachine:
    """A process table; numbers count up, and a start time is never used twice."""

    processes: dict[int, Process] = field(default_factory=dict)
    command_lines: dict[int, Sequence[bytes]] = field(default_factory=dict)
    started: int = 0

    def find(self, pid: int) -> Process:
        return self.processes.get(pid, Process(pid))

    async def arguments(self, process: Process) -> Sequence[bytes]:
        await trio.lowlevel.checkpoint()
        return self.command_lines.get(process.pid, ())

    def run(
        self,
        *command: str,
        parent: Caller | None = None,
        job: Caller | None = None,
        **facts: bool,
    ) -> Caller:
        """Start ``command``; without ``job`` it leads one of its own.

        It shares the session of its parent, or leads one if it has none.
        """
        self.started += 1
        pid = 100 + self.started
        above = self.find(parent.pid) if parent else Process(0)
        self.processes[pid] = Process(
            pid,
            started=self.started,
            parent=above.pid,
            job=self.find(job.pid).job if job else pid,
            session=above.session or pid,
            has_terminal=facts.get("terminal", above.has_terminal),
            names=(command[0].removeprefix("-")[:15],),
        )
        self.command_lines[pid] = [word.encode() for word in command]
        return Caller(pid=pid, uid=UID, gid=UID)

    def child(self, parent: Caller, *command: str) -> Caller:
        """Start ``command`` in the job of ``parent``, as a script does."""
        return self.run(*command, parent=parent, job=parent)

    def end(self, caller: Caller) -> None:
        """End a process and give its number to another one."""
        self.started += 1
        old = self.processes[caller.pid]
        self.processes[caller.pid] = replace(old, started=self.started, names=("cat",))


def _is_table(machine: FakeMachine) -> Processes:
    """Have mypy hold the fake to the Protocol."""
    return machine
