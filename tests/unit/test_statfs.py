"""The room on the devices, as ``statfs`` adds it up."""

from __future__ import annotations

from dataclasses import replace

from pamfs.model import Space
from pamfs.vfs.tree import UNKNOWN, total

ONE = Space(4096, 100, 50, 40, 10, 5, 5, 255)


def test_with_no_open_target_there_is_room_to_copy() -> None:
    assert total([]) == UNKNOWN
    assert UNKNOWN.blocks_available > 0


def test_one_target_is_shown_as_it_is() -> None:
    assert total([ONE]) == ONE


def test_several_are_added_up_in_one_unit() -> None:
    other = replace(ONE, fragment_bytes=8192, name_max=143)
    both = total([ONE, other])
    assert both.blocks == 100 + 200
    assert both.blocks_available == 40 + 80
    assert both.files == 20
    assert both.name_max == 143


def test_the_sum_is_never_more_than_a_program_can_count() -> None:
    huge = replace(ONE, blocks=(1 << 63) // 4096 - 1, files=(1 << 63) - 1)
    both = total([huge, huge])
    assert both.blocks == (1 << 63) // 4096 - 1
    assert both.files == (1 << 63) - 1
