"""Whether a program is meant by one of the configured patterns."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from typing import Final

from pamfs.sessions.guard_process import Process

# The kernel keeps that much of a name (TASK_COMM_LEN of Linux, less its NUL).
COMM_LENGTH: Final = 15
_SHELLS: Final = frozenset(
    {"sh", "bash", "dash", "zsh", "ksh", "mksh", "fish", "tcsh", "csh", "nu", "elvish"}
)


def is_meant(names: Iterable[str], patterns: Sequence[str]) -> bool:
    """Whether one of ``patterns`` fits one of ``names``; the kernel's may be cut."""
    return any(_fits(name, pattern) for name in names for pattern in patterns)


def _fits(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern) or name == pattern[:COMM_LENGTH]


def is_person(process: Process, arguments: Sequence[bytes]) -> bool:
    """Whether this is a shell that a person types into, and not a script's.

    It has a terminal, and leads its session or was given no script to run.
    """
    if not process.has_terminal or not _SHELLS.intersection(process.names):
        return False
    given = arguments[1:]
    is_bare = all(not word or word.startswith(b"-") for word in given)
    return b"-c" not in given and (is_bare or process.pid == process.session)
