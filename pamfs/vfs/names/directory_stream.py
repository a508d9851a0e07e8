"""One open directory as a program reads it: each entry has a number of its own.

Law: an entry keeps its number while it is in the folder, and a number is never used
again, so seekdir(telldir()) comes back to the same entry. A listing that is made anew
keeps the order of what was there before, and new entries come behind. What is changed
here meanwhile wins over a listing that was asked for before. Nothing here waits.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pamfs.model import Attrs, Entry, Name
from pamfs.vfs.names.dentries import ListedDirectory

# The numbers of "." and ".."; the first entry follows.
DOTS: Final = {Name(b"."): 1, Name(b".."): 2}
_FIRST: Final = 3
# The first read may use the listing made by opendir for this long, even without a
# cache.
_OPENED_S: Final = 1.0
# Most entries that are returned after a seek.
_AFTER_SEEK: Final = 16
_ALL: Final = 1 << 20
# Changes that are kept beside those of the entries that are shown.
_MOST_CHANGES: Final = 4096


@dataclass(frozen=True, slots=True)
class Item:
    """An entry to show; without ``is_sure`` its attributes may be out of date."""

    name: Name
    attrs: Attrs
    number: int
    at: float
    is_sure: bool


@dataclass(slots=True)
class _NameChange:
    """A change of one name. ``is_there`` None: only the attributes are in doubt.

    With ``must_list`` only a new listing decides.
    """

    is_there: bool | None = None
    attrs: Attrs | None = None
    at: float = 0.0
    is_sure: bool = False
    must_list: bool = False


NameChanges = dict[Name, _NameChange]


@dataclass(slots=True, eq=False)
class DirectoryStream:
    """The entries of one open directory, as of its last listing and since."""

    is_read: bool = False
    until: float = 0.0
    _at: float = 0.0
    _entries: list[Entry] = field(default_factory=list)
    _numbers: Sequence[int] = ()
    _next: int = _FIRST
    # What was changed here since the last listing, and since those under way began.
    _changes: NameChanges = field(default_factory=dict)
    _under_way: list[NameChanges] = field(default_factory=list)
    # Names that were removed here, and the last number that was given out then.
    _gone: dict[Name, int] = field(default_factory=dict)
    # Changes were dropped that only a new listing shows.
    _is_partial: bool = False
    # Where the last read ended, and how many entries the next one may get.
    _read_to: int = 0
    _most: int = 0
    # How many are returned after a seek: fewer for a program that seeks each time.
    _after_seek: int = _AFTER_SEEK
    _has_sought: bool = False

    # -- changes that were made here -------------------------------------

    def put(self, name: Name, attrs: Attrs, at: float) -> None:
        """Note that ``name`` is there, as it was seen ``at``."""
        for changes in (self._changes, *self._under_way):
            before = changes.get(name)
            if before is None or before.attrs is None or before.at <= at:
                changes[name] = _NameChange(
                    is_there=True, attrs=attrs, at=at, is_sure=True
                )
        self._bound()

    def doubt(self, name: Name) -> None:
        """Note that the attributes of ``name`` are not known any more."""
        for changes in (self._changes, *self._under_way):
            changes.setdefault(name, _NameChange()).is_sure = False
        self._bound()

    def take(
        self, name: Name, at: float = math.inf, *, must_list: bool = False
    ) -> None:
        """Note that ``name`` is gone; with ``must_list`` a new listing decides.

        An entry that was seen after ``at`` stays.
        """
        for changes in (self._changes, *self._under_way):
            before = changes.get(name)
            if before is None or before.at <= at:
                changes[name] = _NameChange(is_there=False, must_list=must_list)
                if changes is self._changes:
                    self._gone[name] = self._next - 1
        self._bound()

    def forget(self, name: Name) -> None:
        """Note that ``name`` may be there, or not."""
        for changes in (self._changes, *self._under_way):
            changes[name] = _NameChange(must_list=True)
        self._bound()

    def _bound(self) -> None:
        """Limit the memory: drop the changes of names that are not shown.

        A new listing shows them.

        A folder may be held open for days and never be read again.
        """
        if len(self._changes) <= _MOST_CHANGES + len(self._entries):
            return
        kept = [
            (entry, number)
            for entry, number in zip(self._entries, self._numbers, strict=True)
            if self._is_current(entry.name, number)
        ]
        self._entries = [entry for entry, _ in kept]
        self._numbers = [number for _, number in kept]
        shown = {entry.name for entry in self._entries}
        changes = self._changes.items()
        self._changes = {name: change for name, change in changes if name in shown}
        self._gone = {}
        self._is_partial = True

    # -- listings --------------------------------------------------------

    def begin(self) -> NameChanges:
        """Note that the directory is being listed; ``end`` follows."""
        changes: NameChanges = {}
        self._under_way.append(changes)
        return changes

    def end(self, changes: NameChanges) -> None:
        """Note that the listing of ``begin`` is over."""
        self._under_way = [other for other in self._under_way if other is not changes]

    def show(self, listed: ListedDirectory, changes: NameChanges) -> None:
        """Show ``listed``, and ``changes`` over it."""
        self._at, self.until = listed.at, listed.until
        self._is_partial = False
        if not self._entries:
            self._entries = list(listed.entries)
            self._numbers = range(self._next, self._next + len(self._entries))
            self._next += len(self._entries)
        else:
            self._merge({entry.name: entry for entry in listed.entries})
        self._changes = dict(changes)
        # The listing may have begun before the removal, and still hold the name.
        removed = [name for name, change in changes.items() if change.is_there is False]
        self._gone = dict.fromkeys(removed, self._next - 1)
        self._add_made()

    def _merge(self, found: dict[Name, Entry]) -> None:
        kept = [
            (found.pop(entry.name), number)
            for entry, number in zip(self._entries, self._numbers, strict=True)
            if entry.name in found and self._is_current(entry.name, number)
        ]
        self._entries = [entry for entry, _ in kept]
        self._numbers = [number for _, number in kept]
        self._append(list(found.values()))

    def _is_current(self, name: Name, number: int) -> bool:
        """Whether ``number`` is of a name that was not removed here since.

        A name that is made again is another entry, behind all others: what was read
        once must still come behind the same number.
        """
        return number > self._gone.get(name, -1)

    def _append(self, entries: Sequence[Entry]) -> None:
        if entries:
            numbers = range(self._next, self._next + len(entries))
            self._next += len(entries)
            self._entries += entries
            self._numbers = [*self._numbers, *numbers]

    def _add_made(self) -> None:
        """Show behind all others what was made here and is not listed."""
        made = {
            name: Entry(name, change.attrs)
            for name, change in self._changes.items()
            if change.is_there and change.attrs and change.at >= self._at
        }
        if made:
            for entry, number in zip(self._entries, self._numbers, strict=True):
                if self._is_current(entry.name, number):
                    made.pop(entry.name, None)
            self._append(list(made.values()))

    def clear(self) -> None:
        """Drop what was listed."""
        self._entries, self._numbers, self._changes = [], (), {}
        self._gone = {}

    # -- reading ---------------------------------------------------------

    def start(self, now: float) -> bool:
        """Begin to read from the start.

        Return False if the directory must be listed again first.
        """
        if (
            self.is_read
            or self._is_partial
            or now >= max(self.until, self._at + _OPENED_S)
        ):
            return False
        if any(change.must_list for change in self._changes.values()):
            return False
        unlisted = {n for n, c in self._changes.items() if c.is_there is None}
        if unlisted and unlisted.difference(entry.name for entry in self._entries):
            return False
        self._add_made()
        return True

    def read_on(self, now: float, lifetime_s: float) -> None:
        """Keep the listing for ``lifetime_s`` from ``now``: it is being read.

        ``ls -l`` of a large folder would ask for each name otherwise.
        """
        if now < self.until:
            self.until = now + lifetime_s

    def items(self, start: int) -> Iterator[Item]:
        """Yield the entries behind number ``start``."""
        for index in range(
            bisect.bisect_right(self._numbers, start), len(self._entries)
        ):
            entry, number = self._entries[index], self._numbers[index]
            change = self._changes.get(entry.name)
            if not self._is_current(entry.name, number):
                continue
            if change is None:
                yield Item(entry.name, entry.attrs, number, self._at, is_sure=True)
            elif change.is_there is not False:
                newer = change.attrs if change.at >= self._at else None
                at = self._at if newer is None else change.at
                yield Item(entry.name, newer or entry.attrs, number, at, change.is_sure)

    def most(self, start: int) -> int:
        """Return how many entries a read at ``start`` should get at most.

        A program that seeks again before it has read them all gets half as many.
        """
        has_sought = start not in {0, self._read_to}
        if start == 0:
            self._most = _ALL
        elif has_sought:
            if self._has_sought:
                self._after_seek = max(1, self._after_seek // 2)
            self._most = self._after_seek
        else:
            if self._has_sought:
                self._after_seek = min(2 * self._after_seek, _AFTER_SEEK)
            self._most = min(2 * self._most, _ALL)
        self._has_sought = has_sought
        return self._most

    def was_read_to(self, number: int) -> None:
        """Note where a read ended."""
        self._read_to = number
