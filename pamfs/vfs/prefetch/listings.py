"""Listings that are fetched before a program asks for them.

Law: only in a session that is open, never more than so many at once, and never in
a request's way: nothing here is waited for, but by whoever wants that same listing.
Each is recorded as read ahead, as done for one user: nothing is that the shown mode
denies him.
"""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from pamfs.config import Ahead
from pamfs.errors import PamfsError, RemoteError
from pamfs.model import Caller, Entry, Name, Target
from pamfs.tasks import Flight
from pamfs.vfs.audit_records import Recorder
from pamfs.vfs.background import Background
from pamfs.vfs.names.dentries import Listed, Path, Place
from pamfs.vfs.names.inodes import Inode
from pamfs.vfs.nodes import Nodes
from pamfs.vfs.prefetch.walks import Walk
from pamfs.vfs.quota import Quota, Use

log = logging.getLogger(__name__)

# Listings ahead on their way to one target.
OUTSTANDING: Final = 32
# A target, and the user and group of those who walk there.
_Whose = tuple[Target, int, int]


@dataclass(frozen=True, slots=True)
class Reason:
    """For whom something is fetched ahead: a program, and the target's folder."""

    caller: Caller
    folder: Inode


@dataclass(frozen=True, slots=True)
class Fetch:
    """One listing that is fetched ahead, and the handle that it uses."""

    place: Place
    flight: Flight[Listed]
    reason: Reason
    use: Use


class Crawler:
    """Lists the next folders of a walk, and a folder where names are looked up."""

    def __init__(
        self,
        nodes: Nodes,
        background: Background,
        recorder: Recorder,
    ) -> None:
        self._inodes = nodes.inodes
        self._listings = nodes.listings
        self._reach = nodes.reach
        self._shown = nodes.shown
        self._background = background
        self._recorder = recorder
        self._walks: dict[_Whose, Walk] = {}
        self._watched: set[_Whose] = set()
        self._outstanding: Counter[Target] = Counter()

    def opened(self, inode: Inode, listed: Listed, caller: Caller) -> None:
        """Note that a program opened a directory, and fetch what it will want."""
        place = self._place(inode)
        if place is None:
            return
        target, path = place
        whose = _whose(target, caller)
        walk = self._walks.get(whose)
        if walk is None:
            number = partial(self._inodes.number_of, tuple(self._top(inode)))
            walk = Walk(self._listings.lifetime_s(inode), number)
            self._walks[whose] = walk
            if whose not in self._watched:
                self._watched.add(whose)
                self._background.spawn(self._watch, whose)
        folders: list[Path] = []
        if self._shown.allows_on(caller, inode, os.X_OK):
            folders = self._folders(place, listed.entries, caller)
        walk.opened(path, caller.pid, folders, trio.current_time())
        self._pump(target, Reason(caller, inode))

    def missed(self, parent: Inode, caller: Caller) -> None:
        """Note that a name had to be asked for; list its folder if that pays."""
        place = self._place(parent)
        if place is None or not self._shown.allows_on(caller, parent, os.R_OK):
            return
        walk = self._walks.get(_whose(place[0], caller))
        is_due = self._listings.dentries.missed(
            place, self._listings.lifetime_s(parent)
        )
        is_due = is_due or (walk is not None and walk.is_clear)
        quota = self._room(place[0])
        if is_due and quota and not self._listings.is_known(place):
            self._start(place, Reason(caller, parent), None, quota.begin())

    def is_walked(self, folder: Inode, caller: Caller, pause_s: float) -> bool:
        """Whether ``caller`` walks this target, without a pause until now."""
        if folder.target is None:
            return False
        walk = self._walks.get(_whose(folder.target, caller))
        now = trio.current_time()
        return walk is not None and walk.is_of(caller.pid, now - pause_s)

    def closed(self, target: Target) -> None:
        """Forget what was going on in a session that is over."""
        for whose in [whose for whose in self._walks if whose[0] == target]:
            del self._walks[whose]

    async def _watch(self, whose: _Whose) -> None:
        """Forget the walk once it has stopped: it remembers what there is."""
        lifetime_s = self._reach.view(whose[0]).attr_timeout_s
        while whose in self._walks:
            await trio.sleep(lifetime_s)
            self._forget_stopped(whose)
        self._watched.discard(whose)

    def _forget_stopped(self, whose: _Whose) -> None:
        walk = self._walks.get(whose)
        if walk is not None and walk.is_over(trio.current_time()):
            del self._walks[whose]

    def _top(self, inode: Inode) -> Sequence[Name]:
        return self._inodes.components(inode)[:2]

    def _place(self, inode: Inode) -> Place | None:
        if inode.target is None or not self._listings.lifetime_s(inode):
            return None
        if self._reach.view(inode.target).ahead is Ahead.OFF:
            return None
        return self._listings.place(inode)

    def _pump(self, target: Target, reason: Reason) -> None:
        walk = self._walks.get(_whose(target, reason.caller))
        while walk is not None and (quota := self._room(target)):
            path = walk.next(trio.current_time())
            if path is None:
                return
            if self._listings.is_known((target, path)):
                walk.failed(path)
            else:
                self._start((target, path), reason, walk, quota.begin())

    def _room(self, target: Target) -> Quota | None:
        """Return the handles of ``target`` if one more may be used ahead."""
        tree = self._reach.ready(target)
        if tree is None or self._outstanding[target] >= OUTSTANDING:
            return None
        quota = self._reach.quota(target, tree)
        return quota if quota.has_room else None

    def _start(self, place: Place, reason: Reason, walk: Walk | None, use: Use) -> None:
        self._outstanding[place[0]] += 1
        fetch = Fetch(place, self._listings.expect(place), reason, use)
        self._background.spawn(self._fetch, fetch, walk)

    async def _fetch(self, fetch: Fetch, walk: Walk | None) -> None:
        (target, path), caller = fetch.place, fetch.reason.caller
        listed: Listed | None = None
        try:
            with fetch.use.late:
                listed = await self._list(fetch)
        except (PamfsError, trio.TooSlowError) as exc:
            log.debug("%s: not listed ahead: %s", target, exc)
            if isinstance(exc, RemoteError):
                fetch.use.quota.refused(fetch.use, exc)
        except Exception:
            # A background task of ours must not end the mount.
            log.exception("%s: listing ahead failed", target)
        finally:
            fetch.use.end()
            self._outstanding[target] -= 1
        if walk is not None and self._walks.get(_whose(target, caller)) is walk:
            if listed is None:
                walk.failed(path)
            else:
                folders = self._folders(fetch.place, listed.entries, caller)
                walk.fetched(path, folders, trio.current_time())
            self._pump(target, fetch.reason)

    async def _list(self, fetch: Fetch) -> Listed:
        (target, path), reason = fetch.place, fetch.reason
        with (
            self._recorder.listing_ahead(reason.caller, reason.folder, path),
            trio.fail_after(self._reach.view(target).request_timeout_s),
        ):
            return await self._listings.fetch(fetch.place, fetch.flight)

    def _folders(
        self, place: Place, entries: Iterable[Entry], caller: Caller
    ) -> list[Path]:
        """Return the folders that ``caller`` may walk, in the order of ``entries``."""
        target, path = place
        return [
            (*path, Name(entry.name))
            for entry in entries
            if stat.S_ISDIR(entry.attrs.mode)
            and self._shown.allows(caller, target, entry.attrs, os.R_OK | os.X_OK)
        ]


def _whose(target: Target, caller: Caller) -> _Whose:
    return target, caller.uid, caller.gid
