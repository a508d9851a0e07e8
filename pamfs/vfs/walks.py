"""Where a program that walks a tree will look next, as its steps show it.

Law: nothing is planned before one program has opened a folder and then one in or
beside it. So many listings are fetched ahead as were used before, from a few on;
each that nobody came for halves that, and a walk that has stopped ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, TypeVar

from pamfs.vfs.dentries import Path

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

    def __init__(self, lifetime_s: float) -> None:
        self._lifetime_s = lifetime_s
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

    def opened(self, path: Path, pid: int, folders: Iterable[Path], now: float) -> None:
        """Note that a program opened ``path``, which holds ``folders``."""
        self._end_if_stopped(now)
        self._opened_at = now
        if self._unused.pop(path, None) is not None or path in self._fetching:
            self._window = min(2 * self._window, MAX_WINDOW)
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

    def _plan(self, folders: Iterable[Path]) -> None:
        # As a traversal goes: what a folder holds comes before what is beside it.
        self._planned.extendleft(reversed(list(folders)))
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
        if now - self._opened_at > self._lifetime_s:
            self._is_clear = False
            self._planned.clear()
            self._unused.clear()
            self._opened.clear()
            self._held.clear()


def _limit(table: dict[Path, V], most: int) -> None:
    """Drop the oldest of ``table`` beyond ``most``."""
    while len(table) > most:
        del table[next(iter(table))]
