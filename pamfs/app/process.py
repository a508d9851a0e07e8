"""The process of a mount: its event loops, memory, terminal and protection.

Two event loops share one thread: trio runs as the guest of uvloop. asyncssh and the
file system then share it too: nothing that one of them reads can be changed by the
other meanwhile, except at an ``await`` (docs/decisions.md, "Two event loops in one
thread").

The clock of all deadlines (``RunningClock``) does not count time in which this process
did not run. A process that was stopped (SIGSTOP, a debugger, a virtual machine that was
paused) finds all its deadlines over when it goes on, and would give up requests whose
answers wait in its sockets. Leases are counted by the clock of the day, not by this
one.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import logging
import os
import resource
import signal
import termios
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Final

import outcome
import trio
import uvloop

from pamfs.app.mount import Mount
from pamfs.app.polling import without_thread
from pamfs.config import Config
from pamfs.mountpoint import MountOptions
from pamfs.processes import keep_buffers


def serve(
    config: Config,
    mountpoint: Path,
    options: MountOptions,
    on_ready: Callable[[], None],
) -> int:
    """Mount and serve until unmounted; return 0, or 1 if something was lost.

    Raises ``PamfsError`` with one line if the mount cannot be made.
    """
    leave_terminal()
    harden()
    keep_buffers()
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    finished: asyncio.Future[int] = loop.create_future()

    async def run() -> int:
        mount = Mount(loop, config, mountpoint, options)
        try:
            return await mount.run(on_ready)
        finally:
            mount.close()

    def on_done(result: outcome.Outcome[int]) -> None:
        try:
            finished.set_result(result.unwrap())
        except BaseException as exc:  # noqa: BLE001 - it is raised by ``serve``
            finished.set_exception(exc)

    def start() -> None:
        trio.lowlevel.start_guest_run(
            run,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            run_sync_soon_not_threadsafe=loop.call_soon,
            done_callback=on_done,
            host_uses_signal_set_wakeup_fd=True,
            clock=RunningClock(),
        )

    loop.call_soon(start)
    try:
        with without_thread(loop):
            return loop.run_until_complete(finished)
    finally:
        loop.close()


log = logging.getLogger(__name__)

_PR_SET_DUMPABLE: Final = 4  # prctl(2)


def harden() -> None:
    """Let neither a core dump nor another process of the user show our memory.

    ``PR_SET_DUMPABLE`` also keeps the user's other programs from ptrace(2).
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        log.warning("prctl: %s", os.strerror(ctypes.get_errno()))


_TERMINAL: Final = Path("/dev/tty")  # ours, if we have one


def leave_terminal() -> None:
    """Give up the controlling terminal, for this process and its pinentries.

    pamfs may ask a foreground program's user on that terminal. A background process
    that reads or writes its controlling terminal gets SIGTTIN or SIGTTOU. Ctrl-C still
    arrives: it is sent to the foreground process group.
    """
    # TIOCNOTTY of a session leader takes the terminal from the whole session; a leader
    # is in the foreground as a rule, and keeps it.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    if os.getsid(0) == os.getpid():
        return
    try:
        fd = os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return  # there is none
    try:
        fcntl.ioctl(fd, termios.TIOCNOTTY)
    finally:
        os.close(fd)


# Longer than a busy machine lets a process wait for its turn.
LONGEST_PAUSE_S: Final = 5.0


class RunningClock(trio.abc.Clock):
    """Monotonic, in seconds since it was started.

    trio asks for the time before it sleeps and when it wakes; callbacks of the host
    loop ask while it sleeps. What lies between two questions, beyond the end of the
    sleep, is a pause; a long one is not counted.
    """

    def __init__(self, read: Callable[[], float] = perf_counter) -> None:
        self._read = read
        self._asked_at = self._began_at = read()
        self._asleep_until = 0.0  # as ``read`` says it

    def start_clock(self) -> None:
        """Count from now on."""
        self._asked_at = self._began_at = self._read()

    def current_time(self) -> float:
        """Return the time."""
        now = self._read()
        pause_s = now - max(self._asked_at, self._asleep_until)
        if pause_s > LONGEST_PAUSE_S:
            self._began_at += pause_s
        self._asked_at = now
        return now - self._began_at

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return how long to sleep until ``deadline``."""
        left_s = deadline - self.current_time()
        self._asleep_until = self._asked_at + left_s
        return left_s
