"""What listings told, and for how long: one law at a time."""

from __future__ import annotations

import stat

from pamfs.model import Attrs, Entry, Name, Target
from pamfs.vfs.background import Budget
from pamfs.vfs.names.dentries import LOOKUPS, NAME_BYTES, Dentries, FolderPath

WEB = Target("acme", "root", "web01")
ROOT: FolderPath = (WEB, ())
A, B, C = Name(b"a"), Name(b"b"), Name(b"c")
LIFE_S = 3.0


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def file(size: int = 0) -> Attrs:
    return Attrs(stat.S_IFREG | 0o644, size)


def known(names_max: int = 100) -> tuple[Dentries, Clock]:
    clock = Clock()
    return Dentries(clock, names_max), clock


def tell(dentries: Dentries, place: FolderPath, *entries: Entry) -> None:
    dentries.finish(dentries.begin(place), entries, LIFE_S)


def below(*names: Name) -> FolderPath:
    return (WEB, names)


class TestALifetime:
    def test_a_name_and_its_absence_are_known_while_the_listing_is_fresh(self) -> None:
        dentries, clock = known()
        tell(dentries, ROOT, Entry(A, file(1)))
        here, gone = dentries.find(ROOT, A), dentries.find(ROOT, B)
        assert here
        assert here.attrs == file(1)
        assert gone
        assert gone.attrs is None
        clock.now += LIFE_S
        assert dentries.find(ROOT, A) is None
        assert dentries.find(ROOT, B) is None
        assert dentries.listed(ROOT) is None

    def test_without_a_lifetime_nothing_is_kept(self) -> None:
        dentries, _ = known()
        dentries.finish(dentries.begin(ROOT), [Entry(A, file())], 0)
        assert dentries.find(ROOT, A) is None
        assert dentries.count == 0

    def test_what_has_expired_makes_room_when_something_is_told(self) -> None:
        dentries, clock = known()
        tell(dentries, below(A, B), Entry(A, file()))
        clock.now += LIFE_S
        tell(dentries, below(C))
        assert dentries.count == 0

    def test_a_change_does_not_make_a_listing_younger(self) -> None:
        dentries, clock = known()
        tell(dentries, ROOT)
        clock.now += LIFE_S - 1
        dentries.put(ROOT, A, file())
        clock.now += 1
        assert dentries.find(ROOT, A) is None


class TestAnAnswerFromBeforeAFailedChange:
    """A change that failed may have happened: absence from before it is no answer."""

    def test_leaves_the_name_of_a_listing_unknown(self) -> None:
        dentries, clock = known()
        tell(dentries, ROOT)
        asked_at = clock.now = clock.now + 1
        clock.now += 1
        dentries.doubt(ROOT, A)
        dentries.missing(ROOT, A, asked_at)
        assert dentries.find(ROOT, A) is None
        dentries.missing(ROOT, A, clock.now)
        assert dentries.find(ROOT, A) is not None

    def test_leaves_the_name_unknown_that_is_being_listed(self) -> None:
        dentries, clock = known()
        reading = dentries.begin(ROOT)
        asked_at = clock.now = clock.now + 1
        clock.now += 1
        dentries.doubt(ROOT, A)
        dentries.missing(ROOT, A, asked_at)
        dentries.finish(reading, [], LIFE_S)
        dentries.missing(ROOT, A, asked_at)
        assert dentries.find(ROOT, A) is None


