"""A mount as a service of systemd: what it is told, from ready to stopping."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from pamfs.app.notify import Notifier
from pamfs.app.watchdog import feed
from pamfs.config.supervision import read_supervision


class Service:
    """Reports for one mount; outside of systemd it reports to nobody."""

    def __init__(self, mountpoint: Path) -> None:
        supervision = read_supervision()
        self._mountpoint = mountpoint
        self._watchdog_s = supervision.watchdog_s
        self._notifier = Notifier(supervision)
        self._feeding = trio.CancelScope()
        self._is_stopping = False

    async def run(
        self, on_ready: Callable[[], None], describe: Callable[[], str]
    ) -> None:
        """Say that the mount is usable, and then that it lives, until it stops."""
        on_ready()
        self._notifier.ready(describe())
        if self._watchdog_s is not None:
            with self._feeding:
                await feed(self._mountpoint, self._watchdog_s, self._notifier, describe)

    def stopping(self) -> None:
        """Say once that the mount is going; its watchdog has nothing to ask then."""
        if not self._is_stopping:
            self._is_stopping = True
            self._feeding.cancel()
            self._notifier.stopping()
