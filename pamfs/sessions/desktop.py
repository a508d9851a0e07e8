"""Notices on the desktop of whoever mounted, as far as there is one.

Law: it is a courtesy. It never waits for longer than a few seconds, nothing
depends on it, and only the name of the target and one line go to the bus.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from pamfs.sessions.notices import Notice

log = logging.getLogger(__name__)

_WITHIN_S: Final = 5.0
# Desktop Notifications Specification 1.2; what is critical stays until closed.
_NORMAL: Final = 1
_CRITICAL: Final = 2
_AS_THE_SERVER_LIKES: Final = -1


class Desktop:
    """The notification server of one session bus."""

    def __init__(self, nursery: trio.Nursery, bus: str | None) -> None:
        """``bus`` is a D-Bus address; None: there is no desktop."""
        self._nursery = nursery
        self._bus = bus

    def show(self, notice: Notice) -> None:
        """Show ``notice``, soon, or say in the log at DEBUG why not."""
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
    texts = ("pamfs", 0, icon, title, notice.text)
    actions: list[str] = []
    body = (*texts, actions, hints, _AS_THE_SERVER_LIKES)
    async with open_dbus_router(bus) as router:
        call = new_method_call(where, "Notify", "susssasa{sv}i", body)
        await router.send_and_get_reply(call)
