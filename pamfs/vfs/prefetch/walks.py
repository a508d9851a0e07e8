"""Where a program that walks a tree will look next, as its steps show it.

Law: nothing is planned before one program has opened a folder and then one in or
beside it. So many listings are fetched ahead as were used before, from a few on;
each that nobody came for halves that, and a walk that has stopped is forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from pamfs.vfs.names.dentries import Path

# Listings that nobody has asked for yet: at the beginning of a walk, and at most.
FIRST_WINDOW: Final = 8
MAX_WINDOW: Final = 256
# Folders that are waiting to be listed ahead, at most.
MAX_PLANNED: Final = 10_000
# Folders that programs opened last.
_REMEMBERED: Final = 256
_HELD: Final = 8

V = TypeVar("V")


class Walk:
    """What the programs that walk one target are doing, and what to list for them."""

    def __init__(
        self, lifetime_s: float, number: Callable[[Path], int] = lambda _: 0
    ) -> None:
        """Have ``number`` tell the inode number of a folder, by which some sort."""
        self._lifetime_s = lifetime_s
        # How programs may go through a folder, and how often in a row they did.
        self._keys: Sequence[Callable[[Path], tuple[int, bytes]]] = (
            lambda path: (self._index.get(path, 0), b""),
            lambda path: (0, path[-1]),
            lambda path: (number(path), b""),
        )
        self._runs = [0, 0, 0]
        self._order = 0
        self._last: dict[Path, Path] = {}
        self._index: dict[Path, int] = {}
        self._window = FIRST_WINDOW
        # Who opened which folder, the last one at the end.
        self._opened: dict[Path, int] = {}
        # What the last ones hold, until it is clear that it will be wanted.
        self._held: dict[Path, list[Path]] = {}
        self._opened_at = 0.0
        self._is_clear = False
        self._planned: deque[Path] = deque()
        self._fetching: set[Path] = set()
        # Listed ahead and not asked for, and when that was.
        self._unused: dict[Path, float] = {}

    @property
    def is_clear(self) -> bool:
        """Whether somebody walks here."""
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
            self._window = min(2 * self._window, MAX_WINDOW)
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
        """Note that ``path`` was listed ahead: what it holds comes next."""
        self._fetching.discard(path)
        if not self._is_clear:
            return
        if path not in self._opened:
            self._unused[path] = now
        self._plan(folders)

    def failed(self, path: Path) -> None:
        """Note that ``path`` could not be listed ahead."""
        self._fetching.discard(path)

    def next(self, now: float) -> Path | None:
        """Return what to list now, as being fetched; None: nothing, or enough is."""
        self._end_if_stopped(now)
        if len(self._unused) + len(self._fetching) >= self._window:
            return None
        while self._planned:
            path = self._planned.popleft()
            if path not in self._opened and path not in self._unused:
                self._fetching.add(path)
                return path
        return None

    def _learn(self, path: Path) -> None:
        """See in which order the folders beside ``path`` are opened."""
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
        # As a traversal goes: what a folder holds comes before what is beside it.
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
            self._window = max(self._window // 2, 1)
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
