"""How trio waits as the guest of another loop: in that loop, without a thread.

trio's guest mode waits for its descriptors in a thread, so that each request of the
kernel and each answer of a device crosses threads twice, and each wakes a core. Both
loops use epoll, and one epoll can be watched by another: the host watches trio's.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import outcome
import trio

if TYPE_CHECKING:
    from trio._core._run import GuestState
    from trio._core._wakeup_socketpair import WakeupSocketpair

log = logging.getLogger(__name__)

# The first version of trio that this was tried with, and the one after the last.
TRIED: Final = ((0, 27), (0, 36))
_MODULE: Final = "trio._core._run"
_START: Final = "start_thread_soon"
_EPOLL: Final = "_epoll"
_WAKEUP: Final = "_force_wakeup"
# What trio's function that waits is made of; another trio goes on using its thread.
_FREE_NAMES: Final = ("self", "timeout")
# asyncio's timers refuse what is further away.
_LONGEST_S: Final = 24 * 3600.0


class _Waiting:
    """The host's side of one guest: at most one wait at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._guest: GuestState | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._woken: asyncio.Handle | None = None
        self._watched: int | None = None

    def begin(self, guest: GuestState, timeout_s: float) -> None:
        """Go on with ``guest`` when something happens, or after ``timeout_s``."""
        if self._watched is None:
            io_manager = guest.runner.io_manager
            self._watched = getattr(io_manager, _EPOLL).fileno()
            self._loop.add_reader(self._watched, self._go_on)
            setattr(io_manager, _WAKEUP, _Waker(self, getattr(io_manager, _WAKEUP)))
        self._guest = guest
        self._timer = self._loop.call_later(min(timeout_s, _LONGEST_S), self._go_on)

    def wake(self) -> bool:
        """Go on with the guest soon; return whether it waits here."""
        if self._guest is None:
            return False
        if self._woken is None:
            self._woken = self._loop.call_soon(self._go_on)
        return True

    def _go_on(self) -> None:
        # Between two waits trio looks for itself.
        guest, self._guest = self._guest, None
        if guest is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._woken is not None:
            self._woken.cancel()
            self._woken = None
        events = outcome.capture(guest.runner.io_manager.get_events, 0)
        guest.unrolled_run_next_send = events
        guest.runner.guest_tick_scheduled = True
        guest.guest_tick()

    def end(self) -> None:
        if self._watched is not None:
            self._loop.remove_reader(self._watched)


class _Waker:
    """Stands in for the socket pair by which trio wakes its thread that waits.

    trio wakes it whenever the host has something for a task: with each answer of a
    device. Here that is the same thread, and needs no byte through the system.
    """

    def __init__(self, waiting: _Waiting, pair: WakeupSocketpair) -> None:
        self._waiting = waiting
        self._pair = pair
        self._thread = threading.get_ident()

    def wakeup_thread_and_signal_safe(self) -> None:
        """Have trio go on."""
        is_here = threading.get_ident() == self._thread
        if not (is_here and self._waiting.wake()):
            self._pair.wakeup_thread_and_signal_safe()

    def drain(self) -> None:
        """Take what came through the socket pair."""
        self._pair.drain()

    def close(self) -> None:
        """Close the socket pair."""
        self._pair.close()


@contextlib.contextmanager
def without_thread(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let the trio that runs as the guest of ``loop`` meanwhile wait in ``loop``."""
    why = strange()
    if why:
        log.info("trio waits in a thread of its own, which is slower: %s", why)
        yield
        return
    names = vars(importlib.import_module(_MODULE))
    waiting = _Waiting(loop)
    start_thread_soon = names[_START]

    def wait(get_events: Callable[[], object], deliver: Callable[..., object]) -> None:
        guest, timeout_s = _parts_of(get_events)
        if guest is None:
            start_thread_soon(get_events, deliver)
        else:
            waiting.begin(guest, timeout_s)

    names[_START] = wait
    try:
        yield
    finally:
        names[_START] = start_thread_soon
        waiting.end()


def strange() -> str:
    """Return what of this trio is not as it is known here; "" if nothing."""
    parts = trio.__version__.split(".")[:2]
    is_number = all(part.isdecimal() for part in parts)
    if not is_number or not TRIED[0] <= tuple(map(int, parts)) < TRIED[1]:
        return f"version {trio.__version__} has not been tried"
    try:
        module = importlib.import_module(_MODULE)
    except ImportError as exc:
        return str(exc)
    missing = [name for name in (_START, "GuestState") if not hasattr(module, name)]
    return f"{_MODULE} has no {missing[0]}" if missing else ""


def _parts_of(get_events: Callable[[], object]) -> tuple[GuestState | None, float]:
    code = getattr(get_events, "__code__", None)
    cells = getattr(get_events, "__closure__", None)
    if code is None or cells is None or code.co_freevars != _FREE_NAMES:
        return None, 0.0
    guest, timeout_s = (cell.cell_contents for cell in cells)
    return (guest, timeout_s) if _is_known(guest) else (None, 0.0)


def _is_known(guest: object) -> bool:
    runner = getattr(guest, "runner", None)
    io_manager = getattr(runner, "io_manager", None)
    return (
        hasattr(guest, "unrolled_run_next_send")
        and hasattr(guest, "guest_tick")
        and hasattr(runner, "guest_tick_scheduled")
        and hasattr(io_manager, "get_events")
        and hasattr(io_manager, _EPOLL)
        and hasattr(io_manager, _WAKEUP)
    )
