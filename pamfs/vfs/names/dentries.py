"""Cache of names and attributes from the listings of the devices, with a TTL.

State: one listing for each folder, found by its path below the target; a fact for each
name in it (attributes and their time, or "absent", or "unknown"); and the listings that
are under way (``ListingInProgress``). Nothing here waits and nothing here does I/O: the
clock is the caller's. Only ``vfs.coherence`` changes this state, when the device has
answered.

Invariant: a fact is never older than the last change of that name through this mount. A
listing that was requested before such a change, and arrives after it, is merged with
the change (``ListingInProgress.changed``), or dropped when the folder itself was
removed or renamed (``ListingInProgress.is_void``). A change that failed may still have
happened, so the name becomes unknown and the next lookup asks the device.

A renamed folder keeps the listings below it: folders are a tree, and the subtree is
moved. The names count in the budget; a listing that finds no room is not kept, and
under pressure the listing that came first is evicted first.

Negative entries: a name that a fresh listing lacks may have been made on the device
since, so the device is asked. One program that looks up many absent names in a row
(``git status``, ``cp -r``, ``rsync``) is an exception: after ``RUN`` answers of
ENOENT the listing is believed, while the program goes on without a pause, and until
the device contradicts a listing (``AbsentRuns``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pamfs.model import Attrs, Entry, Name, Target
from pamfs.vfs.background import Budget

# Names kept at most: the oldest listings are evicted first.
NAMES_MAX: Final = 50_000
# Memory of a name with its attributes, an estimate; a listing itself as much.
NAME_BYTES: Final = 500
# Lookups in one folder within a TTL after which its listing is prefetched.
LOOKUPS: Final = 3
# Folders in which lookups are counted.
_COUNTED: Final = 64

# Where a folder is: the names from the target's own folder down.
Path = tuple[Name, ...]
FolderPath = tuple[Target, Path]


@dataclass(frozen=True, slots=True)
class Dentry:
    """What is known of a name at the time ``at``; ``attrs`` is None for an absent name.

    ``is_answer`` of an absent name: True if the device answered ENOENT for it, False if
    the listing only lacks it.
    """

    attrs: Attrs | None
    at: float
    until: float
    is_answer: bool = True


@dataclass(frozen=True, slots=True)
class ListedDirectory:
    """A directory's entries as of ``at``, taken for true until ``until``."""

    entries: Sequence[Entry]
    at: float
    until: float


# What is known of one name. A listing that lacks the name altogether says "not listed",
# which is weaker than "gone": the device is asked then, but for a run of absent names.
#   (attrs, at)   the name is there, with these attributes as of ``at``
#   (None, at)    the device, asked for this very name at ``at``, said ENOENT
#   None          unknown: a change of it failed, or two answers contradict; ask
_Fact = tuple[Attrs | None, float] | None


@dataclass(slots=True, eq=False)
class _KeptListing:
    target: Target
    names: dict[Name, _Fact]
    at: float
    until: float
    held_bytes: int  # of the budget
    # When each name became unknown; an ENOENT to an earlier request is ignored.
    unknown_at: dict[Name, float] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Folder:
    """A folder in the tree; without a listing it leads to folders that have one."""

    parent: _Folder | None
    name: Name
    listing: _KeptListing | None = None
    below: dict[Name, _Folder] = field(default_factory=dict)

    def child(self, name: Name) -> _Folder:
        """Return the folder ``name``, made if need be."""
        if name not in self.below:
            self.below[name] = _Folder(self, name)
        return self.below[name]

    def cut(self) -> None:
        """Take it off the folder above."""
        if self.parent is not None:
            del self.parent.below[self.name]
            self.parent = None

    def hang(self, parent: _Folder, name: Name) -> None:
        """Put it below another folder, which has no ``name`` yet."""
        self.cut()
        self.parent, self.name = parent, name
        parent.below[name] = self


@dataclass(slots=True, eq=False)
class ListingInProgress:
    """A listing that is under way, and what we changed there meanwhile."""

    place: FolderPath
    at: float
    changed: dict[Name, _Fact] = field(default_factory=dict)
    unknown_at: dict[Name, float] = field(default_factory=dict)
    is_void: bool = False


