"""A profile counts a function once for each stack that it is on."""

from __future__ import annotations

from bench.profile import read_stacks, top

STACKS = "main;read;decrypt 3\nmain;read;read 1\nmain;write 4\n"


def test_functions_are_counted_alone_and_with_what_they_call() -> None:
    found = read_stacks(STACKS)
    assert found.samples == 8
    assert found.alone == {"decrypt": 3, "read": 1, "write": 4}
    assert found.inside == {"main": 8, "read": 4, "decrypt": 3, "write": 4}


def test_the_most_seen_comes_first() -> None:
    found = read_stacks(STACKS)
    assert list(top(found.alone, found.samples)) == [
        " 50.0%  write",
        " 37.5%  decrypt",
        " 12.5%  read",
    ]
