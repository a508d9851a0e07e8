"""Listings: fetched before a program that walks a tree asks for them.

``Walk`` decides (no I/O): nothing is planned before one program has opened a folder
and then one in it. The window then follows use: it doubles when a listing is used,
and halves when one expires unused. A walk that has stopped is forgotten.

Law: only over a session that is open, at most ``OUTSTANDING`` at once for a target,
and no request waits for one unless it needs that very listing. Each is recorded in
the audit as read ahead for one user, and only folders are listed whose shown mode
lets that user list them.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import trio

from pamfs.config import Ahead
from pamfs.errors import RemoteError
from pamfs.model import Caller, Entry, Name, Target
from pamfs.tasks import Flight
from pamfs.vfs.background import Window, fetching
from pamfs.vfs.names.dentries import FolderPath, ListedDirectory, Path
from pamfs.vfs.names.inodes import Inode
from pamfs.vfs.remote_access import HandleQuota, HandleUse
from pamfs.vfs.shared import Shared

# Listings ahead of the program, at the beginning of a walk and at most. 8 keeps a line
# of some ms busy; with 256 a walk of a distant device is bound by its bandwidth.
FIRST_WINDOW: Final = 8
MAX_WINDOW: Final = 256
# Folders that wait to be prefetched, at most: bounds the memory of a walk.
MAX_PLANNED: Final = 10_000
# Folders that programs opened last: a walk is recognized by them.
_REMEMBERED: Final = 256
_HELD: Final = 8

V = TypeVar("V")


class Walk:
    """The walk of one user through one target: what was opened, what comes next."""

    def __init__(
        self, lifetime_s: float, number: Callable[[Path], int] = lambda _: 0
    ) -> None:
        """Have ``number`` return a folder's inode number: some programs sort by it."""
        self._lifetime_s = lifetime_s
        # The orders in which programs go through a folder (as listed, by name, by
        # inode number), and how often in a row each of them fitted.
        self._keys: Sequence[Callable[[Path], tuple[int, bytes]]] = (
            lambda path: (self._index.get(path, 0), b""),
            lambda path: (0, path[-1]),
            lambda path: (number(path), b""),
        )
        self._runs = [0, 0, 0]
        self._order = 0
        self._last: dict[Path, Path] = {}
        self._index: dict[Path, int] = {}
        self._window = Window(FIRST_WINDOW)
        # The pid that opened each folder, the last one at the end.
        self._opened: dict[Path, int] = {}
        # Subfolders of the last ones, until a walk is recognized.
        self._held: dict[Path, list[Path]] = {}
        self._opened_at = 0.0
        self._is_clear = False
        self._planned: deque[Path] = deque()
        self._fetching: set[Path] = set()
        # Prefetched and not used yet, and when that was.
        self._unused: dict[Path, float] = {}

    @property
    def is_clear(self) -> bool:
        """Whether a walk was recognized."""
        return self._is_clear

    def is_of(self, pid: int, since: float) -> bool:
        """Whether the program ``pid`` walks here, and opened a folder ``since``."""
        return (
            self._is_clear and self._opened_at > since and pid in self._opened.values()
        )

    def is_over(self, now: float) -> bool:
        """Whether no folder was opened within the lifetime."""
        return now - self._opened_at >= self._lifetime_s

    def opened(self, path: Path, pid: int, folders: Iterable[Path], now: float) -> None:
        """Note that a program opened ``path``, which holds ``folders``."""
        self._end_if_stopped(now)
        self._opened_at = now
        if self._unused.pop(path, None) is not None or path in self._fetching:
            self._window.widen(MAX_WINDOW)
        if path:
            self._learn(path)
        if self._follows(path, pid) and not self._is_clear:
            self._is_clear = True
            self._plan(self._held.get(path[:-1], ()))
        self._opened.pop(path, None)
        self._opened[path] = pid
        _limit(self._opened, _REMEMBERED)
        if self._is_clear:
            self._plan(folders)
        else:
            self._held[path] = list(folders)
            _limit(self._held, _HELD)

    def _follows(self, path: Path, pid: int) -> bool:
        """Whether the same program had opened the folder above."""
        return bool(path) and self._opened.get(path[:-1]) == pid

    def fetched(self, path: Path, folders: Iterable[Path], now: float) -> None:
        """Note that ``path`` was prefetched: its subfolders come next."""
        self._fetching.discard(path)
        if not self._is_clear:
            return
        if path not in self._opened:
            self._unused[path] = now
        self._plan(folders)

    def failed(self, path: Path) -> None:
        """Note that the prefetch of ``path`` failed."""
        self._fetching.discard(path)

    def next(self, now: float) -> Path | None:
        """Return what to prefetch now; None: nothing, or the window is full."""
        self._end_if_stopped(now)
        if len(self._unused) + len(self._fetching) >= self._window.size:
            return None
        while self._planned:
            path = self._planned.popleft()
            if path not in self._opened and path not in self._unused:
                self._fetching.add(path)
                return path
        return None

    def _learn(self, path: Path) -> None:
        """Learn in which order the folders beside ``path`` are opened."""
        before = self._last.pop(path[:-1], None)
        self._last[path[:-1]] = path
        _limit(self._last, _REMEMBERED)
        if before is None:
            return
        for order, key in enumerate(self._keys):
            is_after = key(before) < key(path)
            self._runs[order] = self._runs[order] + 1 if is_after else 0
        best = self._runs.index(max(self._runs))
        if self._runs[best] > self._runs[self._order]:
            self._order = best
            self._sort()

    def _sort(self) -> None:
        groups: dict[Path, list[Path]] = {}
        for path in self._planned:
            groups.setdefault(path[:-1], []).append(path)
        self._planned = deque(
            path
            for group in groups.values()
            for path in sorted(group, key=self._keys[self._order])
        )

    def _plan(self, folders: Iterable[Path]) -> None:
        # Depth first, as find(1), rsync and git go.
        listed = list(folders)
        self._index.update((path, at) for at, path in enumerate(listed))
        _limit(self._index, 2 * MAX_PLANNED)
        listed.sort(key=self._keys[self._order])
        self._planned.extendleft(reversed(listed))
        while len(self._planned) > MAX_PLANNED:
            self._planned.pop()

    def _end_if_stopped(self, now: float) -> None:
        wasted = [
            path for path, at in self._unused.items() if now - at > self._lifetime_s
        ]
        for path in wasted:
            del self._unused[path]
        if wasted:
            self._window.narrow()
        if self.is_over(now):
            self._is_clear = False
            self._planned.clear()
            self._unused.clear()
            self._opened.clear()
            self._held.clear()
            self._index.clear()
            self._last.clear()