class Dentries:
    """The listings of all targets, with the changes made here merged in."""

    def __init__(self, clock: Callable[[], float], names_max: int = NAMES_MAX) -> None:
        self._clock = clock
        self._names_max = names_max
        self._roots: dict[Target, _Folder] = {}
        self._readings: list[ListingInProgress] = []
        # Every folder with a listing, the oldest at the front.
        self._listed: dict[_Folder, None] = {}
        self._count = 0
        self._budget = Budget()
        # Lookups that no listing answered, and when the last one was.
        self._misses: dict[FolderPath, tuple[int, float]] = {}

    @property
    def count(self) -> int:
        """Return how many names are kept."""
        return self._count

    @property
    def held_bytes(self) -> int:
        """Return how much of the budget that is."""
        return sum(f.listing.held_bytes for f in self._listed if f.listing is not None)

    def count_in(self, budget: Budget) -> None:
        """Count what is kept in ``budget``; nothing is kept yet."""
        self._budget = budget
        budget.on_pressure(self._evict)

    # -- what is known ---------------------------------------------------

    def find(self, place: FolderPath, name: Name) -> Dentry | None:
        """Return the fact about ``name`` in a fresh listing of ``place``, or None."""
        listing = self._fresh(place)
        if listing is None:
            return None
        if name not in listing.names:
            return Dentry(None, listing.at, listing.until, is_answer=False)
        fact = listing.names[name]
        return None if fact is None else Dentry(*fact, listing.until)

    def listed(self, place: FolderPath) -> ListedDirectory | None:
        """Return a whole fresh listing, or None."""
        listing = self._fresh(place)
        if listing is None:
            return None
        entries: list[Entry] = []
        for name, fact in listing.names.items():
            if fact is None:
                return None
            if fact[0] is not None:
                entries.append(Entry(name, fact[0]))
        return ListedDirectory(entries, listing.at, listing.until)

    def is_known(self, place: FolderPath) -> bool:
        """Whether a fresh listing of ``place`` is here, or under way."""
        return self._fresh(place) is not None or any(
            reading.place == place for reading in self._readings
        )

    def missed(self, place: FolderPath, within_s: float) -> bool:
        """Count a lookup that went to the device.

        Return whether to prefetch the listing.
        """
        now = self._clock()
        count, at = self._misses.pop(place, (0, now))
        count = count + 1 if now - at <= within_s else 1
        self._misses[place] = count, now
        if len(self._misses) > _COUNTED:
            del self._misses[next(iter(self._misses))]
        return count % LOOKUPS == 0

    # -- listings --------------------------------------------------------

    def begin(self, place: FolderPath) -> ListingInProgress:
        """Note that ``place`` is being listed; ``finish`` or ``abandon`` follows."""
        reading = ListingInProgress(place, self._clock())
        self._readings.append(reading)
        return reading

    def abandon(self, reading: ListingInProgress) -> None:
        """Note that a listing failed, or is not wanted any more."""
        if reading in self._readings:
            self._readings.remove(reading)

    def finish(
        self, reading: ListingInProgress, entries: Iterable[Entry], lifetime_s: float
    ) -> None:
        """Keep what was listed for ``lifetime_s``; what we changed since wins."""
        self.abandon(reading)
        if reading.is_void:
            return
        names: dict[Name, _Fact] = {e.name: (e.attrs, reading.at) for e in entries}
        for name, fact in reading.changed.items():
            _apply(names, name, fact)
        self._keep(reading.place, names, reading.at, lifetime_s)
        kept = self._listing(reading.place)
        if kept is not None:
            kept.unknown_at.update(reading.unknown_at)

    # -- our own changes, after the device has answered ------------------

    def put(
        self, place: FolderPath, name: Name, attrs: Attrs, at: float | None = None
    ) -> None:
        """Note that ``name`` is there, with the attributes that it had ``at``, or now.

        If a newer fact is known, either may be right, so the name becomes unknown.
        """
        # An answer that was asked for before a newer fact does not win by coming later,
        # nor does it lose for sure: the device may have worked on them in either order.
        since = self._clock() if at is None else at
        is_old = since < self._newest_at(place, name)
        self._change(place, name, None if is_old else (attrs, since))

    def made(
        self, place: FolderPath, name: Name, attrs: Attrs, lifetime_s: float
    ) -> None:
        """Note that the directory ``name`` was made: its listing is empty."""
        self._drop(_below(place, name))
        self.put(place, name, attrs)
        self._keep(_below(place, name), {}, self._clock(), lifetime_s)

    def removed(self, place: FolderPath, name: Name) -> None:
        """Note that ``name`` is gone."""
        self._change(place, name, (None, self._clock()))
        self._drop(_below(place, name))

    def missing(self, place: FolderPath, name: Name, at: float) -> None:
        """Note that the device answered ENOENT to a lookup sent at ``at``."""
        # ENOENT from before a change of this name proves nothing, also if that change
        # failed: it may have happened after the look (``_unknown_at``).
        if at >= max(self._unknown_at(place, name), self._newest_at(place, name)):
            self._change(place, name, (None, at), is_answer=True)

    def doubt(self, place: FolderPath, name: Name) -> None:
        """Make ``name`` unknown."""
        self._change(place, name, None)

    def close(self, place: FolderPath) -> None:
        """Drop what is known of ``place`` and all below it."""
        self._drop(place)

    def move(self, old: tuple[FolderPath, Name], new: tuple[FolderPath, Name]) -> None:
        """Note that the name ``old`` is ``new`` now, with all that is below it.

        If ``new`` existed, ``old`` may still exist: rename(2) does nothing if both are
        names of one file, and SFTP version 3 has no inode numbers to see that.
        """
        if old == new:
            return
        over = self.find(*new)
        is_gone = over is not None and over.attrs is None
        listing = self._fresh(old[0])
        attrs, at = (listing and listing.names.get(old[1])) or (None, 0.0)
        # A listing under way below ``old`` was requested by a path that has changed.
        self._void(_below(*old))
        self._drop(_below(*new))
        self._change(*old, (None, self._clock()) if is_gone else None)
        if attrs is None:
            self.doubt(*new)
        else:
            self.put(*new, attrs, at)
        # What was listed below moves with its folder: the paths are those of the tree.
        folder = self._find(_below(*old))
        if folder is not None and folder.parent is not None:
            above = folder.parent
            folder.hang(self._made(new[0]), new[1])
            self._prune(above)

    def forget(self, target: Target) -> None:
        """Drop everything that is known of ``target``."""
        self._drop((target, ()))

    # -- inside ----------------------------------------------------------

    def _find(self, place: FolderPath) -> _Folder | None:
        folder = self._roots.get(place[0])
        for name in place[1]:
            if folder is None:
                return None
            folder = folder.below.get(name)
        return folder

    def _made(self, place: FolderPath) -> _Folder:
        folder = self._roots.setdefault(place[0], _Folder(None, Name(b"")))
        for name in place[1]:
            folder = folder.child(name)
        return folder

    def _listing(self, place: FolderPath) -> _KeptListing | None:
        folder = self._find(place)
        return folder.listing if folder else None

    def _fresh(self, place: FolderPath) -> _KeptListing | None:
        listing = self._listing(place)
        return listing if listing and self._clock() < listing.until else None

    def _newest_at(self, place: FolderPath, name: Name) -> float:
        """Return the time of the newest fact about ``name``, here or under way."""
        told = [reading.at for reading in self._readings if reading.place == place]
        listing = self._listing(place)
        if listing is not None:
            fact = listing.names.get(name)
            told.append(listing.at if fact is None else fact[1])
        return max(told, default=-math.inf)

    def _unknown_at(self, place: FolderPath, name: Name) -> float:
        """Return when ``name`` last became unknown in a kept or running listing.

        -inf if in none.
        """
        holders = [r.unknown_at for r in self._readings if r.place == place]
        listing = self._listing(place)
        if listing is not None:
            holders.append(listing.unknown_at)
        return max((at[name] for at in holders if name in at), default=-math.inf)

    def _change(
        self, place: FolderPath, name: Name, fact: _Fact, *, is_answer: bool = False
    ) -> None:
        folder = self._find(place)
        if folder is not None and folder.listing is not None:
            if fact is None:
                folder.listing.unknown_at[name] = self._clock()
            before = len(folder.listing.names)
            if is_answer:
                folder.listing.names[name] = fact
            else:
                _apply(folder.listing.names, name, fact)
            # Weighing may evict this listing: nothing of it is used after that.
            more = len(folder.listing.names) - before
            self._count += more
            self._weigh(folder, folder.listing, more * NAME_BYTES)
        # A listing under way may have been read before the change or after it.
        for reading in self._readings:
            if reading.place == place:
                reading.changed[name] = fact
                if fact is None:
                    reading.unknown_at[name] = self._clock()

    def _keep(
        self, place: FolderPath, names: dict[Name, _Fact], at: float, lifetime_s: float
    ) -> None:
        self._misses.pop(place, None)
        old = self._find(place)
        if old is not None:
            self._unlist(old)
        self._sweep()
        target, nbytes = place[0], (1 + len(names)) * NAME_BYTES
        is_fit = lifetime_s > 0 and len(names) <= self._names_max
        if is_fit and self._budget.take(target, nbytes):
            until = self._clock() + lifetime_s
            folder = self._made(place)
            folder.listing = _KeptListing(target, names, at, until, nbytes)
            self._listed[folder] = None
            self._count += len(names)
            self._sweep()

    def _weigh(self, folder: _Folder, listing: _KeptListing, nbytes: int) -> None:
        """Add ``nbytes`` to the size of ``listing``; drop it if there is no room."""
        if nbytes > 0 and not self._budget.take(listing.target, nbytes):
            self._unlist(folder)
        elif nbytes > 0 and folder.listing is not listing:
            # Making that room evicted this very listing.
            self._budget.give_back(listing.target, nbytes)
        else:
            listing.held_bytes += nbytes
            if nbytes < 0:
                self._budget.give_back(listing.target, -nbytes)

    def _evict(self, target: Target) -> bool:
        """Evict the oldest listing of ``target``."""
        for folder in self._listed:
            if folder.listing is not None and folder.listing.target == target:
                self._unlist(folder)
                return True
        return False

    def _sweep(self) -> None:
        for folder in list(self._expired()):
            self._unlist(folder)
        while self._count > self._names_max:
            self._unlist(next(iter(self._listed)))

    def _expired(self) -> Iterator[_Folder]:
        # The oldest comes first; TTLs differ between targets, so one that is short may
        # stand behind a long one for a while. ``_fresh`` judges each by its own.
        now = self._clock()
        for folder in self._listed:
            if folder.listing is None or now < folder.listing.until:
                return
            yield folder

    def _unlist(self, folder: _Folder) -> None:
        if folder.listing is not None:
            listing, folder.listing = folder.listing, None
            self._count -= len(listing.names)
            self._budget.give_back(listing.target, listing.held_bytes)
            del self._listed[folder]
        self._prune(folder)

    @staticmethod
    def _prune(folder: _Folder) -> None:
        while folder.parent is not None and not folder.listing and not folder.below:
            above = folder.parent
            folder.cut()
            folder = above

    def _drop(self, place: FolderPath) -> None:
        """Drop what is known of ``place`` and all below it, and what is read there."""
        self._void(place)
        top = self._find(place)
        waiting = [top] if top else []
        while waiting:
            folder = waiting.pop()
            waiting.extend(folder.below.values())
            self._unlist(folder)

    def _void(self, place: FolderPath) -> None:
        target, path = place
        for reading in self._readings:
            if reading.place[0] == target and reading.place[1][: len(path)] == path:
                reading.is_void = True


