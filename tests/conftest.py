"""What every test is held to: quiet logs and nothing left open.

A warning or worse from ``pamfs`` fails the test unless the test said it would
come, and a file descriptor or a child process that a test leaves behind fails
it too.
"""

from __future__ import annotations

import gc
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

settings.register_profile(
    "quick",
    # A loaded machine is no reason for a property to be false.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.register_profile(
    "nightly", parent=settings.get_profile("quick"), max_examples=20_000
)
# `make mutants`: that there is a counterexample is enough, it need not be short.
settings.register_profile(
    "mutants",
    parent=settings.get_profile("quick"),
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


class LogLedger(logging.Handler):
    """The warnings of one test, and those that it announced.

    Call it with a regular expression to announce a record; what was announced
    and did not come fails the test as well.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._records: list[logging.LogRecord] = []
        self._expected: list[re.Pattern[str]] = []

    def __call__(self, pattern: str) -> None:
        self._expected.append(re.compile(pattern))

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)

    def count(self, pattern: str) -> int:
        """Return how many records say ``pattern``."""
        said = [record.getMessage() for record in self._records]
        return sum(bool(re.search(pattern, text)) for text in said)

    def complaints(self) -> list[str]:
        """Return what came unannounced and what was announced in vain."""
        said = [record.getMessage() for record in self._records]
        surprises = [
            f"unexpected {record.levelname} of {record.name}: {record.getMessage()}"
            for record in self._records
            if not any(p.search(record.getMessage()) for p in self._expected)
        ]
        missing = [
            f"expected in the log, and not there: {pattern.pattern}"
            for pattern in self._expected
            if not any(pattern.search(text) for text in said)
        ]
        return surprises + missing


@pytest.fixture(autouse=True)
def expect_log() -> Iterator[LogLedger]:
    """Fail the test on a warning that it did not announce."""
    ledger = LogLedger()
    logger = logging.getLogger("pamfs")
    logger.addHandler(ledger)
    try:
        yield ledger
    finally:
        logger.removeHandler(ledger)
    if complaints := ledger.complaints():
        pytest.fail("\n".join(complaints))


@pytest.fixture(autouse=True)
def leak_ledger() -> Iterator[None]:
    """Fail the test if it leaves a file descriptor or a child process."""
    files, children = open_files(), child_processes()
    yield
    left = open_files() - files
    if left:  # what only the cyclic collector frees is no leak yet
        gc.collect()
        left = open_files() - files
    orphans = child_processes() - children
    if left or orphans:
        named = [f"file descriptor {fd} -> {what}" for fd, what in sorted(left)]
        named += [f"child process {pid}" for pid in sorted(orphans)]
        pytest.fail("left open: " + ", ".join(named))


def open_files() -> set[tuple[int, str]]:
    """Return our file descriptors, each with what it refers to."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add((int(entry.name), str(entry.readlink())))
        except FileNotFoundError:
            continue  # the descriptor that listed the folder
    return found


def child_processes() -> set[int]:
    """Return the pids of our children, those not yet reaped included."""
    pids: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            pids.update(map(int, (task / "children").read_text().split()))
        except FileNotFoundError:
            continue  # the thread has ended
    return pids
