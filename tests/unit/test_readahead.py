"""When and how far to read ahead: plans, without a file."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pamfs.model import Extent
from pamfs.vfs.background import MAX_WINDOW, MIN_WINDOW, Pace
from pamfs.vfs.prefetch.streams import ReadStream

KIB = 1 << 10
STEP = 255 * KIB
BIG = 1 << 40


def plans(stream: ReadStream, size: int = BIG) -> list[Extent]:
    found = []
    while extent := stream.plan(size, STEP):
        stream.fetching(extent)
        found.append(extent)
    return found


def test_a_single_read_plans_nothing() -> None:
    assert plans(ReadStream(4 * KIB, 8 * KIB)) == []
    # A header at the start is no stream, a whole request there is one.
    assert plans(ReadStream(0, 4 * KIB)) == []
    assert plans(ReadStream(0, 128 * KIB)) != []


def test_the_second_read_in_a_row_begins_a_window() -> None:
    stream = ReadStream(4 * KIB, 8 * KIB)
    assert stream.follows(8 * KIB)
    assert not stream.follows(12 * KIB)
    stream.came(12 * KIB)
    fetched = plans(stream)
    assert fetched[0].start == 12 * KIB
    assert fetched[-1].stop == 12 * KIB + MIN_WINDOW


def test_nothing_is_fetched_beyond_the_end() -> None:
    stream = ReadStream(0, 128 * KIB)
    assert plans(stream, 130 * KIB) == [Extent(128 * KIB, 130 * KIB)]
    assert plans(ReadStream(0, 128 * KIB), 128 * KIB) == []
    assert plans(ReadStream(0, 128 * KIB), 0) == []


def test_the_window_doubles_once_for_each_window_that_came_late() -> None:
    stream = ReadStream(0, 128 * KIB)
    plans(stream)
    stream.came(256 * KIB)
    for _ in range(5):
        stream.waited(MAX_WINDOW)
    assert stream.window.size == 2 * MIN_WINDOW
    plans(stream)
    stream.came(stream.until)
    stream.waited(MAX_WINDOW)
    assert stream.window.size == 4 * MIN_WINDOW


def test_a_reader_that_never_waits_keeps_a_small_window() -> None:
    stream = ReadStream(0, 128 * KIB)
    for stop in range(256 * KIB, 64 << 20, 128 * KIB):
        stream.came(stop)
        plans(stream)
        assert stream.until <= stop + MIN_WINDOW


def test_the_window_is_bounded_by_what_the_line_holds() -> None:
    pace = Pace()
    assert pace.window(0.1, STEP) == 2 * STEP
    for _ in range(20):  # 10 MB/s, of which 0.1 s are on the way
        pace.came(1_000_000, pace.delivered, 0.1)
    assert pace.window(0.1, STEP) == 2 * (1_000_000 + STEP)
    assert pace.window(100, STEP) == MAX_WINDOW
    for _ in range(300):  # the line became slow
        pace.came(1000, pace.delivered, 0.1)
    assert pace.window(0.1, STEP) <= 2 * STEP + 10_000


def test_answers_side_by_side_are_one_rate() -> None:
    pace = Pace()
    for _ in range(10):  # ten asked for together, all there after a second
        pace.came(1000, 0, 1.0)
    assert pace.bytes_per_s == 10_000


@given(
    st.lists(st.tuples(st.integers(1, 300 * KIB), st.booleans()), max_size=60),
    st.integers(0, 8 << 20),
)
def test_what_is_planned_is_gapless_inside_the_file_and_bounded(
    reads: list[tuple[int, bool]], size: int
) -> None:
    stream = ReadStream(0, 64 * KIB)
    fetched_until = 64 * KIB
    for nbytes, is_late in reads:
        stream.came(stream.position + nbytes)
        if is_late:
            stream.waited(MAX_WINDOW)
        for extent in plans(stream, size):
            assert extent.start == max(fetched_until, extent.start)
            assert 0 < extent.size <= STEP
            assert extent.stop <= min(size, stream.position + stream.window.size)
            fetched_until = extent.stop
        assert stream.position <= stream.until
