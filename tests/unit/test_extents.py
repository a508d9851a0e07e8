"""Byte ranges, against the sets of bytes that they stand for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pamfs.model import Extent

EXTENTS = st.builds(
    lambda start, size: Extent(start, start + size),
    st.integers(0, 30),
    st.integers(0, 30),
)


@given(EXTENTS, EXTENTS)
def test_overlap_and_size_are_those_of_the_bytes(one: Extent, other: Extent) -> None:
    assert one.size == len(range(*one))
    assert one.overlaps(other) == bool(set(range(*one)) & set(range(*other)))