def _below(place: FolderPath, name: Name) -> FolderPath:
    return place[0], (*place[1], name)


def _apply(names: dict[Name, _Fact], name: Name, fact: _Fact) -> None:
    if fact is not None and fact[0] is None:
        names.pop(name, None)
    else:
        names[name] = fact


# After this many absent names in a row a listing is believed.
RUN: Final = 3
# A run ends if the program sends nothing for this many round trips plus ``PAUSE_S``.
# That is enough to create a file and go on, and too short to run a command on the
# device.
PAUSE_ROUND_TRIPS: Final = 8
PAUSE_S: Final = 0.02
_REMEMBERED: Final = 64


def pause_s(round_trip_s: float) -> float:
    """Return how long a program may do nothing before it counts as pausing."""
    return PAUSE_S + PAUSE_ROUND_TRIPS * round_trip_s


class AbsentRuns:
    """Which programs look up many absent names at the moment.

    By process, since a shell starts one program after the other: none of them has a run
    from the one before. A run ends by a pause, by any name of the target that is there
    though its listing lacks it (``contradicted``), and with its entry's eviction.
    """

    def __init__(self) -> None:
        # How many names in a row, and until when the next one counts.
        self._runs: dict[tuple[Target, int], tuple[int, float]] = {}

    def is_run(self, target: Target, pid: int, now: float) -> bool:
        """Whether the program ``pid`` looks up many names now."""
        count, until = self._runs.get((target, pid), (0, 0.0))
        return count >= RUN and now < until

    def answered(self, target: Target, pid: int, now: float, pause: float) -> None:
        """Note that one more name was found to be absent, or was believed to be."""
        count, until = self._runs.pop((target, pid), (0, 0.0))
        self._runs[target, pid] = (count + 1 if now < until else 1, now + pause)
        if len(self._runs) > _REMEMBERED:
            del self._runs[next(iter(self._runs))]

    def contradicted(self, target: Target) -> None:
        """Note that the device has a name that a listing lacked.

        End all runs of ``target``.
        """
        for run in [run for run in self._runs if run[0] == target]:
            del self._runs[run]
