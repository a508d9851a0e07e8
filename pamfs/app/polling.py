"""How trio waits as the guest of another loop: in that loop, without a thread.

trio's guest mode waits for its descriptors in a thread, so that each request of the
kernel and each answer of a device crosses threads twice, and each wakes a core. Both
loops use epoll, and one epoll can be watched by another: the host watches trio's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Final

import outcome
import trio._core._run as trio_run

# What trio's function that waits is made of; another trio goes on using its thread.
_FREE_NAMES: Final = ("self", "timeout")
# asyncio's timers refuse what is further away.
_LONGEST_S: Final = 24 * 3600.0


class _Waiting:
    """The host's side of one guest: at most one wait at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._guest: trio_run.GuestState | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watched: int | None = None

    def begin(self, guest: trio_run.GuestState, timeout_s: float) -> None:
        """Go on with ``guest`` when something happens, or after ``timeout_s``."""
        if self._watched is None:
            self._watched = guest.runner.io_manager._epoll.fileno()  # noqa: SLF001
            self._loop.add_reader(self._watched, self._go_on)
        self._guest = guest
        self._timer = self._loop.call_later(min(timeout_s, _LONGEST_S), self._go_on)

    def _go_on(self) -> None:
        # Between two waits trio looks for itself.
        guest, self._guest = self._guest, None
        if guest is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        events = outcome.capture(guest.runner.io_manager.get_events, 0)
        guest.unrolled_run_next_send = events
        guest.runner.guest_tick_scheduled = True
        guest.guest_tick()

    def end(self) -> None:
        if self._watched is not None:
            self._loop.remove_reader(self._watched)


@contextlib.contextmanager
def without_thread(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let the trio that runs as the guest of ``loop`` meanwhile wait in ``loop``."""
    waiting = _Waiting(loop)
    start_thread_soon = vars(trio_run)["start_thread_soon"]

    def wait(get_events: Callable[[], object], deliver: Callable[..., object]) -> None:
        guest, timeout_s = _parts_of(get_events)
        if guest is None:
            start_thread_soon(get_events, deliver)
        else:
            waiting.begin(guest, timeout_s)

    vars(trio_run)["start_thread_soon"] = wait
    try:
        yield
    finally:
        vars(trio_run)["start_thread_soon"] = start_thread_soon
        waiting.end()


def _parts_of(
    get_events: Callable[[], object],
) -> tuple[trio_run.GuestState | None, float]:
    code = getattr(get_events, "__code__", None)
    cells = getattr(get_events, "__closure__", None)
    if code is None or cells is None or code.co_freevars != _FREE_NAMES:
        return None, 0.0
    guest, timeout_s = (cell.cell_contents for cell in cells)
    if not isinstance(guest, trio_run.GuestState):
        return None, 0.0
    return guest, timeout_s