class TestOurOwnChanges:
    def test_win_over_a_listing_that_began_before(self) -> None:
        dentries, clock = known()
        reading = dentries.begin(ROOT)
        clock.now += 1
        dentries.put(ROOT, A, file(7))
        dentries.removed(ROOT, B)
        dentries.finish(reading, [Entry(A, file(1)), Entry(B, file())], LIFE_S)
        here, gone = dentries.find(ROOT, A), dentries.find(ROOT, B)
        assert here
        assert (here.attrs, here.at) == (file(7), clock.now)
        assert gone
        assert gone.attrs is None

    def test_what_was_seen_before_a_listing_leaves_the_name_unknown(self) -> None:
        dentries, clock = known()
        seen_at = clock.now
        clock.now += 1
        tell(dentries, ROOT, Entry(A, file(2)))
        reading = dentries.begin(below(B))
        dentries.put(ROOT, A, file(1), seen_at)
        dentries.put(below(B), A, file(1), seen_at)
        dentries.finish(reading, [Entry(A, file(2))], LIFE_S)
        assert dentries.find(ROOT, A) is None
        assert dentries.find(below(B), A) is None

    def test_what_was_seen_is_as_old_as_it_is(self) -> None:
        dentries, clock = known()
        tell(dentries, ROOT)
        seen_at = clock.now = clock.now + 1
        clock.now += 1
        dentries.put(ROOT, A, file(1), seen_at)
        here = dentries.find(ROOT, A)
        assert here
        assert here.at == seen_at

    def test_a_rename_makes_nothing_younger(self) -> None:
        dentries, clock = known()
        tell(dentries, below(A), Entry(A, file()), Entry(B, file()))
        tell(dentries, below(B))
        told_at = clock.now
        clock.now += 1
        dentries.move((below(A), A), (below(B), A))
        here = dentries.find(below(B), A)
        assert here
        assert here.at == told_at
        clock.now += LIFE_S
        tell(dentries, below(B))
        dentries.move((below(A), B), (below(B), B))
        assert dentries.find(below(B), B) is None

    def test_a_listing_is_as_old_as_its_beginning(self) -> None:
        dentries, clock = known()
        reading = dentries.begin(ROOT)
        clock.now += 1
        dentries.finish(reading, [Entry(A, file())], LIFE_S)
        here = dentries.find(ROOT, A)
        assert here
        assert (here.at, here.until) == (clock.now - 1, clock.now + LIFE_S)

    def test_what_may_have_happened_is_not_known(self) -> None:
        dentries, _ = known()
        tell(dentries, ROOT, Entry(A, file()), Entry(B, file()))
        dentries.doubt(ROOT, A)
        assert dentries.find(ROOT, A) is None
        assert dentries.find(ROOT, B) is not None
        assert dentries.listed(ROOT) is None

    def test_a_directory_that_was_made_is_empty(self) -> None:
        dentries, _ = known()
        dentries.made(ROOT, A, Attrs(stat.S_IFDIR), LIFE_S)
        found = dentries.find(below(A), B)
        assert found
        assert found.attrs is None
        assert dentries.find(ROOT, A) is None  # the root was never listed

    def test_a_directory_takes_what_is_below_along(self) -> None:
        dentries, _ = known()
        tell(dentries, ROOT, Entry(A, Attrs(stat.S_IFDIR)))
        tell(dentries, below(A, B), Entry(C, file(5)))
        reading = dentries.begin(below(A))
        dentries.move((ROOT, A), (ROOT, C))
        dentries.finish(reading, [], LIFE_S)
        moved = dentries.find(below(C, B), C)
        assert moved
        assert moved.attrs == file(5)
        for place in (below(A), below(A, B), below(C)):
            assert dentries.find(place, C) is None
        gone = dentries.find(ROOT, A)
        assert gone
        assert gone.attrs is None

    def test_a_name_renamed_over_another_of_its_file_may_be_there_still(self) -> None:
        dentries, _ = known()
        tell(dentries, ROOT, Entry(A, file(3)), Entry(B, file(3)))
        dentries.move((ROOT, A), (ROOT, B))
        assert dentries.find(ROOT, A) is None
        there = dentries.find(ROOT, B)
        assert there
        assert there.attrs == file(3)

    def test_a_directory_that_was_replaced_is_not_what_it_was(self) -> None:
        dentries, _ = known()
        tell(dentries, below(A))
        tell(dentries, below(B), Entry(C, file()))
        dentries.move((ROOT, A), (ROOT, B))
        found = dentries.find(below(B), C)
        assert found
        assert found.attrs is None

    def test_what_was_below_a_removed_name_is_gone_with_it(self) -> None:
        dentries, _ = known()
        tell(dentries, below(A), Entry(B, file()))
        reading = dentries.begin(below(A))
        dentries.removed(ROOT, A)
        dentries.finish(reading, [Entry(B, file())], LIFE_S)
        assert dentries.find(below(A), B) is None
        assert dentries.count == 0


