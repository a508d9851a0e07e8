"""What systemd is told of this process: sd_notify(3), one datagram each."""

from __future__ import annotations

import logging
import socket

from pamfs.config.supervision import Supervision

log = logging.getLogger(__name__)


class Notifier:
    """Tells systemd; without it, nobody. Never waits, never fails a mount."""

    def __init__(self, supervision: Supervision) -> None:
        self._path = supervision.notify_socket

    def ready(self, status: str) -> None:
        """Say that the mount is usable."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def stopping(self) -> None:
        """Say that the mount is being taken down."""
        self._send("STOPPING=1\nSTATUS=storing data, closing sessions")

    def alive(self, status: str) -> None:
        """Say that a request went through the mount and came back."""
        self._send(f"WATCHDOG=1\nSTATUS={_line(status)}")

    def status(self, text: str) -> None:
        """Say what ``systemctl status`` shows."""
        self._send(f"STATUS={_line(text)}")

    def _send(self, text: str) -> None:
        if self._path is None:
            return
        flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            with socket.socket(socket.AF_UNIX, flags) as sender:
                sender.connect(self._path)
                sender.send(text.encode(errors="replace"))
        except OSError as exc:
            log.warning("systemd is not told: %s", exc)


def _line(text: str) -> str:
    return " ".join(text.split())
