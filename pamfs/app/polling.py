"""trio as the guest of another event loop, without trio's thread.

trio's guest mode waits for file descriptors in a thread of its own. Each request of the
kernel and each answer of a device then crosses threads twice and wakes a second core.
Both loops use epoll, and an epoll descriptor can itself be watched by another epoll: so
the host loop watches trio's.

Protocol, for one guest:

1. trio ends a tick and wants to wait: it calls ``start_thread_soon``. Our replacement
   reads guest and timeout from the closure (``trio_compat.guest_that_waits``) and calls
   ``_GuestWait.begin`` instead of starting a thread.
2. The wait ends by the first of three: trio's epoll is readable, its time is over,
   or ``_Waker`` was called because the host scheduled something for a trio task.
3. ``_go_on`` fetches trio's events without blocking and runs the next tick.

Invariant: ``_guest`` is set exactly while a wait is under way. ``_go_on`` clears it
first, so two of the three ends in one round of the loop run one tick.

Everything private to trio is declared in ``trio_compat``. If a name is missing or the
version was not tried, ``without_thread`` changes nothing and trio uses its thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import outcome

from pamfs.app.trio_compat import (
    Start,
    epoll_of,
    guest_that_waits,
    replace_waker,
    strange,
    threads_started_by,
)

if TYPE_CHECKING:
    from trio._core._run import GuestState
    from trio._core._wakeup_socketpair import WakeupSocketpair

log = logging.getLogger(__name__)

# asyncio's timers refuse a longer delay.
_LONGEST_S: Final = 24 * 3600.0
# uvloop's timers have whole milliseconds. The same deadline comes to an instant that
# differs by less each time.
_TIMER_STEP_S: Final = 0.001


class _GuestWait:
    """The host's side of one guest: at most one wait at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._guest: GuestState | None = None
        # One timer for many waits: it is set anew only for an earlier end.
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0
        self._woken: asyncio.Handle | None = None
        self._watched: int | None = None

    def begin(self, guest: GuestState, timeout_s: float) -> None:
        """Go on with ``guest`` when something happens, or after ``timeout_s``."""
        if self._watched is None:
            self._watched = epoll_of(guest)
            self._loop.add_reader(self._watched, self._go_on)
            replace_waker(guest, lambda pair: _Waker(self, pair))
        self._guest = guest
        self._until = self._loop.time() + min(timeout_s, _LONGEST_S)
        if self._timer is None or self._timer.when() - self._until > _TIMER_STEP_S:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._until, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._guest is None:
            return
        if self._loop.time() < self._until - _TIMER_STEP_S:
            self._set_timer()  # it was of an earlier wait
        else:
            self._go_on()

    def wake(self) -> bool:
        """Go on with the guest soon; return whether it waits here."""
        if self._guest is None:
            return False
        if self._woken is None:
            self._woken = self._loop.call_soon(self._go_on_woken)
        return True

    def _go_on(self) -> None:
        # Between two waits trio looks for itself.
        guest, self._guest = self._guest, None
        if guest is not None:
            look = guest.runner.io_manager.get_events
            self._tick(guest, outcome.capture(look, 0))

    def _go_on_woken(self) -> None:
        # What happened is known: a task is to go on. Descriptors are looked at by
        # trio behind this turn, and by the loop.
        guest, self._guest = self._guest, None
        if guest is not None:
            self._tick(guest, outcome.Value([]))

    def _tick(self, guest: GuestState, events: outcome.Outcome[object]) -> None:
        if self._woken is not None:
            self._woken.cancel()
            self._woken = None
        guest.unrolled_run_next_send = events
        guest.runner.guest_tick_scheduled = True
        guest.guest_tick()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watched is not None:
            self._loop.remove_reader(self._watched)


class _Waker:
    """Stands in for the socket pair by which trio wakes its thread that waits.

    trio wakes it whenever the host has something for a task: with each answer of a
    device. Here that is the same thread, and needs no byte through the system.
    """

    def __init__(self, waiting: _GuestWait, pair: WakeupSocketpair) -> None:
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
    """In the body, a trio that is the guest of ``loop`` waits in ``loop``."""
    why = strange()
    if why:
        log.info("trio waits in a thread of its own, which is slower: %s", why)
        yield
        return
    waiting = _GuestWait(loop)

    def made(start_thread_soon: Start) -> Start:
        def wait(
            get_events: Callable[[], object], deliver: Callable[..., object]
        ) -> None:
            guest, timeout_s = guest_that_waits(get_events)
            if guest is None:
                start_thread_soon(get_events, deliver)
            else:
                waiting.begin(guest, timeout_s)

        return wait

    try:
        with threads_started_by(made):
            yield
    finally:
        waiting.end()
