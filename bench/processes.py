"""Programs that always end: each has a hard end, and what it started ends with it.

Law: the bench itself never touches a path on a mount. Whatever does is a program
of its own, because a request that nobody answers leaves its caller beyond the
reach of any signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

REPOSITORY: Final = Path(__file__).parents[1]
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_SHOWN: Final = 200
_TICKS: Final = os.sysconf("SC_CLK_TCK")

Command = Sequence[str | Path]


class FailedError(Exception):
    """A program ended with an error; the message is what it said last."""


class TookTooLongError(Exception):
    """A program did not end in time and was killed."""

    def __init__(self, command: Command, timeout_s: float) -> None:
        super().__init__(f"{_show(command)} took over {timeout_s:g} s")
        self.timeout_s = timeout_s


@dataclass(frozen=True)
class Usage:
    """What a set of processes has used: CPU so far, memory at its peak."""

    cpu_s: float
    peak_bytes: int


def run(
    command: Command,
    *,
    timeout_s: float,
    cwd: Path = REPOSITORY,
    env: dict[str, str] | None = None,
) -> str:
    """Run ``command``, which must succeed in time; return what it printed."""
    # Files, no pipes: a daemon that keeps them open holds up nobody.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = _spawn(command, out, err, cwd, env)
        try:
            in_time = _ends(child, timeout_s)
        except BaseException:
            _kill_group(child)
            raise
        if not in_time:
            _kill_group(child)
            raise TookTooLongError(command, timeout_s)
        code = child.wait()
        if code != 0:
            said = _text(err) or _text(out)
            raise FailedError(f"{_show(command)} ended with {code}: {said[-300:]}")
        return _text(out)


@contextlib.contextmanager
def started(command: Command) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` beside us, with a pipe for its output, and kill it at the end."""
    with tempfile.TemporaryFile() as err:
        child = _spawn(command, subprocess.PIPE, err, REPOSITORY, None)
        try:
            yield child
        finally:
            _kill_group(child)
            if child.stdout is not None:
                child.stdout.close()


def ended_with_us() -> None:
    """Have the kernel end this process when the one that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def wait_until(
    holds: Callable[[], bool], what: str, *, within_s: float, every_s: float = 0.01
) -> None:
    """Wait until ``holds()``; raise ``FailedError`` naming ``what`` if it does not."""
    until = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > until:
            raise FailedError(f"after {within_s:g} s still not: {what}")
        time.sleep(every_s)


def processes_naming(folder: Path) -> set[int]:
    """Return the processes with ``folder`` in one of their arguments."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(folder) in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
    return found - {os.getpid()}


def usage_of(pids: set[int]) -> Usage:
    """Add up what the processes have used; the ones that are gone used nothing."""
    cpu_s, peak = 0.0, 0
    for pid in pids:
        with contextlib.suppress(OSError):
            folder = Path("/proc") / str(pid)
            # utime, stime, and those of the children that were waited for
            times = (folder / "stat").read_text().rpartition(")")[2].split()[11:15]
            cpu_s += sum(map(int, times)) / _TICKS
            peak += _peak_bytes((folder / "status").read_text())
    return Usage(cpu_s, peak)


def kill_all(pids: set[int]) -> None:
    """Kill processes that the bench started and that did not end by themselves."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _peak_bytes(status: str) -> int:
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0  # a zombie


def _spawn(
    command: Command,
    out: int | IO[bytes],
    err: IO[bytes],
    cwd: Path,
    env: dict[str, str] | None,
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        cwd=cwd,
        env=env,
        start_new_session=True,
    )


def _ends(child: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Wait for the end without the steps of 50 ms that ``Popen.wait`` looks in."""
    descriptor = os.pidfd_open(child.pid)
    try:
        ready, _, _ = select.select([descriptor], [], [], timeout_s)
    finally:
        os.close(descriptor)
    return bool(ready)


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(5)  # what hangs on a mount is freed by the end of that mount


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="backslashreplace").strip()


def _show(command: Command) -> str:
    shown = " ".join(map(str, command))
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
