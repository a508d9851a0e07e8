"""The memory of all caches: bounded, and fair between targets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pamfs.model import Target
from pamfs.vfs.background import Budget

A, B, C = (Target("acme", "root", name) for name in ("a", "b", "c"))


def fill(budget: Budget, target: Target) -> int:
    taken = 0
    while budget.take(target, 10):
        taken += 10
    return taken


def test_one_target_gets_most_and_the_next_finds_room() -> None:
    budget = Budget(900)
    assert fill(budget, A) == 600
    assert fill(budget, B) == 200
    assert fill(budget, C) == 70
    # Who was first gets no more before the others have their part.
    budget.give_back(A, 150)
    assert fill(budget, A) == 0
    assert fill(budget, C) >= 50
    assert budget.held_bytes == sum(budget.held().values()) <= 900


def test_without_memory_nothing_is_cached() -> None:
    assert not Budget(0).take(A, 1)


def test_under_pressure_whoever_holds_most_is_asked_first() -> None:
    budget = Budget(900)
    asked: list[Target] = []

    def evict(target: Target) -> bool:
        asked.append(target)
        if budget.held().get(target, 0) < 100:
            return False
        budget.give_back(target, 100)
        return True

    budget.on_pressure(evict)
    assert budget.take(A, 600)
    assert budget.take(B, 350)
    assert asked == [A]
    assert budget.held() == {A: 500, B: 350}
    # What cannot be freed is not asked for twice.
    assert not budget.take(C, 901)


@given(
    st.lists(st.tuples(st.sampled_from([A, B, C]), st.integers(1, 400)), max_size=60)
)
def test_the_limit_holds_whatever_is_taken(steps: list[tuple[Target, int]]) -> None:
    budget = Budget(1000)
    held: list[tuple[Target, int]] = []
    for target, nbytes in steps:
        if budget.take(target, nbytes):
            held.append((target, nbytes))
        elif held:
            budget.give_back(*held.pop(0))
        assert 0 <= budget.held_bytes <= 1000
    for target, nbytes in held:
        budget.give_back(target, nbytes)
    assert budget.held() == {}
