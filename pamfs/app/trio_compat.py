"""Every name of trio that pamfs uses and trio does not document.

All are for one thing: trio as a guest waits in the host's loop, without a thread
(``app.polling``). Without one of them, or with a version outside ``TRIED``, trio waits
in its thread, which is slower; nothing else changes. trio's documented interface,
``trio.lowlevel`` among it, is used everywhere.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import TYPE_CHECKING, Final

import trio

from pamfs.private_names import Names, is_within, missing

if TYPE_CHECKING:
    from trio._core._run import GuestState
    from trio._core._wakeup_socketpair import WakeupSocketpair

# The first version of trio that this was tried with, and the one after the last.
TRIED: Final = ((0, 27), (0, 36))

_RUN: Final = "trio._core._run"
_START: Final = "start_thread_soon"
NAMES: Final = (
    Names(_RUN, (_START,), args=2),
    Names(f"{_RUN}:GuestState", ("guest_tick", "runner", "unrolled_run_next_send")),
    Names(f"{_RUN}:Runner", ("guest_tick_scheduled", "io_manager")),
    Names("trio._core._io_epoll:EpollIOManager", ("_epoll", "_force_wakeup")),
    Names("trio._core._io_epoll:EpollIOManager", ("get_events",), args=2),
    Names(
        "trio._core._wakeup_socketpair:WakeupSocketpair",
        ("close", "drain", "wakeup_thread_and_signal_safe"),
    ),
)
# What trio's function that waits is made of, inside ``GuestState.guest_tick``.
_WAIT: Final = "get_events"
_FREE_NAMES: Final = ("self", "timeout")

Start = Callable[[Callable[[], object], Callable[..., object]], None]


def strange() -> str:
    """Return what of this trio is not as it is known here; "" if nothing."""
    if not is_within(trio.__version__, *TRIED):
        return f"version {trio.__version__} has not been tried"
    lacking = missing(NAMES)
    if lacking:
        return f"version {trio.__version__} has no {lacking[0]}"
    tick = importlib.import_module(_RUN).GuestState.guest_tick
    inner = [c for c in tick.__code__.co_consts if isinstance(c, CodeType)]
    is_known = any((c.co_name, c.co_freevars) == (_WAIT, _FREE_NAMES) for c in inner)
    return "" if is_known else f"version {trio.__version__} waits in another way"


def guest_that_waits(
    get_events: Callable[[], object],
) -> tuple[GuestState | None, float]:
    """Return the guest for which ``get_events`` waits, and for how many seconds.

    None if it is not the function that ``strange`` has found.
    """
    code = getattr(get_events, "__code__", None)
    cells = getattr(get_events, "__closure__", None)
    if code is None or cells is None or code.co_freevars != _FREE_NAMES:
        return None, 0.0
    guest, timeout_s = (cell.cell_contents for cell in cells)
    io_manager = getattr(getattr(guest, "runner", None), "io_manager", None)
    is_known = hasattr(io_manager, "_epoll") and hasattr(io_manager, "_force_wakeup")
    return (guest, timeout_s) if is_known else (None, 0.0)


def epoll_of(guest: GuestState) -> int:
    """Return the descriptor of what ``guest`` waits with."""
    return guest.runner.io_manager._epoll.fileno()


def replace_waker(
    guest: GuestState, make: Callable[[WakeupSocketpair], object]
) -> None:
    """Have ``guest`` woken by what ``make`` returns for its socket pair."""
    io_manager = guest.runner.io_manager
    # What ``make`` returns is no socket pair, but has its methods.
    object.__setattr__(io_manager, "_force_wakeup", make(io_manager._force_wakeup))


@contextmanager
def threads_started_by(make: Callable[[Start], Start]) -> Iterator[None]:
    """In the body, trio starts its threads by ``make(its own function)``."""
    names = vars(importlib.import_module(_RUN))
    start: Start = names[_START]
    names[_START] = make(start)
    try:
        yield
    finally:
        names[_START] = start