def test_a_target_is_forgotten_with_what_is_still_being_read() -> None:
    dentries, _ = known()
    tell(dentries, ROOT, Entry(A, file()))
    tell(dentries, below(A, B), Entry(A, file()))
    reading = dentries.begin(below(C))
    dentries.forget(WEB)
    dentries.finish(reading, [Entry(A, file())], LIFE_S)
    for place in (ROOT, below(A, B), below(C)):
        assert dentries.find(place, A) is None
    assert dentries.count == 0


def test_the_oldest_listings_go_first_when_there_are_too_many_names() -> None:
    dentries, _ = known(names_max=4)
    for folder in (A, B, C):
        tell(dentries, below(folder), Entry(A, file()), Entry(B, file()))
    assert dentries.find(below(A), A) is None
    assert dentries.find(below(B), A) is not None
    assert dentries.count == 4
    tell(dentries, ROOT, *(Entry(Name(bytes([n])), file()) for n in range(1, 6)))
    assert dentries.find(ROOT, A) is None  # larger than all there is room for


def test_a_listing_is_due_after_some_lookups_in_one_folder() -> None:
    dentries, clock = known()
    asked = [dentries.missed(ROOT, LIFE_S) for _ in range(LOOKUPS)]
    assert asked == [False] * (LOOKUPS - 1) + [True]
    clock.now += LIFE_S + 1
    assert not dentries.missed(ROOT, LIFE_S)
    for _ in range(LOOKUPS):
        clock.now += LIFE_S + 1
        assert not dentries.missed(ROOT, LIFE_S)


def test_a_listing_under_way_is_not_asked_for_twice() -> None:
    dentries, _ = known()
    reading = dentries.begin(ROOT)
    assert dentries.is_known(ROOT)
    dentries.abandon(reading)
    assert not dentries.is_known(ROOT)


class TestTheBudget:
    """It has room for nine names; each listing is counted as one more."""

    def counted(self) -> tuple[Dentries, Budget]:
        dentries, _ = known()
        budget = Budget(9 * NAME_BYTES)
        dentries.count_in(budget)
        return dentries, budget

    def test_what_is_kept_is_counted_and_given_back(self) -> None:
        dentries, budget = self.counted()
        tell(dentries, ROOT, Entry(A, file()))
        assert budget.held() == {WEB: 2 * NAME_BYTES}
        dentries.put(ROOT, B, file())
        assert budget.held() == {WEB: 3 * NAME_BYTES}
        dentries.put(ROOT, B, file(7))
        assert budget.held() == {WEB: 3 * NAME_BYTES}
        dentries.removed(ROOT, B)
        assert budget.held() == {WEB: 2 * NAME_BYTES}
        tell(dentries, ROOT)
        assert budget.held() == {WEB: NAME_BYTES}
        dentries.forget(WEB)
        assert budget.held() == {}

    def test_under_pressure_the_listing_told_first_goes_first(self) -> None:
        dentries, budget = self.counted()
        for name in (A, B, C):
            tell(dentries, below(name), Entry(A, file()))
        assert budget.held() == {WEB: 6 * NAME_BYTES}
        other = Target("acme", "root", "db01")
        assert budget.take(other, 4 * NAME_BYTES)
        assert not dentries.is_known(below(A))
        assert dentries.is_known(below(B))
        assert dentries.is_known(below(C))
        assert budget.held()[WEB] == 4 * NAME_BYTES
        assert dentries.count == 2

    def test_what_finds_no_room_is_not_kept_and_breaks_nothing(self) -> None:
        dentries, budget = self.counted()
        assert budget.take(Target("acme", "root", "db01"), 6 * NAME_BYTES)
        tell(dentries, ROOT, *(Entry(name, file()) for name in (A, B, C)))
        assert dentries.find(ROOT, A) is None
        tell(dentries, ROOT, Entry(A, file()))
        assert dentries.find(ROOT, A) is not None
        # A name more is one too many: rather nothing than half of a listing.
        dentries.put(ROOT, B, file())
        assert dentries.find(ROOT, A) is None
        assert dentries.find(ROOT, B) is None
        assert WEB not in budget.held()
        assert dentries.count == 0
