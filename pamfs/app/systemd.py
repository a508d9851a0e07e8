"""A mount as a service of systemd: readiness, status line, watchdog (sd_notify(3)).

Law: ``WATCHDOG=1`` is sent only after a request went through the mount and was
answered. Another program makes that request; this process never accesses its own mount
(facts/peers.md#waiting-processes).
"""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from pamfs.config.environment import Supervision, read_supervision
from pamfs.descriptors import SPARE

log = logging.getLogger(__name__)


class Notifier:
    """Sends states to systemd if it started us. Never waits, never fails a mount."""

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
            with SPARE.lent(), socket.socket(socket.AF_UNIX, flags) as sender:
                sender.connect(self._path)
                sender.send(text.encode(errors="replace"))
        except OSError as exc:
            log.warning("cannot notify systemd: %s", exc)


def _line(text: str) -> str:
    return " ".join(text.split())


# sd_watchdog_enabled(3) recommends half. With a third, one late answer is tolerated.
_BEATS: Final = 3
_FUSE_MAGIC: Final = b"65735546"  # statfs(2); what lies below the mount has another


async def goes_through(mountpoint: Path, within_s: float) -> bool:
    """Whether a statfs(2) of the root, which needs no device, is answered in time.

    If the kernel blocks the program uninterruptibly, this waits longer than
    ``within_s``; no ``WATCHDOG=1`` is sent meanwhile, which is correct.
    """
    program = shutil.which("stat") or "/usr/bin/stat"
    words = ["--file-system", "--format=%t", "--", str(mountpoint)]
    with suppress(OSError), trio.move_on_after(within_s), SPARE.lent():
        done = await trio.run_process(
            [program, *words],
            check=False,
            capture_stdout=True,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return done.stdout.strip() == _FUSE_MAGIC
    return False


async def feed(
    mountpoint: Path, every_s: float, notifier: Notifier, describe: Callable[[], str]
) -> None:
    """Check the mount for ever, often enough for a watchdog of ``every_s``."""
    beat_s = every_s / _BEATS
    while True:
        if await goes_through(mountpoint, beat_s):
            notifier.alive(describe())
        else:
            log.error("%s: no answer within %g s through the mount", mountpoint, beat_s)
        await trio.sleep(beat_s)


class Service:
    """Readiness, watchdog and end of one mount; without systemd it sends nothing."""

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
        """Send ``READY=1``, then ``WATCHDOG=1`` after each check, until it stops."""
        on_ready()
        self._notifier.ready(describe())
        if self._watchdog_s is not None:
            with self._feeding:
                await feed(self._mountpoint, self._watchdog_s, self._notifier, describe)

    def stopping(self) -> None:
        """Send ``STOPPING=1`` once, and end the watchdog's checks."""
        if not self._is_stopping:
            self._is_stopping = True
            self._feeding.cancel()
            self._notifier.stopping()
