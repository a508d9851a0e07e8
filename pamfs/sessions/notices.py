"""Notices: lines for the users of a mount, in the log, at agents and on the desktop.

Law: giving a notice never waits, and a subscriber that fails affects no other. Every
notice is in the log. Desktop notifications are optional: each has a time limit of 5 s,
its failure has no effect, and only the target's name and one line are sent to the bus.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import trio

from pamfs.model import Target
from pamfs.printable import printable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Notice:
    """One line for a person; ``text`` names no file and holds no secret.

    A notice that is not urgent only says what a login waits for.
    """

    target: Target
    text: str
    is_urgent: bool = True

    def __str__(self) -> str:
        return f"{self.target}: {self.text}"


Subscriber = Callable[[Notice], object]


class Notices:
    """The subscribers of notices: the desktop, each ``pamfs agent``."""

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> None:
        """Have ``subscriber`` called with every notice, for good."""
        self._subscribers.append(subscriber)

    @contextmanager
    def subscribed(self, subscriber: Subscriber) -> Iterator[None]:
        """Have ``subscriber`` called with every notice in the body."""
        self._subscribers.append(subscriber)
        try:
            yield
        finally:
            self._subscribers.remove(subscriber)

    def about(self, target: Target, *, is_urgent: bool) -> Callable[[str], None]:
        """Return what gives a notice about ``target``, a line at a time."""
        return lambda text: self.give(Notice(target, text, is_urgent=is_urgent))

    def give(self, notice: Notice) -> None:
        """Log ``notice`` and call every subscriber with it."""
        log.log(logging.WARNING if notice.is_urgent else logging.INFO, "%s", notice)
        for subscriber in list(self._subscribers):
            try:
                subscriber(notice)
            except Exception:
                log.exception("a notice could not be passed on")


_WITHIN_S: Final = 5.0
# Desktop Notifications Specification 1.2; what is critical stays until closed.
_NORMAL: Final = 1
_CRITICAL: Final = 2
_DEFAULT_EXPIRY: Final = -1


class Desktop:
    """The notification server of one session bus."""

    def __init__(self, nursery: trio.Nursery, bus: str | None) -> None:
        """``bus`` is a D-Bus address; None: there is no desktop."""
        self._nursery = nursery
        self._bus = bus

    def show(self, notice: Notice) -> None:
        """Show ``notice`` in a task; a failure is logged at DEBUG.

        Without a bus nothing happens.
        """
        if self._bus is not None:
            self._nursery.start_soon(self._show, self._bus, notice)

    async def _show(self, bus: str, notice: Notice) -> None:
        try:
            with trio.fail_after(_WITHIN_S):
                await _notify(bus, notice)
        except Exception as exc:  # noqa: BLE001 - a desktop may be any, or none
            log.debug("no desktop notification: %s", exc)


async def _notify(bus: str, notice: Notice) -> None:
    # A mount that never warns does not pay for the library.
    from jeepney import DBusAddress, new_method_call
    from jeepney.io.trio import open_dbus_router

    where = DBusAddress(
        "/org/freedesktop/Notifications",
        bus_name="org.freedesktop.Notifications",
        interface="org.freedesktop.Notifications",
    )
    urgency = _CRITICAL if notice.is_urgent else _NORMAL
    hints = {"urgency": ("y", urgency), "category": ("s", "device")}
    title, icon = f"pamfs: {notice.target}", "drive-harddisk"
    # The specification allows markup in the body.
    texts = ("pamfs", 0, icon, title, html.escape(printable(notice.text), quote=False))
    actions: list[str] = []
    body = (*texts, actions, hints, _DEFAULT_EXPIRY)
    async with open_dbus_router(bus) as router:
        call = new_method_call(where, "Notify", "susssasa{sv}i", body)
        await router.send_and_get_reply(call)
