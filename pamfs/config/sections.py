"""One TOML table, read key by key; a key that was not read is unknown.

Law: reading a key never raises because of the file's content. It reports a problem and
returns the default, so that all problems of a file are found in one pass. No message
contains a value that could be a secret.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, TypeVar

from pamfs.errors import ConfigError

E = TypeVar("E", bound=Enum)

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)")
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TYPES: Final[tuple[tuple[type, str], ...]] = (
    (bool, "a boolean"),  # before int, whose subclass it is
    (int, "a number"),
    (float, "a number"),
    (str, "a text"),
    (list, "an array"),
    (dict, "a table"),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """The range of a number: ``low <= value <= high``; a duration is in seconds."""

    low: float
    high: float


class Section:
    """A table of the file, and the problems found in it so far."""

    def __init__(
        self,
        file: Path,
        key: str,
        table: Mapping[str, object],
        problems: list[ConfigError],
    ) -> None:
        self.file = file
        self.key = key
        self.problems = problems
        self._began = len(problems)
        self._table = table
        self._asked: dict[str, None] = {}

    def report(self, key: str, problem: str, hint: str = "") -> None:
        """Note that ``key`` of this table is wrong; ``""`` is the table itself."""
        self.problems.append(self._error(key, problem, hint))

    def _error(self, key: str, problem: str, hint: str) -> ConfigError:
        place = self.place_of(key) if key else self.key
        where = f"{self.file}: {place}" if place else str(self.file)
        return ConfigError(where, problem, hint)

    def place_of(self, key: str) -> str:
        """Return the full dotted name of ``key``."""
        quoted = key if _BARE_KEY.fullmatch(key) else repr(key)
        return f"{self.key}.{quoted}" if self.key else quoted

    def take(self, key: str) -> object:
        """Return the raw value of ``key``, or ``None`` if it is missing."""
        self._asked[key] = None
        return self._table.get(key)

    def keys(self) -> list[str]:
        """Return the keys of the table, in order."""
        return list(self._table)

    def text(self, key: str) -> str | None:
        """Return a text that is not empty."""
        value = self._of_type(key, str)
        if value == "":
            self.report(key, "is empty")
            return None
        return value if isinstance(value, str) else None

    def needed_text(self, key: str, example: str) -> str | None:
        """Return a text that must be there; ``example`` shows what is right."""
        if self.take(key) is None:
            self.report(key, "is missing", f"for example {key} = {example}")
        return self.text(key)

    def flag(self, key: str) -> bool:
        """Return a boolean; a missing one is false."""
        return self._of_type(key, bool) is True

    def number(self, key: str, default: int, limits: Limits) -> int:
        """Return a whole number within ``limits``."""
        value = self._of_type(key, int)
        if not isinstance(value, int):
            return default
        if not limits.low <= value <= limits.high:
            low, high = f"{limits.low:g}", f"{limits.high:g}"
            self.report(key, f"{value} is out of range", f"{low} to {high}")
            return default
        return value

    def choice(self, key: str, kind: type[E], default: E) -> E:
        """Return the member of ``kind`` with the given value."""
        value = self.text(key)
        if value is None:
            return default
        words = [str(member.value) for member in kind]
        if value not in words:
            self.report(
                key, f"{value!r} is not one of the choices", one_of(value, words)
            )
            return default
        return kind(value)

    def choices(self, key: str, kind: type[E]) -> frozenset[E]:
        """Return the members of ``kind`` that an array of texts names."""
        words = [str(member.value) for member in kind]
        value = self._of_type(key, list)
        if not isinstance(value, list):
            return frozenset()
        for one in value:
            if not isinstance(one, str):
                self.report(
                    key, "is not an array of texts", f'for example ["{words[0]}"]'
                )
                return frozenset()
            if one not in words:
                self.report(
                    key, f"{one!r} is not one of the choices", one_of(one, words)
                )
        return frozenset(kind(one) for one in value if one in words)

    def seconds(self, key: str, default: float, limits: Limits) -> float:
        """Return a duration in seconds, from a number or a text like ``15m``."""
        value = self.take(key)
        if value is None:
            return default
        seconds = parse_duration(value)
        if seconds is None:
            hint = 'seconds as a number, or a text like "15m" or "1h30m"'
            self.report(key, "is not a duration", hint)
            return default
        if not limits.low <= seconds <= limits.high:
            low, high = f"{limits.low:g}", f"{limits.high:g}"
            self.report(key, f"{seconds:g} s is out of range", f"{low} to {high} s")
            return default
        return seconds

    def path(self, key: str) -> Path | None:
        """Return a path; a relative one starts at the file's folder."""
        value = self.text(key)
        if value is None:
            return None
        if "\0" in value:
            self.report(key, "contains a NUL character")
            return None
        try:
            return self.file.absolute().parent / Path(value).expanduser()
        except RuntimeError:
            self.report(key, f"there is no home folder for {value.split('/')[0]!r}")
            return None

    def table(self, key: str) -> Section | None:
        """Return a table within this one."""
        value = self._of_type(key, dict)
        if not isinstance(value, dict):
            return None
        return Section(self.file, self.place_of(key), value, self.problems)

    def tables(self, key: str) -> list[Section]:
        """Return an array of tables, ``[[key]]``."""
        value = self.take(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            self.report(
                key, "is not an array of tables", f"write [[{self.place_of(key)}]]"
            )
            return []
        return [
            Section(self.file, f"{self.place_of(key)}[{index}]", row, self.problems)
            for index, row in enumerate(value)
        ]

    def finish(self) -> None:
        """Report the keys that were not read.

        They come first in their table: a misspelt key is why one is missing.
        """
        known = list(self._asked)
        self.problems[self._began : self._began] = [
            self._error(key, "is unknown", one_of(key, known))
            for key in self._table
            if key not in self._asked
        ]

    def _of_type(self, key: str, kind: type) -> object:
        value = self.take(key)
        if value is None or type(value) is kind:
            return value
        self.report(key, f"is {name_of_type(value)}, not {name_of_type(kind())}")
        return None


def one_of(word: str, words: list[str]) -> str:
    """Return the hint for ``word``: the nearest of ``words``, or all of them."""
    near = difflib.get_close_matches(word, words, n=1)
    return f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(words)


def name_of_type(value: object) -> str:
    """Return how TOML calls the type of ``value``."""
    for kind, name in _TYPES:
        if isinstance(value, kind):
            return name
    return "a date or time"


def parse_duration(value: object) -> float | None:
    """Return seconds from a number or a text like ``15m`` or ``1h30m``."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) else None
    if not isinstance(value, str) or not value:
        return None
    if re.sub(_DURATION, "", value):
        return None
    return sum(float(m[1]) * _UNIT_S[m[2]] for m in _DURATION.finditer(value))
