"""What became of a change whose answer was lost: judged by what is there now.

Law: a change is claimed only where what is seen is what it would have left behind, and
sent again only where what is seen is what it was sent to. Whatever else is seen is an
error: another client changed the name. A change that seems not to have happened is
looked at again after a moment, because the lost session may still deliver it.

What this cannot tell apart: a new folder or empty file of our own, and one that another
client made under the same name between our request and this look; a removed file, and
one of the same size that was put in its place in the same second (docs/posix.md).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import stat
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, TypeVar

import trio

from pamfs.errors import CutRenameError, RemoteError
from pamfs.model import Attrs, RemotePath
from pamfs.transport.base import RemoteTree
from pamfs.vfs.names.attributes import differs

log = logging.getLogger(__name__)

_PERMISSIONS: Final = 0o777
_LATE_S: Final = 0.2

V = TypeVar("V")


class Fate(Enum):
    """What to do about a change that was cut off."""

    DONE = auto()
    AGAIN = auto()
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class Look:
    """What is at a name now; ``says`` of a link, ``has_entries`` of a folder."""

    attrs: Attrs
    says: bytes = b""
    has_entries: bool = False


@dataclass(frozen=True, slots=True)
class NewName:
    """What a change was to make: its mode with the type; ``says`` of a link."""

    mode: int
    says: bytes = b""


@dataclass(frozen=True, slots=True)
class Before:
    """What was known of a name when its change was sent; ``attrs`` None: nothing.

    ``is_sure``: within its TTL, and unchanged by this mount since. ``fits`` compares
    the file where its size is not known, because writes of it are under way.
    """

    attrs: Attrs | None = None
    is_sure: bool = False
    fits: Callable[[Attrs], bool] | None = None

    def may_be(self, seen: Attrs) -> bool:
        """Whether ``seen`` may be what was there."""
        if self.attrs is None:
            return False
        return is_same(self.attrs, seen) or (self.fits is not None and self.fits(seen))


def judge_made(wanted: NewName, seen: Look | None) -> Fate:
    """Judge a mkdir, symlink or exclusive create."""
    if seen is None:
        return Fate.AGAIN
    if stat.S_IFMT(seen.attrs.mode) != stat.S_IFMT(wanted.mode):
        return Fate.REFUSED
    if stat.S_ISLNK(wanted.mode):
        return Fate.DONE if seen.says == wanted.says else Fate.REFUSED
    # A server's umask takes bits away, and nothing adds any.
    is_more = seen.attrs.mode & ~wanted.mode & _PERMISSIONS
    is_used = seen.has_entries or (stat.S_ISREG(wanted.mode) and seen.attrs.size)
    return Fate.REFUSED if is_more or is_used else Fate.DONE


def judge_linked(old: Attrs | None, seen: Attrs | None) -> Fate:
    """Judge a hard link to a file that is ``old``."""
    if seen is None:
        return Fate.AGAIN
    return Fate.DONE if old is not None and is_same(old, seen) else Fate.REFUSED


def judge_removed(before: Before, seen: Attrs | None) -> Fate:
    """Judge an unlink or rmdir of what was ``before`` there.

    If another file is surely at the name now, it was put there after ours was removed,
    or in its place: ours is gone, and the other one stays. A folder is sent again,
    because rmdir destroys no content.
    """
    if seen is None:
        return Fate.DONE
    if before.may_be(seen) or (before.attrs is None and stat.S_ISDIR(seen.mode)):
        return Fate.AGAIN
    return Fate.DONE if before.is_sure else Fate.REFUSED


def judge_renamed(before: Before, old: Attrs | None, new: Attrs | None) -> Fate:
    """Judge a rename of what was ``before``, by what is at both names now."""
    is_moved = new is not None and before.may_be(new)
    if old is None:
        is_unknown = new is not None and not before.is_sure
        return Fate.DONE if is_moved or is_unknown else Fate.REFUSED
    if before.may_be(old):
        return Fate.AGAIN
    if is_moved:
        return Fate.DONE
    return Fate.REFUSED if before.is_sure or new is not None else Fate.AGAIN


def is_same(one: Attrs, other: Attrs) -> bool:
    """Whether these may be one file, as far as SFTP version 3 can tell.

    A folder's time changes with its entries.
    """
    if stat.S_IFMT(one.mode) != stat.S_IFMT(other.mode):
        return False
    if stat.S_ISDIR(one.mode):
        return True
    return not differs(one, other)


async def finish_making(
    tree: RemoteTree,
    path: RemotePath,
    wanted: NewName,
    make: Callable[[], Awaitable[V]],
    claim: Callable[[Attrs], Awaitable[V]],
) -> V:
    """Finish a mkdir, symlink or exclusive create whose answer was lost.

    ``claim`` makes what is there the result of the change.
    """
    if await _look(tree, path) is None:
        await _late(tree)
    for is_last in (False, True):
        seen = await _look(tree, path)
        verdict = judge_made(wanted, seen)
        if verdict is Fate.REFUSED:
            raise RemoteError(errno.EEXIST, "make")
        if seen is not None and verdict is Fate.DONE:
            return await claim(seen.attrs)
        try:
            return await make()
        except RemoteError as exc:
            if exc.code != errno.EEXIST or is_last:
                raise
    raise RemoteError(errno.EEXIST, "make")


async def finish_linking(tree: RemoteTree, old: RemotePath, new: RemotePath) -> Attrs:
    """Finish a hard link whose answer was lost."""
    if await attrs_at(tree, new) is None:
        await _late(tree)
    for is_last in (False, True):
        seen = await attrs_at(tree, new)
        if seen is not None:
            if judge_linked(await attrs_at(tree, old), seen) is Fate.REFUSED:
                break
            return seen
        try:
            return await tree.link(old, new)
        except RemoteError as exc:
            if exc.code != errno.EEXIST or is_last:
                raise
    raise RemoteError(errno.EEXIST, "link")


async def finish_removing(
    tree: RemoteTree,
    path: RemotePath,
    before: Before,
    remove: Callable[[RemotePath], Awaitable[None]],
) -> None:
    """Finish an unlink or rmdir whose answer was lost."""
    if await attrs_at(tree, path) is not None:
        await _late(tree)
    fate = judge_removed(before, await attrs_at(tree, path))
    if fate is Fate.DONE:
        return
    if fate is Fate.REFUSED:
        raise RemoteError(errno.EIO, "remove", "another file is at its name")
    try:
        await remove(path)
    except RemoteError as exc:
        if exc.code != errno.ENOENT:
            raise


@dataclass(slots=True)
class Renaming:
    """One rename of what was ``before``, over all sessions that it takes.

    ``asides`` are the names of the replaced file where a server without posix-rename
    had it when the session was lost. It is removed once the rename is done, and put
    back if the rename is refused.
    """

    before: Before
    replace: bool
    asides: list[RemotePath] = field(default_factory=list)

    async def send(self, tree: RemoteTree, old: RemotePath, new: RemotePath) -> None:
        """Rename."""
        try:
            await tree.rename(old, new, replace=self.replace)
        except CutRenameError as exc:
            self.asides.append(RemotePath(exc.aside))
            raise

    async def finish(self, tree: RemoteTree, old: RemotePath, new: RemotePath) -> None:
        """Finish it in the next session."""
        if await attrs_at(tree, old) is not None:
            await _late(tree)
        try:
            await self._done(tree, old, new)
        except RemoteError:
            await self._put_back(tree, new)
            raise
        await self._remove_asides(tree)

    async def _done(self, tree: RemoteTree, old: RemotePath, new: RemotePath) -> None:
        for is_last in (False, True):
            at_old, at_new = await attrs_at(tree, old), await attrs_at(tree, new)
            fate = judge_renamed(self.before, at_old, at_new)
            if fate is Fate.DONE:
                return
            if fate is Fate.REFUSED:
                raise RemoteError(errno.EIO, "rename", "another file is at its name")
            try:
                await self.send(tree, old, new)
            except RemoteError as exc:
                if exc.code != errno.ENOENT or is_last:
                    raise
            else:
                return

    async def _put_back(self, tree: RemoteTree, new: RemotePath) -> None:
        with contextlib.suppress(RemoteError):
            while self.asides:
                if await attrs_at(tree, self.asides[-1]) is not None:
                    await tree.rename(self.asides[-1], new, replace=False)
                self.asides.pop()

    async def _remove_asides(self, tree: RemoteTree) -> None:
        while self.asides:
            aside = self.asides.pop()
            try:
                found = await attrs_at(tree, aside)
                if found is not None:
                    is_dir = stat.S_ISDIR(found.mode)
                    await (tree.rmdir(aside) if is_dir else tree.unlink(aside))
            except RemoteError as exc:
                log.warning("a replaced file is left at %r: %s", aside, exc)

    @contextlib.contextmanager
    def reported(self, shown: str) -> Iterator[None]:
        """Log which files are left aside if the body fails; ``shown`` is the name."""
        try:
            yield
        except BaseException:
            for aside in self.asides:
                # No traceback: a lost session is no bug.
                text = "%s: the file to be replaced may be at %r"
                log.log(logging.ERROR, text, shown, aside)
            raise


async def attrs_at(tree: RemoteTree, path: RemotePath) -> Attrs | None:
    """Return the attributes of ``path``; None if nothing is there."""
    try:
        return await tree.lstat(path)
    except RemoteError as exc:
        if exc.code != errno.ENOENT:
            raise
        return None


async def _look(tree: RemoteTree, path: RemotePath) -> Look | None:
    attrs = await attrs_at(tree, path)
    if attrs is None:
        return None
    if stat.S_ISLNK(attrs.mode):
        return Look(attrs, says=await tree.readlink(path))
    is_dir = stat.S_ISDIR(attrs.mode)
    return Look(attrs, has_entries=is_dir and bool(await tree.list_dir(path)))


async def _late(tree: RemoteTree) -> None:
    await trio.sleep(max(_LATE_S, 2 * tree.round_trip_s))
