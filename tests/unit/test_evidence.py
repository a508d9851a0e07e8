"""Which file a handle may be opened to again."""

from __future__ import annotations

import stat
from dataclasses import replace

import pytest

from pamfs.model import AttrChange, Attrs, Extent
from pamfs.vfs.names.evidence import TAIL_BYTES, Evidence

S = 1_000_000_000
FILE = Attrs(stat.S_IFREG | 0o644, size=100, mtime_ns=50 * S)


def test_with_a_write_it_is_no_shorter_and_no_older() -> None:
    evidence = Evidence(FILE)
    evidence.acknowledged(100, b"x" * 50)
    assert evidence.fits(replace(FILE, size=150, mtime_ns=51 * S))
    assert evidence.fits(replace(FILE, size=200, mtime_ns=51 * S))
    assert evidence.fits(replace(FILE, size=160, mtime_ns=51 * S), at_most=160)
    assert not evidence.fits(replace(FILE, size=161, mtime_ns=51 * S), at_most=160)
    assert not evidence.fits(replace(FILE, size=150, mode=stat.S_IFDIR | 0o755))
    assert not evidence.fits(replace(FILE, size=149, mtime_ns=51 * S))
    assert not evidence.fits(replace(FILE, size=150, mtime_ns=49 * S))


def test_the_end_of_the_last_write_is_read_back() -> None:
    evidence = Evidence(FILE)
    evidence.acknowledged(0, bytes(5000) + b"end")
    wanted = evidence.range_to_verify(())
    assert wanted == Extent(5003 - TAIL_BYTES, 5003)
    assert evidence.fits_tail(wanted, bytes(TAIL_BYTES - 3) + b"end")
    assert not evidence.fits_tail(wanted, bytes(TAIL_BYTES))
    assert not evidence.fits_tail(wanted, bytes(TAIL_BYTES - 4))


@pytest.mark.parametrize(
    ("unsure", "wanted"),
    [
        ([], Extent(10, 20)),
        ([Extent(0, 12)], Extent(12, 20)),
        ([Extent(15, 30)], Extent(10, 15)),
        ([Extent(0, 12), Extent(18, 19)], Extent(12, 18)),
        ([Extent(0, 30)], None),
        ([Extent(20, 30)], Extent(10, 20)),
    ],
)
def test_what_is_in_doubt_is_not_compared(
    unsure: list[Extent], wanted: Extent | None
) -> None:
    evidence = Evidence(replace(FILE, size=0))
    evidence.acknowledged(10, b"0123456789")
    assert evidence.range_to_verify(unsure) == wanted
    if wanted:
        part = b"0123456789"[wanted.start - 10 : wanted.stop - 10]
        assert evidence.fits_tail(wanted, part)


def test_a_change_of_size_cuts_the_evidence() -> None:
    evidence = Evidence(FILE)
    evidence.acknowledged(90, b"0123456789")
    evidence.note_change(AttrChange(size=95))
    assert evidence.range_to_verify(()) == Extent(90, 95)
    evidence.note_change(AttrChange(size=10))
    assert evidence.range_to_verify(()) is None
    assert evidence.fits(replace(FILE, size=10))


def test_a_look_behind_the_writes_is_the_newest_word() -> None:
    evidence = Evidence(FILE)
    evidence.acknowledged(0, b"new")
    evidence.looked(replace(FILE, mtime_ns=60 * S))
    assert not evidence.fits(replace(FILE, mtime_ns=55 * S))
    assert evidence.fits(replace(FILE, mtime_ns=60 * S))


def test_a_time_that_is_being_set_tells_nothing() -> None:
    evidence = Evidence(FILE)
    evidence.acknowledged(0, b"new")
    evidence.note_change(AttrChange(mtime_ns=3 * S))
    assert evidence.fits(FILE)
    assert evidence.fits(replace(FILE, mtime_ns=3 * S))
    assert not evidence.fits(replace(FILE, mtime_ns=2 * S))


@pytest.mark.parametrize(
    ("behind", "stored"),
    [
        (b"", 0),
        (b"li", 2),
        (b"line", 4),
        (b"other", 0),
        (b"otherline", 4),
        (b"lineother", 4),
    ],
)
def test_what_is_there_of_an_append(behind: bytes, stored: int) -> None:
    evidence = Evidence(FILE)
    evidence.appended(b"before")
    assert evidence.find_tail(b"before" + behind)
    assert evidence.stored_bytes_of(b"line") == stored


def test_appends_of_others_move_the_end() -> None:
    evidence = Evidence(FILE)
    evidence.appended(b"ours")
    assert evidence.find_tail(b"theirsours")
    assert (evidence.tail_at, evidence.size) == (106, 110)
    assert not evidence.find_tail(b"theirs only")


def test_a_change_of_size_that_is_not_answered_may_not_have_happened() -> None:
    evidence = Evidence(FILE)
    evidence.note_change(AttrChange(size=10))
    assert evidence.fits(replace(FILE, size=100), at_most=0)
    assert evidence.fits(replace(FILE, size=10), at_most=0)
    assert not evidence.fits(replace(FILE, size=101), at_most=0)
    evidence.looked(replace(FILE, size=10))
    assert not evidence.fits(replace(FILE, size=11), at_most=0)
