"""How many handles of a device are in use, reading ahead included.

Law: a handle that is open ahead of a program never costs a program its own. Where
opening is refused while handles are in use that go back by themselves (reading ahead,
a listing, a close under way), reading ahead stops, those are waited for, and the
request is sent once more. The limit that was found counts for the session, and reading
ahead stays below it.
"""

from __future__ import annotations

import contextlib
import logging
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
from typing import Final, TypeVar

import trio

from pamfs.errors import RemoteError

log = logging.getLogger(__name__)

V = TypeVar("V")

# What cannot be a device that has no handle left: no server says so in these words.
CLEAR: Final = frozenset({
    EACCES, EDQUOT, EEXIST, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOSPC, ENOTDIR, EPERM,
    EROFS, ESTALE,
})  # fmt: skip
# What a look at the path said instead of a bare FAILURE, and surely meant.
_FOUND_OUT: Final = frozenset({EEXIST, EISDIR, ENOTDIR, ELOOP})
# A listing that was begun ahead is waited for so long, then broken off.
PATIENCE_S: Final = 5.0
# A program that copies has a file and a folder open at once.
_SPARED: Final = 2
# Refusals of what only reads ahead lower the limit no further than this.
_LEAST: Final = 4


@dataclass(slots=True, eq=False)
class Use:
    """One handle, in use for a moment.

    ``needed`` is cancelled when a program needs the handle, ``late`` when it has
    waited ``PATIENCE_S`` for it.
    """

    quota: Quota
    number: int
    needed: trio.CancelScope = field(default_factory=trio.CancelScope)
    late: trio.CancelScope = field(default_factory=trio.CancelScope)
    over: trio.Event = field(default_factory=trio.Event)

    def end(self) -> None:
        """Say that the handle was given back, or never came to be."""
        self.quota.ended(self)


class Quota:
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
        self._uses: set[Use] = set()
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
    def has_room(self) -> bool:
        """Whether one more handle may be used ahead of a program."""
        if self._waiting:
            return False
        return not self.limit or self.count < self.limit - self._spared

    @property
    def _spared(self) -> int:
        return max(_SPARED, self.limit // 4)

    def begin(self) -> Use:
        """Count a handle that is given back by itself; the caller ends the use."""
        self._begun += 1
        use = Use(self, self._begun)
        self._uses.add(use)
        return use

    def ended(self, use: Use) -> None:
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
            if not may_be_full(exc) or not (is_shared or self._begun > begun):
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

    def refused(self, use: Use, exc: RemoteError) -> None:
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


async def _all_over(uses: Sequence[Use]) -> None:
    for use in uses:
        await use.over.wait()


def may_be_full(exc: RemoteError) -> bool:
    """Whether a refusal may mean that the server has no handle left.

    SFTP version 3 has no word for it; OpenSSH says FAILURE. ``exc`` says what a look
    at the path made of that, its cause what the server said.
    """
    cause = exc.__cause__
    said = cause.code if isinstance(cause, RemoteError) else exc.code
    return said not in CLEAR and exc.code not in _FOUND_OUT
