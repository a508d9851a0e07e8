"""Queued writes: merged to full size, held back for more, dropped by name."""

from __future__ import annotations

import pytest

from pamfs.model import Extent
from pamfs.vfs.data.writequeue import Chunk, WriteQueue, laid_over

ME, OTHER = "me", "other"


def queue(*pieces: tuple[int, bytes], writer: str = ME) -> WriteQueue[str]:
    made: WriteQueue[str] = WriteQueue()
    for start, data in pieces:
        made.put(writer, start, data, is_append=False)
    return made


def all_of(made: WriteQueue[str]) -> list[tuple[Extent, bytes]]:
    taken: list[Chunk[str]] = []
    while chunk := made.take(4, is_urgent=True):
        taken.append(chunk)
    return [(chunk.extent, bytes(chunk.data)) for chunk in taken]


def test_neighbours_are_sent_as_one_and_long_ones_in_parts() -> None:
    made = queue((0, b"ab"), (2, b"cdefgh"), (8, b"i"))
    assert all_of(made) == [
        (Extent(0, 4), b"abcd"),
        (Extent(4, 8), b"efgh"),
        (Extent(8, 9), b"i"),
    ]


def test_a_long_piece_is_not_copied() -> None:
    data = b"abcdefgh"
    chunk = queue((0, data)).take(4, is_urgent=False)
    assert chunk is not None
    assert isinstance(chunk.data, memoryview)
    assert chunk.data.obj is data


def test_two_writers_are_not_mixed() -> None:
    made = queue((0, b"ab"))
    made.put(OTHER, 2, b"cd", is_append=False)
    assert all_of(made) == [(Extent(0, 2), b"ab"), (Extent(2, 4), b"cd")]


def test_less_than_a_full_write_waits_for_more_while_something_is_on_its_way() -> None:
    made = queue((0, b"a"))
    first = made.take(4, is_urgent=False)
    assert first is not None
    made.put(ME, 1, b"b", is_append=False)
    assert made.take(4, is_urgent=False) is None
    made.put(ME, 2, b"c", is_append=False)
    made.done(first)
    second = made.take(4, is_urgent=False)
    assert second is not None
    assert bytes(second.data) == b"bc"


def test_what_can_grow_no_more_does_not_wait() -> None:
    made = queue((0, b"a"))
    made.take(4, is_urgent=False)
    made.put(ME, 10, b"b", is_append=False)
    made.put(ME, 20, b"c", is_append=False)
    chunk = made.take(4, is_urgent=False)
    assert chunk is not None
    assert chunk.extent == Extent(10, 11)
    assert made.take(4, is_urgent=False) is None


def test_a_file_written_backwards_is_sent_side_by_side() -> None:
    made = queue((8, b"c"), (4, b"b"), (0, b"a"))
    assert [extent.start for extent, _ in all_of(made)] == [8, 4, 0]


def test_giving_up_names_the_writers_and_leaves_what_is_on_its_way() -> None:
    made = queue((0, b"abcdef"))
    made.put(OTHER, 50, b"z", is_append=False)
    chunk = made.take(4, is_urgent=True)
    assert chunk is not None
    assert made.end == 51
    assert made.writers() == {ME, OTHER}
    made.give_up()
    assert made.writers() == {ME}
    assert (made.held_bytes, made.is_empty) == (4, False)
    made.done(chunk)
    assert (made.held_bytes, made.is_empty) == (0, True)


def test_what_goes_to_an_extent_is_found_with_its_place() -> None:
    made = queue((4, b"abcd"))
    assert made.over(Extent(0, 4)) == made.over(Extent(8, 12)) == []
    for touched in (Extent(0, 5), Extent(5, 6), Extent(7, 9), Extent(0, 99)):
        assert made.over(touched) == [(4, b"abcd")]
    made.put(ME, 5, b"x", is_append=False)
    assert made.over(Extent(0, 6)) == [(4, b"abcd"), (5, b"x")]
    made.put(ME, 50, b"x", is_append=True)
    assert made.over(Extent(0, 4)) is None


@pytest.mark.parametrize(
    ("queued", "becomes"),
    [
        ([], b"0123"),
        ([(10, b"a")], b"a123"),
        ([(13, b"abc")], b"012a"),
        ([(8, b"abc")], b"c123"),
        ([(8, b"abcdefgh")], b"cdef"),
        ([(11, b"ab"), (12, b"c")], b"0ac3"),
    ],
)
def test_the_newest_of_what_is_queued_lies_on_top(
    queued: list[tuple[int, bytes]], becomes: bytes
) -> None:
    assert bytes(laid_over(b"0123", 10, queued)) == becomes
