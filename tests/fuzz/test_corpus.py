"""The checked-in inputs of every fuzz target: seeds, and what once failed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LogLedger
from tests.fuzz import scripted, texts
from tests.fuzz.run import load
from tests.fuzz.target import CORPUS, TARGETS

load()
CASES = sorted(CORPUS.glob("*/*"))


@pytest.fixture(autouse=True, scope="module")
def kept() -> Iterator[None]:
    """What the targets keep from one input to the next."""
    loop, folder = scripted.loop(), texts.folder()
    yield
    loop.close()
    folder.cleanup()
    scripted.loop.cache_clear()
    texts.folder.cache_clear()


@pytest.mark.parametrize(
    "path", CASES, ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_an_input_that_is_checked_in_breaks_nothing(
    path: Path, expect_log: LogLedger
) -> None:
    # What is wrong may be logged at any level; ``check`` looks for tracebacks.
    logging.getLogger("pamfs").removeHandler(expect_log)
    TARGETS[path.parent.name].check(path.read_bytes())


def test_every_target_has_seeds_and_every_seed_a_target() -> None:
    assert {path.parent.name for path in CASES} == set(TARGETS)
