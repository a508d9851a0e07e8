"""One mount, from the first part built to the last one taken down.

Shutdown goes from the kernel inwards, and each step has a deadline (``GRACE_S``):

1. no new requests: the mount is detached by another program (``fuse.kernel``);
2. running requests end, and writes that are not acknowledged are sent;
3. sessions close, leases are returned; what could not be stored is logged by name;
4. ``pamfs umount`` gets its answer, and the process ends.

Step 3 runs shielded in ``finally``: a cancelled nursery must not lose data or a lease.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import pyfuse3
import trio

from pamfs.app.access import Access
from pamfs.app.login_stack import LoginStack, Place
from pamfs.app.report import describe, log_stacks, report, summary
from pamfs.app.systemd import Service
from pamfs.audit import FileSink, JournalSink, NoAudit, WrittenAudit
from pamfs.config import Config, TenantConfig
from pamfs.control.connection import Handler, socket_path
from pamfs.control.server import ControlStream, serve_control
from pamfs.descriptors import SPARE
from pamfs.errors import PamfsError, RemoteError
from pamfs.fuse.kernel import (
    KernelCaches,
    connection_watch,
    detach,
    raise_limits,
    sync_pages,
)
from pamfs.fuse.operations import Operations
from pamfs.fuse.serving import Workers, serve_with
from pamfs.model import Target
from pamfs.mountpoint import MountOptions
from pamfs.sessions.notices import Notice
from pamfs.transport.bridge import GuestBridge
from pamfs.vfs.background import Background, Budget
from pamfs.vfs.names.attributes import MountOwner
from pamfs.vfs.names.namespace import Namespace
from pamfs.vfs.tree import Tree

log = logging.getLogger(__name__)

# With pyfuse3's 99 one dead device can stop even a statfs of the root
# (facts/peers.md#requests-in-flight).
MAX_TASKS: Final = 4096
MIN_TASKS: Final = 8
# Before a request goes on: reason and ticket of the checkout, its approval, then
# the proxy's host key (asked of another first, perhaps), password, code and reason.
QUESTIONS: Final = 8
# Margin of a request beyond login, questions and the device's own time.
SLACK_S: Final = 10.0
RAISED_AFTER_S: Final = (0.0, 0.1, 1.0)
# How long running requests, and hang-ups after them, may take at the end.
GRACE_S: Final = 10.0


def longest_request_s(tenants: Iterable[TenantConfig]) -> float:
    """Return when a request fails, whatever it waits for.

    The first one waits for all of a login; none ends before the login's own limits.
    """
    return SLACK_S + max(
        (
            tenant.session.connect_timeout_s
            + tenant.session.login_timeout_s
            + QUESTIONS * tenant.login.prompt_timeout_s
            + tenant.session.reconnect_s
            + tenant.files.request_timeout_s
            for tenant in tenants
        ),
        default=0.0,
    )


class MountFailedError(PamfsError):
    """The kernel or fusermount3 refused the mount."""


def open_audit(config: Config, mountpoint: Path) -> NoAudit | WrittenAudit:
    """Return the audit of a mount; raise ``AuditError`` if it cannot be written."""
    wanted = config.audit
    if wanted.file is not None:
        return WrittenAudit(FileSink(wanted.file), str(mountpoint))
    if wanted.journal:
        return WrittenAudit(JournalSink(), str(mountpoint))
    return NoAudit()


class Mount:
    """Everything that serves one mount point."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: Config,
        mountpoint: Path,
        options: MountOptions,
    ) -> None:
        self._loop = loop
        self._config = config
        self._mountpoint = mountpoint
        self._options = options
        self._stop_wanted = trio.Event()
        self._is_serving = True
        self._taken_down = trio.Event()
        # One event for each ``umount`` command; set when its answer was sent.
        self._answered: list[trio.Event] = []
        self._lost: tuple[str, ...] = ()
        self._unreturned: tuple[str, ...] = ()
        self._audit = open_audit(config, mountpoint)
        place = Place(config, mountpoint, options.foreground)
        self._logins = LoginStack(place, self._audit)
        self._service = Service(mountpoint)

    async def run(self, on_ready: Callable[[], None]) -> int:
        """Serve until unmounted; return 0, or 1 if something was lost."""
        SPARE.hold()
        async with trio.open_nursery() as nursery:
            bridge = GuestBridge(self._loop)
            self._listen_to_signals(bridge)
            self._logins.open(nursery, bridge)
            pool = self._pool = self._logins.pool
            namespace = Namespace(self._config, self._logins.listings.names)
            self._access = Access(
                namespace,
                pool,
                self._logins.control,
                self._logins.pardon,
                self._store,
            )
            self._tree = Tree(
                namespace,
                pool,
                self._me(),
                self._describe,
                self._audit,
                Background(nursery.start_soon, Budget(self._config.cache_bytes)),
            )
            self._tree.lost.tell_with(self._give_notice)
            workers = Workers(self._loop)
            self._operations = Operations(
                self._tree,
                longest_request_s(self._config.tenants.values()),
                waiting=workers if serve_with(workers) else None,
            )
            self._forget_with(KernelCaches(nursery))
            await self._serve(nursery, on_ready)
            with trio.move_on_after(GRACE_S):
                for answered in self._answered:
                    await answered.wait()
            nursery.cancel_scope.cancel()
        return 1 if self._lost else 0

    async def _serve(self, nursery: trio.Nursery, on_ready: Callable[[], None]) -> None:
        self._mount()
        try:
            nursery.start_soon(self._raise_limits)
            nursery.start_soon(self._operations.in_flight.watch)
            nursery.start_soon(self._tree.files.stalls.watch)
            nursery.start_soon(self._tree.keep_measured)
            nursery.start_soon(self._logins.listings.keep)
            nursery.start_soon(self._stop_when_wanted)
            path = socket_path(self._mountpoint)
            stream_handlers = {
                **self._access.stream_handlers(),
                "lost_seen": self._on_lost_seen,
            }
            await nursery.start(serve_control, path, self._handlers(), stream_handlers)
            nursery.start_soon(self._service.run, on_ready, self._summary)
            await pyfuse3.main(min_tasks=MIN_TASKS, max_tasks=MAX_TASKS)
        finally:
            self._is_serving = False
            with trio.CancelScope(shield=True):
                await self._caches.close()
                pyfuse3.close(unmount=True)
                await self._take_down()

    async def _raise_limits(self) -> None:
        # The kernel sets its defaults when it processes our answer to FUSE_INIT; there
        # is no event for that, and limits raised earlier are overwritten.
        for after_s in RAISED_AFTER_S:
            await trio.sleep(after_s)
            raise_limits(self._mountpoint)

    def _mount(self) -> None:
        try:
            pyfuse3.init(self._operations, str(self._mountpoint), self._fuse_options())
        except RuntimeError as exc:
            # libfuse and fusermount3 have written the reason to stderr.
            raise MountFailedError(f"{self._mountpoint}: cannot mount: {exc}") from exc
        self._operations.in_flight.is_unmounted = connection_watch()
        self._operations.in_flight.on_unmounted = self._tree.files.stop_closing

    def _fuse_options(self) -> set[str]:
        options = {
            f"fsname={self._options.fsname}",
            f"subtype={self._options.subtype}",
            *self._options.extra,
        }
        if self._options.allow_other:
            # Others get in: then the kernel checks owner and mode for us.
            options |= {"allow_other", "default_permissions"}
        return options

    def _me(self) -> MountOwner:
        uid, gid = self._options.uid, self._options.gid
        return MountOwner(
            uid=os.getuid() if uid is None else uid,
            gid=os.getgid() if gid is None else gid,
            since_ns=time.time_ns(),
            checks_modes="default_permissions" in self._fuse_options(),
        )

    def _forget_with(self, caches: KernelCaches) -> None:
        self._caches = caches
        self._pool.on_open(self._tree.session_opened)
        self._pool.on_revoke(self._tree.session_revoked)
        self._pool.on_forget(
            lambda target: caches.drop(self._tree.session_closed(target))
        )
        self._pool.on_settle(caches.wait_dropped)
        self._pool.on_drain(self._store)
        self._pool.count_waiting_with(self._tree.waiting_bytes)

    async def _store(self, target: Target | None = None) -> None:
        """Store all data for which a write returned success."""
        await sync_pages(self._mountpoint)
        await self._tree.files.writes.stored(target)

    def close(self) -> None:
        """Write the last records."""
        self._audit.close()

    def _summary(self) -> str:
        return summary(self._mountpoint, self._pool, self._tree, self._audit.status())

    def _give_notice(self, target: Target, text: str) -> None:
        self._pool.notices.give(Notice(target, text))

    def _describe(self, target: Target) -> Mapping[str, str]:
        return describe(self._pool, target)

    # -- the end -----------------------------------------------------------------

    def _listen_to_signals(self, bridge: GuestBridge) -> None:
        self._loop.add_signal_handler(
            signal.SIGUSR1, bridge.post, functools.partial(log_stacks, self._loop)
        )
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.add_signal_handler(number, bridge.post, self._stop_wanted.set)

    async def _stop_when_wanted(self) -> None:
        await self._stop_wanted.wait()
        log.info("asked to stop")
        self._service.stopping()
        self._pool.stop_opening()  # no login and no prompt from here on
        await sync_pages(self._mountpoint)
        error = await detach(self._mountpoint, is_lazy=True)
        if error:
            log.warning("%s", error)
        with trio.move_on_after(GRACE_S):
            await self._operations.in_flight.wait_empty()
            await self._tree.files.writes.stored()
        # Before the end of pyfuse3: a program may keep files open after the lazy
        # unmount, and the page cache of these would stay readable.
        await self._pool.close(deadline_s=GRACE_S)
        if self._is_serving:  # or pyfuse3 would end the process
            pyfuse3.terminate()

    async def _take_down(self) -> None:
        self._service.stopping()
        with trio.move_on_after(GRACE_S):
            await self._tree.files.writes.stored()
        self._tree.files.writes.abandon(RemoteError(errno.EIO, "write", "too late"))
        self._lost = tuple(self._tree.unstored())
        for line in self._lost:
            log.error("not stored: %s", line)
        self._logins.end_within(GRACE_S)
        closing = await self._pool.close(deadline_s=GRACE_S)
        for target in closing:
            log.error("%s: its session did not end in time", target)
        self._unreturned = await self._logins.unreturned()
        self._logins.close()
        self._taken_down.set()

    # -- commands of the control socket --------------------------------------------

    def _handlers(self) -> Mapping[str, Handler]:
        own = {"status": self._on_status, "umount": self._on_umount}
        return own | self._access.handlers()

    async def _on_status(self, request: Mapping[str, object]) -> Mapping[str, object]:
        del request
        found = report(self._mountpoint, self._config, self._pool, self._tree)
        vaults, audit = self._logins.listings.status(), self._audit.status()
        return {**found, "vaults": vaults, "audit": audit}

    async def _on_lost_seen(
        self, request: Mapping[str, object], control: ControlStream
    ) -> Mapping[str, object]:
        """Forget the lost data that ``pamfs status`` has shown to the mount's user."""
        until = request.get("until")
        if isinstance(until, int) and control.peer.uid == os.geteuid():
            self._tree.lost.was_read(until)
        return {"ok": True}

    async def _on_umount(self, request: Mapping[str, object]) -> Mapping[str, object]:
        del request
        answered = trio.Event()
        self._answered.append(answered)
        try:
            error = await detach(self._mountpoint, is_lazy=False)
            if error:
                return {"ok": False, "error": error, "lost": []}
            await self._taken_down.wait()
            found = {"lost": list(self._lost), "unreturned": list(self._unreturned)}
            return {"ok": not self._lost, **found}
        finally:
            answered.set()
