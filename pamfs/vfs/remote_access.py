"""How a request reaches its device: session, path, deadline and a handle.

Law of retries: a request that only asks is sent again after a lost session, a few
times. A request that changes something is sent once, and from then on it runs to its
own deadline even if its caller is interrupted, so that the answer is known; if the
session is lost, the next one is asked what became of it (``names.resolve``).

Law of epochs: each session that was closed on purpose ends an epoch of its target.
What was opened in an earlier epoch is ESTALE for good, and no session is opened for
it. A request that lost its session that way is not sent again.

Law of handles (``HandleQuota``): a handle that prefetch uses never costs a program
its own. If an open is refused, and handles are in use that are given back without
the program (prefetch, a listing, a close), then prefetch stops, those handles are
waited for, and the open is sent once more. The limit that was found this way holds
for the session, and prefetch stays below it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from errno import (
    EACCES,
    EDQUOT,
    EEXIST,
    EISDIR,
    ELOOP,
    ENAMETOOLONG,
    ENOENT,
    ENOSPC,
    ENOTDIR,
    EPERM,
    EROFS,
    ESTALE,
)
from functools import partial
from typing import Final, TypeVar

import trio

from pamfs.errors import ProtocolBrokenError, RemoteError, SessionLostError
from pamfs.model import Caller, Name, RemotePath, Target
from pamfs.transport.base import RemoteTree, TreeSource
from pamfs.vfs.names.inodes import Inode, InodeTable
from pamfs.vfs.names.namespace import Namespace, TargetView

log = logging.getLogger(__name__)

V = TypeVar("V")

# Codes that never mean "no handle left": no server uses them for that.
CLEAR: Final = frozenset({
    EACCES, EDQUOT, EEXIST, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOSPC, ENOTDIR, EPERM,
    EROFS, ESTALE,
})  # fmt: skip
# Codes that a check of the path gave in place of a bare FAILURE.
_FOUND_OUT: Final = frozenset({EEXIST, EISDIR, ENOTDIR, ELOOP})
# A prefetched listing is waited for this long, then cancelled.
PATIENCE_S: Final = 5.0
# A program that copies has a file and a folder open at once.
_SPARED: Final = 2
# Refusals of what only reads ahead lower the limit no further than this.
_LEAST: Final = 4


@dataclass(slots=True, eq=False)
class HandleUse:
    """One handle, in use for a moment.

    ``needed`` is cancelled when a program needs the handle, ``late`` when it has
    waited ``PATIENCE_S`` for it.
    """

    quota: HandleQuota
    number: int
    needed: trio.CancelScope = field(default_factory=trio.CancelScope)
    late: trio.CancelScope = field(default_factory=trio.CancelScope)
    over: trio.Event = field(default_factory=trio.Event)

    def end(self) -> None:
        """Say that the handle was given back, or never came to be."""
        self.quota.ended(self)


class HandleQuota:
    """The handles of one session. ``limit`` 0 means that none is known."""

    def __init__(
        self,
        name: str,
        open_files: Callable[[], int],
        announced: Callable[[], int] = lambda: 0,
    ) -> None:
        """``open_files`` returns how many files programs hold open.

        ``announced`` returns how many handles the session is known to have; that may
        be found out while it is used.
        """
        self._name = name
        self._open_files = open_files
        self._announced = announced
        self._found = 0
        self.retried = 0
        self._uses: set[HandleUse] = set()
        self._begun = 0
        self._cut_at = 0
        self._waiting = 0

    @property
    def limit(self) -> int:
        """Return how many handles there are; 0 if that is not known."""
        announced, found = self._announced(), self._found
        return min(announced, found) if announced and found else announced or found

    @property
    def count(self) -> int:
        """Return how many handles are in use."""
        return self._open_files() + len(self._uses)

    @property
    def is_full(self) -> bool:
        """Whether the files that programs hold open are as many as there are."""
        return 0 < self.limit <= self._open_files()

    @property
    def has_room(self) -> bool:
        """Whether one more handle may be used ahead of a program."""
        if self._waiting:
            return False
        return not self.limit or self.count < self.limit - self._spared

    @property
    def _spared(self) -> int:
        return max(_SPARED, self.limit // 4)

    def begin(self) -> HandleUse:
        """Count a handle that is given back by itself; the caller ends the use."""
        self._begun += 1
        use = HandleUse(self, self._begun)
        self._uses.add(use)
        return use

    def ended(self, use: HandleUse) -> None:
        """Take a handle out of the count."""
        self._uses.discard(use)
        use.over.set()

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Count one handle while the body lists a directory, or closes a file."""
        use = self.begin()
        try:
            yield
        finally:
            use.end()

    async def open(self, get: Callable[[], Awaitable[V]]) -> V:
        """Return ``get()``, which opens for a program; once more if it was refused.

        It is tried again only if the refusal may mean that no handle is left, and
        handles were in use that go back by themselves.
        """
        if self.limit and self._uses and self.count >= self.limit:
            async with self._room():
                pass
        begun, is_shared, count = self._begun, bool(self._uses), self.count
        try:
            return await get()
        except RemoteError as exc:
            # EMFILE is the session's own: it has waited for a handle already.
            if exc.code == errno.EMFILE or not may_be_full(exc):
                raise
            if not is_shared and self._begun == begun:
                raise
        async with self._room():
            self.retried += 1
            found = await get()
        if is_shared:
            self._lower(count)
            log.info("%s: more than %d handles are refused", self._name, self.limit)
        return found

    async def list(self, get: Callable[[], Awaitable[V]]) -> V:
        """As ``open``, for a handle that goes back when ``get()`` returns."""

        async def counted() -> V:
            with self.using():
                return await get()

        return await self.open(counted)

    def refused(self, use: HandleUse, exc: RemoteError) -> None:
        """Note that a handle to be used ahead was refused; each burst counts once."""
        if use.number > self._cut_at and may_be_full(exc):
            self._lower(max(self.count - 1, _LEAST))

    def _lower(self, limit: int) -> None:
        """Remember that more than ``limit`` were refused."""
        if self.limit:
            limit = min(limit, self.limit * 3 // 4)
        self._found, self._cut_at = max(limit, 1), self._begun

    @contextlib.asynccontextmanager
    async def _room(self) -> AsyncIterator[None]:
        """Let the handles that go back do so; no new one is used ahead meanwhile."""
        self._waiting += 1
        try:
            uses = list(self._uses)
            for use in uses:
                use.needed.cancel()
            with trio.move_on_after(PATIENCE_S):
                await _all_over(uses)
            for use in uses:
                use.late.cancel()
            # A listing for a program goes on: the request is tried beside it then.
            with trio.move_on_after(PATIENCE_S):
                await _all_over(uses)
            yield
        finally:
            self._waiting -= 1


async def _all_over(uses: Sequence[HandleUse]) -> None:
    for use in uses:
        await use.over.wait()


def may_be_full(exc: RemoteError) -> bool:
    """Whether a refusal may mean that the server has no handle left.

    SFTP version 3 has no code for it; OpenSSH answers FAILURE. ``exc`` says what a look
    at the path made of that, its cause what the server said.
    """
    cause = exc.__cause__
    said = cause.code if isinstance(cause, RemoteError) else exc.code
    return said not in CLEAR and exc.code not in _FOUND_OUT


log = logging.getLogger(__name__)

# The longest path that a Linux device takes, limits.h; longer ones are refused there
# with an error that SFTP has no code for.
PATH_MAX: Final = 4096

# How often one request is sent: more often means that it ends the session itself.
TRIES: Final = 8
# A session that lost a request is over: the pool notices within a few turns of the
# loop. A request that failed alone is sent again in the same session after this.
_NOTICED_WITHIN_S: Final = 1.0
# What passes before it is sent for the third time, the fourth, and so on.
_PAUSES_S: Final = (0.2, 0.5, 1.0, 2.0, 4.0)

Ask = Callable[[RemoteTree], Awaitable[V]]


class RemoteAccess:
    """The way from an inode to the files of its target."""

    def __init__(
        self,
        namespace: Namespace,
        inodes: InodeTable,
        source: TreeSource,
        open_files: Callable[[Target], int] = lambda _: 0,
    ) -> None:
        """``open_files`` returns how many files of a target programs hold open."""
        self._namespace = namespace
        self._inodes = inodes
        self._source = source
        self._homes: dict[Target, tuple[RemoteTree, bytes]] = {}
        self._epochs: dict[Target, int] = {}
        # Changes of names whose answers were lost with their session.
        self._unresolved: Counter[Target] = Counter()
        self._resolved = trio.lowlevel.ParkingLot()
        self._over = trio.lowlevel.ParkingLot()  # waits for sessions to be over
        self._open_files = open_files
        self._quotas: dict[Target, tuple[RemoteTree, HandleQuota]] = {}

    def epoch(self, target: Target) -> int:
        """Return how often the sessions of ``target`` were closed on purpose."""
        return self._epochs.get(target, 0)

    def revoke(self, target: Target) -> None:
        """Begin a new epoch: what was opened before is stale for good."""
        self._epochs[target] = self.epoch(target) + 1

    def check(self, target: Target, epoch: int) -> None:
        """Raise ESTALE for what was opened in an earlier epoch."""
        if epoch != self._epochs.get(target, 0):
            raise stale()

    async def ask(
        self, target: Target, caller: Caller, ask: Ask[V], *, is_open: bool = False
    ) -> V:
        """Return ``ask(tree)``; on a new session if the first is lost.

        ``is_open``: it is asked of an open file, so its first login is a reconnect.
        """
        epoch = self.epoch(target)
        for tries in range(1, TRIES):
            try:
                return await self._lent(target, caller, ask, is_reconnect=is_open)
            except ProtocolBrokenError:
                raise
            except SessionLostError:
                if epoch != self.epoch(target):
                    raise
                log.debug("asking %s again after a lost session", target)
            await self.loss_noticed(target, self.ready(target))
            await pause_before(tries)
            is_open = True
        return await self._lent(target, caller, ask, is_reconnect=True)

    async def loss_noticed(self, target: Target, tree: RemoteTree | None) -> None:
        """Wait until the pool lends ``tree``, which was lost, no more: not for long."""
        if tree is None:
            return
        with trio.move_on_after(_NOTICED_WITHIN_S):
            while self.ready(target) is tree:
                await self._over.park()

    async def names_settled(self, target: Target) -> None:
        """Wait until it is known which names changes that were cut off left behind."""
        while self._unresolved[target]:
            await self._resolved.park()

    async def change(
        self,
        target: Target,
        caller: Caller,
        change: Ask[V],
        finish: Ask[V] | None = None,
    ) -> V:
        """Return ``change(tree)``, which is sent once and not interrupted.

        If its session is lost, ``finish(tree)`` looks in the next one what became of
        it. Raises EROFS in the last stretch of a lease.
        """
        epoch = self.epoch(target)
        try:
            return await self._lent(target, caller, self._whole(target, change))
        except SessionLostError:
            if finish is None or epoch != self.epoch(target):
                raise
            log.info("%s: looking what became of a change of names", target)
        self._unresolved[target] += 1
        try:
            whole = self._whole(target, finish)
            return await self.ask(target, caller, whole, is_open=True)
        finally:
            self._unresolved[target] -= 1
            self._resolved.unpark_all()

    def _whole(self, target: Target, change: Ask[V]) -> Ask[V]:
        """Return ``change`` as it is sent: if the lease allows it, uninterrupted."""

        async def once(tree: RemoteTree) -> V:
            self.check_writable(target)
            return await self._uninterrupted(target, tree, change)

        return once

    async def make_durable(self, target: Target, caller: Caller, change: Ask[V]) -> V:
        """As ``change``, for an idempotent change of an open file.

        It is sent again after a lost session.
        """

        async def once(tree: RemoteTree) -> V:
            return await self._uninterrupted(target, tree, change)

        return await self.ask(target, caller, once, is_open=True)

    async def _uninterrupted(
        self, target: Target, tree: RemoteTree, change: Ask[V]
    ) -> V:
        within_s = self.view(target).request_timeout_s
        with trio.fail_after(within_s, shield=True):
            return await change(tree)

    async def _lent(
        self, target: Target, caller: Caller, ask: Ask[V], *, is_reconnect: bool = False
    ) -> V:
        lend = self._source.lend
        async with lend(target, caller, is_reconnect=is_reconnect) as tree:
            # As ``fail_after``, without its generator: this is on every read's way.
            within_s = self.view(target).request_timeout_s
            with trio.CancelScope(deadline=trio.current_time() + within_s):
                return await ask(tree)
            raise trio.TooSlowError

    def closed(self, target: Target) -> None:
        """Let go of what belonged to a session that is over."""
        self._homes.pop(target, None)
        self._quotas.pop(target, None)
        self._over.unpark_all()

    def quota(self, target: Target, tree: RemoteTree) -> HandleQuota:
        """Return the handles of the session that ``tree`` belongs to."""
        known = self._quotas.get(target)
        if known is None or known[0] is not tree:
            open_files = partial(self._open_files, target)
            known = self._quotas[target] = (
                tree,
                HandleQuota(
                    str(target), open_files, lambda: tree.capabilities.max_open_handles
                ),
            )
        return known[1]

    def is_full(self, target: Target) -> bool:
        """Whether open files of programs hold all handles of the session."""
        tree = self.ready(target)
        return tree is not None and self.quota(target, tree).is_full

    def pin(self, target: Target) -> None:
        """Keep the session of ``target`` from going idle: a file was opened."""
        self._source.pin(target)

    def unpin(self, target: Target) -> None:
        """Take one ``pin`` back: a file was released."""
        self._source.unpin(target)

    def note_listing(self, tenant: str, caller: Caller) -> None:
        """Report to the guard that ``caller`` listed a tenant."""
        self._source.note_listing(tenant, caller)

    def check_writable(self, target: Target) -> None:
        """Raise EROFS if the lease of ``target`` is about to end."""
        if self.is_read_only(target):
            raise RemoteError(errno.EROFS, "change", "the lease is about to end")

    def is_read_only(self, target: Target) -> bool:
        """Whether the lease of ``target`` is about to end."""
        return self._source.is_read_only(target)

    def ready(self, target: Target) -> RemoteTree | None:
        """Return the open session's tree, or None; never dials, never waits."""
        return self._source.ready(target)

    def view(self, target: Target) -> TargetView:
        """Return how ``target`` is shown."""
        return self._namespace.view(target)

    async def path(
        self, tree: RemoteTree, inode: Inode, name: Name | None = None
    ) -> RemotePath:
        """Return where ``inode``, or ``name`` in it, is on the device."""
        assert inode.target is not None  # noqa: S101 - callers stand below a target
        root = await self._root(tree, inode.target)
        # No await below: the path is the one at this moment.
        below = self._inodes.components(inode)[2:]
        return _joined(root, below if name is None else (*below, name))

    async def path_of(
        self, tree: RemoteTree, target: Target, names: Sequence[Name]
    ) -> RemotePath:
        """Return where ``names``, from the target's folder down, is on the device."""
        return _joined(await self._root(tree, target), names)

    async def _root(self, tree: RemoteTree, target: Target) -> bytes:
        root = self._namespace.view(target).root
        if not root.startswith(b"~"):
            return root
        known = self._homes.get(target)
        if known is None or known[0] is not tree:
            home = await tree.real_path(RemotePath(b"."))
            known = self._homes[target] = (tree, home)
        return known[1].rstrip(b"/") + root[1:]

    def depth(self, inode: Inode) -> int:
        """Return how many folders lie between the target's root and ``inode``."""
        return max(0, len(self._inodes.components(inode)) - 3)


async def pause_before(tries: int) -> None:
    """Wait before what ``tries`` sessions in a row were lost with is tried again."""
    if tries > 1:
        await trio.sleep(_PAUSES_S[min(tries - 2, len(_PAUSES_S) - 1)])


def stale() -> RemoteError:
    """Return the error of what was open in a session that was closed on purpose."""
    return RemoteError(errno.ESTALE, "handle", "its session was closed")


def _joined(root: bytes, names: Sequence[Name]) -> RemotePath:
    path = RemotePath(b"/".join((root.rstrip(b"/"), *names)) or b"/")
    if len(path) >= PATH_MAX:
        raise RemoteError(errno.ENAMETOOLONG, "path")
    return path
