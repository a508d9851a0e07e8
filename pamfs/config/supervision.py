"""What systemd tells a service in its environment: sd_notify(3) and its watchdog."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Supervision:
    """Where a service reports, and how often it must say that it lives.

    ``notify_socket`` is as socket.connect takes it: an abstract one begins with NUL.
    """

    notify_socket: str | None = None
    watchdog_s: float | None = None


def read_supervision() -> Supervision:
    """Return what the environment says; a watchdog for another process is none."""
    given = os.environ.get("NOTIFY_SOCKET", "")
    if given[:1] not in {"/", "@"}:
        return Supervision()
    path = "\0" + given[1:] if given.startswith("@") else given
    return Supervision(path, _watchdog_s())


def _watchdog_s() -> float | None:
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not usec.isdecimal() or int(usec) == 0 or pid != str(os.getpid()):
        return None
    return int(usec) / 1_000_000
