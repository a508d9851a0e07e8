"""How a request reaches its device: a loan, a path and a deadline.

Law: what only asks is asked once more after a lost session; what changes
something is not, and once it has begun it runs to its own deadline even if the
caller is interrupted, so that the answer tells what happened. A session that was
closed on purpose is not opened anew for what was under way in it: each such end
begins a new epoch of the target.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import trio

from pamfs.errors import RemoteError, SessionLostError
from pamfs.model import Caller, Name, RemotePath, Target
from pamfs.transport.base import RemoteTree, TreeSource
from pamfs.vfs.names.inodes import Inode, InodeTable
from pamfs.vfs.names.namespace import Namespace, View
from pamfs.vfs.quota import Quota

log = logging.getLogger(__name__)

# The longest path that a Linux device takes, limits.h; longer ones are refused there
# with a word that SFTP has not.
PATH_MAX: Final = 4096

V = TypeVar("V")
Ask = Callable[[RemoteTree], Awaitable[V]]


class Reach:
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
        self._epochs: Counter[Target] = Counter()
        self._open_files = open_files
        self._quotas: dict[Target, tuple[RemoteTree, Quota]] = {}

    def epoch(self, target: Target) -> int:
        """Return how often the sessions of ``target`` were closed on purpose."""
        return self._epochs[target]

    def revoke(self, target: Target) -> None:
        """Begin a new epoch: what was opened before is stale for good."""
        self._epochs[target] += 1

    def check(self, target: Target, epoch: int) -> None:
        """Raise ESTALE for what was opened in an earlier epoch."""
        if epoch != self._epochs[target]:
            raise stale()

    async def asking(self, target: Target, caller: Caller, ask: Ask[V]) -> V:
        """Return ``ask(tree)``; once more on a new session if the first is lost."""
        epoch = self.epoch(target)
        try:
            return await self._lent(target, caller, ask)
        except SessionLostError:
            if epoch != self.epoch(target):
                raise
            log.debug("asking %s again after a lost session", target)
        return await self._lent(target, caller, ask)

    async def changing(self, target: Target, caller: Caller, change: Ask[V]) -> V:
        """Return ``change(tree)``, which is tried once and not interrupted.

        Raises EROFS in the last stretch of a lease.
        """

        async def once(tree: RemoteTree) -> V:
            self.check_writable(target)
            return await self._uninterrupted(target, tree, change)

        return await self._lent(target, caller, once)

    async def settling(self, target: Target, caller: Caller, change: Ask[V]) -> V:
        """As ``changing``, for what only makes durable what was stored already."""

        async def once(tree: RemoteTree) -> V:
            return await self._uninterrupted(target, tree, change)

        return await self._lent(target, caller, once)

    async def _uninterrupted(
        self, target: Target, tree: RemoteTree, change: Ask[V]
    ) -> V:
        within_s = self.view(target).request_timeout_s
        with trio.fail_after(within_s, shield=True):
            return await change(tree)

    async def _lent(self, target: Target, caller: Caller, ask: Ask[V]) -> V:
        async with self._source.lend(target, caller) as tree:
            # As ``fail_after``, without its generator: this is on every read's way.
            within_s = self.view(target).request_timeout_s
            with trio.CancelScope(deadline=trio.current_time() + within_s):
                return await ask(tree)
            raise trio.TooSlowError

    def closed(self, target: Target) -> None:
        """Let go of what belonged to a session that is over."""
        self._homes.pop(target, None)
        self._quotas.pop(target, None)

    def quota(self, target: Target, tree: RemoteTree) -> Quota:
        """Return the handles of the session that ``tree`` belongs to."""
        known = self._quotas.get(target)
        if known is None or known[0] is not tree:
            open_files = partial(self._open_files, target)
            known = self._quotas[target] = (
                tree,
                Quota(
                    str(target), open_files, lambda: tree.capabilities.max_open_handles
                ),
            )
        return known[1]

    def pin(self, target: Target) -> None:
        """Keep the session of ``target`` from going idle: a file was opened."""
        self._source.pin(target)

    def unpin(self, target: Target) -> None:
        """Take one ``pin`` back: a file was released."""
        self._source.unpin(target)

    def note_listing(self, tenant: str, caller: Caller) -> None:
        """Tell whoever guards the sessions that ``caller`` listed a tenant."""
        self._source.note_listing(tenant, caller)

    def check_writable(self, target: Target) -> None:
        """Raise EROFS if the lease of ``target`` is about to end."""
        if self._source.is_read_only(target):
            raise RemoteError(errno.EROFS, "change", "the lease is about to end")

    def ready(self, target: Target) -> RemoteTree | None:
        """Return the open session's tree, or None; never dials, never waits."""
        return self._source.ready(target)

    def view(self, target: Target) -> View:
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


def stale() -> RemoteError:
    """Return the error of what was open in a session that was closed on purpose."""
    return RemoteError(errno.ESTALE, "handle", "its session was closed")


def _joined(root: bytes, names: Sequence[Name]) -> RemotePath:
    path = RemotePath(b"/".join((root.rstrip(b"/"), *names)) or b"/")
    if len(path) >= PATH_MAX:
        raise RemoteError(errno.ENAMETOOLONG, "path")
    return path
