"""What is claimed, sent again and refused of a change whose answer was lost."""

from __future__ import annotations

import stat

import pytest

from pamfs.model import Attrs
from pamfs.vfs.names.resolve import (
    Before,
    Fate,
    Look,
    NewName,
    judge_linked,
    judge_made,
    judge_removed,
    judge_renamed,
)

DONE, AGAIN, REFUSED = Fate.DONE, Fate.AGAIN, Fate.REFUSED
FILE = Attrs(stat.S_IFREG | 0o644, size=7, mtime_ns=5)
OTHER = Attrs(stat.S_IFREG | 0o644, size=8, mtime_ns=5)
LATER = Attrs(stat.S_IFREG | 0o644, size=7, mtime_ns=6)
EMPTY = Attrs(stat.S_IFREG | 0o600)
FOLDER = Attrs(stat.S_IFDIR | 0o755, mtime_ns=5)
FULLER = Attrs(stat.S_IFDIR | 0o755, mtime_ns=6)
LINK = Attrs(stat.S_IFLNK | 0o777, size=4)

A_FOLDER = NewName(stat.S_IFDIR | 0o755)
A_FILE = NewName(stat.S_IFREG | 0o644)
A_LINK = NewName(stat.S_IFLNK | 0o777, b"said")


@pytest.mark.parametrize(
    ("wanted", "seen", "verdict"),
    [
        (A_FOLDER, None, AGAIN),
        (A_FOLDER, Look(FOLDER), DONE),
        (A_FOLDER, Look(FOLDER, has_entries=True), REFUSED),
        (A_FOLDER, Look(Attrs(stat.S_IFDIR | 0o777)), REFUSED),
        (A_FOLDER, Look(EMPTY), REFUSED),
        (A_FILE, None, AGAIN),
        (A_FILE, Look(EMPTY), DONE),
        (A_FILE, Look(FILE), REFUSED),
        (A_FILE, Look(FOLDER), REFUSED),
        (A_LINK, None, AGAIN),
        (A_LINK, Look(LINK, b"said"), DONE),
        (A_LINK, Look(LINK, b"else"), REFUSED),
        (A_LINK, Look(EMPTY), REFUSED),
    ],
)
def test_what_was_to_be_made(wanted: NewName, seen: Look | None, verdict: Fate) -> None:
    assert judge_made(wanted, seen) is verdict


@pytest.mark.parametrize(
    ("before", "seen", "verdict"),
    [
        (FILE, None, DONE),
        (FILE, FILE, AGAIN),
        (FILE, OTHER, DONE),
        (FILE, LATER, DONE),
        (FILE, FOLDER, DONE),
        (FOLDER, None, DONE),
        (FOLDER, FULLER, AGAIN),
    ],
)
def test_what_was_to_be_removed(
    before: Attrs, seen: Attrs | None, verdict: Fate
) -> None:
    assert judge_removed(Before(before, is_sure=True), seen) is verdict


@pytest.mark.parametrize(
    ("before", "seen", "verdict"),
    [
        (FILE, None, DONE),
        (None, None, DONE),
        (FILE, FILE, AGAIN),
        (FILE, LATER, REFUSED),
        (None, FILE, REFUSED),
        (None, FOLDER, AGAIN),
    ],
)
def test_what_was_to_be_removed_and_is_not_known_well(
    before: Attrs | None, seen: Attrs | None, verdict: Fate
) -> None:
    assert judge_removed(Before(before), seen) is verdict


def test_a_file_with_queued_writes_is_known_by_what_was_acknowledged() -> None:
    before = Before(FILE, fits=lambda seen: seen == LATER)
    assert judge_removed(before, LATER) is AGAIN
    assert judge_removed(before, OTHER) is REFUSED
    assert judge_renamed(before, LATER, OTHER) is AGAIN


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        (None, FILE, DONE),
        (FILE, None, AGAIN),
        (FILE, OTHER, AGAIN),
        (FILE, FILE, AGAIN),
        (OTHER, FILE, DONE),
        (OTHER, None, REFUSED),
        (OTHER, LATER, REFUSED),
        (None, None, REFUSED),
        (None, OTHER, REFUSED),
        (None, FOLDER, REFUSED),
    ],
)
def test_what_was_to_be_renamed(
    old: Attrs | None, new: Attrs | None, verdict: Fate
) -> None:
    assert judge_renamed(Before(FILE, is_sure=True), old, new) is verdict


@pytest.mark.parametrize("before", [None, FILE])
def test_a_rename_of_what_is_not_known_well(before: Attrs | None) -> None:
    assert judge_renamed(Before(before), None, OTHER) is DONE
    assert judge_renamed(Before(before), OTHER, None) is AGAIN
    assert judge_renamed(Before(before), OTHER, OTHER) is REFUSED
    assert judge_renamed(Before(before), None, None) is REFUSED


def test_what_was_to_be_linked() -> None:
    assert judge_linked(FILE, None) is AGAIN
    assert judge_linked(FILE, FILE) is DONE
    assert judge_linked(FILE, OTHER) is REFUSED
    assert judge_linked(None, FILE) is REFUSED
