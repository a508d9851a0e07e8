"""The process behind a request, from ``/proc``: its names, its job, its ancestors.

A request carries the number of a thread. A process that cannot be seen there (in a
container, or ended) has no names. Law: only ``read_memory_file``, and ``arguments``
which calls it, wait.

Arguments and environment are fetched from the program's memory. The kernel locks that
memory for the read, and the program may hold the lock until this mount has answered
its request. So the read runs in a separate pool of threads, with a limit of
``WITHIN_S``; a stuck thread does not block other work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import trio

from pamfs.descriptors import raise_shortage

PROC: Final = Path("/proc")
# How long a program's memory is waited for; then it is unknown.
WITHIN_S: Final = 1.0
_LONGEST_BYTES: Final = 1 << 20
# At most this many threads may hang; further reads time out and return nothing.
_THREADS: Final = 8

_limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("memory")


async def read_memory_file(pid: int, name: str) -> bytes:
    """Return ``/proc/PID/NAME``, or nothing if it cannot be had in time.

    Raises ``NoDescriptorError``, which says nothing of the process.
    """
    with trio.move_on_after(WITHIN_S):
        return await trio.to_thread.run_sync(
            _read_bytes,
            PROC / str(pid) / name,
            abandon_on_cancel=True,
            limiter=_threads(),
        )
    return b""


def _threads() -> trio.CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        made = trio.CapacityLimiter(_THREADS)
        _limiter.set(made)
        return made


def _read_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST_BYTES)
    except OSError as exc:
        raise_shortage(exc)
        return b""


_GENERATIONS: Final = 32
# Fields of /proc/PID/stat after the name, see proc(5): ppid, pgrp, session, tty.
_STARTED: Final = 19
# They run the program that is their first argument.
_INTERPRETERS: Final = (
    *("sh", "bash", "dash", "zsh", "ksh", "perl", "ruby", "node", "gjs"),
    *("kioworker", "kioslave5", "kdeinit5"),
)


@dataclass(frozen=True, slots=True)
class Process:
    """One process; ``started`` tells it from a later one with the same number.

    ``job`` is the process group: what a shell runs as one command line.
    """

    pid: int
    started: int = 0
    parent: int = field(default=0, compare=False)
    job: int = field(default=0, compare=False)
    session: int = field(default=0, compare=False)
    has_terminal: bool = field(default=False, compare=False)
    names: tuple[str, ...] = field(default=(), compare=False)

    @property
    def name(self) -> str:
        """Return what a person calls it; the kernel's own name may be cut."""
        short = self.names[0] if self.names else ""
        longer = (name for name in self.names if name.startswith(short))
        name = max(longer, key=len, default="")
        shown = "".join(sign if sign.isprintable() else "?" for sign in name)
        return shown or "a program that cannot be seen"


class Processes(Protocol):
    """Where processes are looked up."""

    def find(self, pid: int) -> Process:
        """Return the process that thread ``pid`` belongs to."""
        ...

    async def arguments(self, process: Process) -> Sequence[bytes]:
        """Return its command line, or nothing if that takes too long."""
        ...


class ProcTable:
    """The processes of this machine."""

    def find(self, pid: int) -> Process:
        """Return the process that thread ``pid`` belongs to.

        Raises ``NoDescriptorError``: a program that only this mount cannot see must
        not be taken for one in a container.
        """
        try:
            leader = _leader_of((PROC / str(pid) / "status").read_text("utf-8", _SHOW))
            return _read(PROC / str(leader), leader)
        except OSError as exc:
            raise_shortage(exc)
            return Process(pid)
        except ValueError:
            return Process(pid)

    async def arguments(self, process: Process) -> Sequence[bytes]:
        """Return its command line, or nothing if that takes too long."""
        if not process.names:
            return ()
        found = await read_memory_file(process.pid, "cmdline")
        return tuple(found.split(b"\0")) if found else ()


_SHOW: Final = "backslashreplace"


def _leader_of(status: str) -> int:
    for line in status.splitlines():
        if line.startswith("Tgid:"):
            return int(line.split()[1])
    raise ValueError("no Tgid")


def _read(folder: Path, pid: int) -> Process:
    stat = (folder / "stat").read_text("utf-8", _SHOW)
    # The name stands in brackets, and may hold brackets and blanks itself.
    fields = stat.rpartition(")")[2].split()
    parent, job, session, terminal = map(int, fields[1:5])
    names = [(folder / "comm").read_text("utf-8", _SHOW).rstrip("\n")]
    with suppress(OSError):  # another user's program
        names.append((folder / "exe").readlink().name.removesuffix(" (deleted)"))
    return Process(
        pid=pid,
        started=int(fields[_STARTED]),
        parent=parent,
        job=job,
        session=session,
        has_terminal=terminal != 0,
        names=tuple(names),
    )


def ancestors(table: Processes, process: Process) -> Iterator[Process]:
    """Yield the parent of ``process``, its parent, and so on."""
    for _ in range(_GENERATIONS):
        if not process.parent:
            return
        process = table.find(process.parent)
        yield process


def all_names(process: Process, arguments: Sequence[bytes]) -> Sequence[str]:
    """Return the names of a process.

    The kernel's, argv[0], and the script of an interpreter.

    Of an interpreter that is the program it interprets, too.
    """
    if not arguments:
        return process.names
    first = _base(arguments[0]).removeprefix("-")
    is_host = first in _INTERPRETERS or first.startswith("python")
    hosted = [word for word in arguments[1:2] if is_host and not word.startswith(b"-")]
    names = (*process.names, first, *map(_base, hosted))
    return tuple(name for name in names if name)


def _base(argument: bytes) -> str:
    return argument.rpartition(b"/")[2].decode(errors=_SHOW)
