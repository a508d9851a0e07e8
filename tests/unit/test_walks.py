"""What is planned for a program that walks a tree, step by step."""

from __future__ import annotations

from pamfs.model import Name
from pamfs.vfs.names.dentries import Path
from pamfs.vfs.prefetch.listings import FIRST_WINDOW, MAX_PLANNED, MAX_WINDOW, Walk

ME, OTHER = 1, 2
LIFE_S = 3.0


def path(text: str) -> Path:
    return tuple(Name(part.encode()) for part in text.split("/") if part)


def paths(*texts: str) -> list[Path]:
    return [path(text) for text in texts]


def taken(walk: Walk, now: float) -> list[Path]:
    """Take all that may be fetched now."""
    found: list[Path] = []
    while (one := walk.next(now)) is not None:
        found.append(one)
    return found


def begun() -> Walk:
    walk = Walk(LIFE_S)
    walk.opened(path(""), ME, paths("a", "b"), 0)
    walk.opened(path("a"), ME, paths("a/x", "a/y"), 0)
    return walk


def test_one_folder_is_no_walk() -> None:
    walk = Walk(LIFE_S)
    walk.opened(path(""), ME, paths("a", "b"), 0)
    assert taken(walk, 0) == []
    walk.opened(path("a"), OTHER, paths("a/x"), 0)
    assert taken(walk, 0) == []


def test_a_folder_in_the_last_one_is_a_walk() -> None:
    assert taken(begun(), 0) == paths("a/x", "a/y", "b")


def test_what_a_folder_holds_comes_before_what_is_beside_it() -> None:
    walk = begun()
    assert walk.next(0) == path("a/x")
    walk.fetched(path("a/x"), paths("a/x/1"), 0)
    assert taken(walk, 0) == paths("a/x/1", "a/y", "b")


def test_as_much_is_fetched_as_is_used() -> None:
    walk = Walk(LIFE_S)
    walk.opened(path(""), ME, paths("a"), 0)
    many = [path(f"a/{number}") for number in range(1000)]
    walk.opened(path("a"), ME, many, 0)
    ahead = taken(walk, 0)
    assert len(ahead) == FIRST_WINDOW
    for one in ahead:
        walk.fetched(one, [], 0)
    assert taken(walk, 0) == []
    walk.opened(ahead[0], ME, [], 0)
    assert len(taken(walk, 0)) == FIRST_WINDOW + 1
    for one in many[1:]:
        walk.opened(one, ME, [], 0)
        for fetched in taken(walk, 0):
            walk.fetched(fetched, [], 0)
            assert len(walk._unused) <= MAX_WINDOW


def test_what_nobody_came_for_halves_what_is_fetched() -> None:
    walk = Walk(LIFE_S)
    walk.opened(path(""), ME, paths("a"), 0)
    walk.opened(path("a"), ME, [path(f"a/{n}") for n in range(100)], 0)
    for one in taken(walk, 0):
        walk.fetched(one, [], 0)
    walk.opened(path("a/99"), ME, [], 2)
    assert len(taken(walk, 4)) == FIRST_WINDOW // 2


def test_a_walk_that_stopped_is_over() -> None:
    walk = begun()
    assert taken(walk, LIFE_S + 1) == []
    assert not walk.is_clear


def test_a_huge_folder_is_not_planned_whole() -> None:
    walk = begun()
    walk.opened(path("b"), ME, [path(f"b/{n}") for n in range(2 * MAX_PLANNED)], 0)
    assert len(walk._planned) == MAX_PLANNED


def test_the_order_of_a_walk_is_learned() -> None:
    walk = Walk(LIFE_S, lambda path: -len(path[-1]))
    names = ["c", "aaa", "bb", "dddd", "e"]
    walk.opened(path(""), ME, paths(*names), 0)
    for name in ("dddd", "aaa"):  # by their numbers
        walk.opened(path(name), ME, [], 0)
    assert taken(walk, 0)[0] == path("bb")