def _limit(table: dict[Path, V], most: int) -> None:
    """Drop the oldest of ``table`` beyond ``most``."""
    while len(table) > most:
        del table[next(iter(table))]


# Prefetches in flight for one target.
OUTSTANDING: Final = 32
# A target, and the user and group of the program: modes decide by them.
_Walker = tuple[Target, int, int]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is prefetched, for the audit: a program, in a folder."""

    caller: Caller
    folder: Inode


@dataclass(frozen=True, slots=True)
class ListingFetch:
    """One prefetch, and the device's handle that it uses."""

    place: FolderPath
    flight: Flight[ListedDirectory]
    reason: Reason
    use: HandleUse


class ListingPrefetch:
    """Prefetches the next folders of a walk, and a folder with many lookups."""

    def __init__(
        self,
        shared: Shared,
    ) -> None:
        self._inodes = shared.inodes
        self._known = shared.coherence.known
        self._listings = shared.listings
        self._remote = shared.remote
        self._shown = shared.attributes
        self._background = shared.background
        self._recorder = shared.recorder
        self._walks: dict[_Walker, Walk] = {}
        self._watched: set[_Walker] = set()
        self._outstanding: Counter[Target] = Counter()

    def opened(self, inode: Inode, listed: ListedDirectory, caller: Caller) -> None:
        """Note that a program opened a directory; prefetch what follows."""
        lifetime_s = self._known.lifetime_s(inode)
        place = self._place(inode, lifetime_s)
        if place is None:
            return
        target, path = place
        walker = _walker(target, caller)
        walk = self._walks.get(walker)
        if walk is None:
            number = partial(self._inodes.number_of, tuple(self._top(inode)))
            walk = Walk(lifetime_s, number)
            self._walks[walker] = walk
            if walker not in self._watched:
                self._watched.add(walker)
                self._background.spawn(self._watch, walker)
        folders: list[Path] = []
        if self._shown.allows_on(caller, inode, os.X_OK):
            folders = self._folders(place, listed.entries, caller)
        walk.opened(path, caller.pid, folders, trio.current_time())
        self._pump(target, Reason(caller, inode))

    def missed(self, parent: Inode, caller: Caller) -> None:
        """Note a lookup that went to the device; list the folder if that pays."""
        lifetime_s = self._known.lifetime_s(parent)
        place = self._place(parent, lifetime_s)
        if place is None or not self._shown.allows_on(caller, parent, os.R_OK):
            return
        walk = self._walks.get(_walker(place[0], caller))
        is_due = self._known.missed(place, lifetime_s)
        is_due = is_due or (walk is not None and walk.is_clear)
        if not is_due or self._listings.is_known(place):
            return
        if quota := self._room(place[0]):
            self._start(place, Reason(caller, parent), None, quota.begin())

    def is_walked(self, folder: Inode, caller: Caller, pause_s: float) -> bool:
        """Whether ``caller`` walks this target, without a pause until now."""
        if folder.target is None:
            return False
        walk = self._walks.get(_walker(folder.target, caller))
        now = trio.current_time()
        return walk is not None and walk.is_of(caller.pid, now - pause_s)

    def closed(self, target: Target) -> None:
        """Forget all walks of a session that is over."""
        for walker in [walker for walker in self._walks if walker[0] == target]:
            del self._walks[walker]

    async def _watch(self, walker: _Walker) -> None:
        """Forget the walk once it has stopped: it holds names of the device."""
        lifetime_s = self._remote.view(walker[0]).attr_timeout_s
        while walker in self._walks:
            await trio.sleep(lifetime_s)
            self._forget_stopped(walker)
        self._watched.discard(walker)

    def _forget_stopped(self, walker: _Walker) -> None:
        walk = self._walks.get(walker)
        if walk is not None and walk.is_over(trio.current_time()):
            del self._walks[walker]

    def _top(self, inode: Inode) -> Sequence[Name]:
        return self._inodes.components(inode)[:2]

    def _place(self, inode: Inode, lifetime_s: float) -> FolderPath | None:
        if inode.target is None or not lifetime_s:
            return None
        if self._remote.view(inode.target).ahead is Ahead.OFF:
            return None
        return self._known.place(inode)

    def _pump(self, target: Target, reason: Reason) -> None:
        walk = self._walks.get(_walker(target, reason.caller))
        while walk is not None and (quota := self._room(target)):
            path = walk.next(trio.current_time())
            if path is None:
                return
            if self._listings.is_known((target, path)):
                walk.failed(path)
            else:
                self._start((target, path), reason, walk, quota.begin())

    def _room(self, target: Target) -> HandleQuota | None:
        """Return the handle quota if one more prefetch may start; else None."""
        tree = self._remote.ready(target)
        if tree is None or self._outstanding[target] >= OUTSTANDING:
            return None
        quota = self._remote.quota(target, tree)
        return quota if quota.has_room else None

    def _start(
        self, place: FolderPath, reason: Reason, walk: Walk | None, use: HandleUse
    ) -> None:
        self._outstanding[place[0]] += 1
        fetch = ListingFetch(place, self._listings.expect(place), reason, use)
        self._background.spawn(self._fetch, fetch, walk)

    async def _fetch(self, fetch: ListingFetch, walk: Walk | None) -> None:
        (target, path), caller = fetch.place, fetch.reason.caller
        listed: ListedDirectory | None = None
        try:
            with fetching(target, "a listing"), fetch.use.late:
                listed = await self._list(fetch)
        finally:
            fetch.use.end()
            self._outstanding[target] -= 1
        if walk is not None and self._walks.get(_walker(target, caller)) is walk:
            if listed is None:
                walk.failed(path)
            else:
                folders = self._folders(fetch.place, listed.entries, caller)
                walk.fetched(path, folders, trio.current_time())
            self._pump(target, fetch.reason)

    async def _list(self, fetch: ListingFetch) -> ListedDirectory:
        (target, path), reason = fetch.place, fetch.reason
        with (
            self._recorder.listing_ahead(reason.caller, reason.folder, path),
            trio.fail_after(self._remote.view(target).request_timeout_s),
        ):
            try:
                return await self._listings.fetch(fetch.place, fetch.flight)
            except RemoteError as exc:
                fetch.use.quota.refused(fetch.use, exc)
                raise

    def _folders(
        self, place: FolderPath, entries: Iterable[Entry], caller: Caller
    ) -> list[Path]:
        """Return the folders that ``caller`` may walk, in the order of ``entries``."""
        target, path = place
        return [
            (*path, Name(entry.name))
            for entry in entries
            if stat.S_ISDIR(entry.attrs.mode)
            and self._shown.allows(caller, target, entry.attrs, os.R_OK | os.X_OK)
        ]


def _walker(target: Target, caller: Caller) -> _Walker:
    return target, caller.uid, caller.gid
