"""Whatever we, others and the clock do, what is said is true or was just now.

The device is a dictionary of paths. A change of ours is made there first and told
to the dentries when its answer arrives, and a listing sees the device at some
moment between its beginning and its end.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pamfs.model import Attrs, Entry, Name, Target
from pamfs.vfs.background import Budget
from pamfs.vfs.names.dentries import NAME_BYTES, Dentries, ListingInProgress, Path

WEB = Target("acme", "root", "web01")
A, B = Name(b"a"), Name(b"b")
NAMES = st.sampled_from([A, B])
# Few places, so that what happens there meets.
PATHS = st.sampled_from([(), (), (A,), (B,), (A, A)])
LIFE_S = 3.0
# Names kept at most; fewer than the device holds.
ROOM = 5
# Two thirds of it for one target: names and listings, now and then too many.
ROOM_BYTES = 9 * NAME_BYTES


@dataclass
class Listing:
    reading: ListingInProgress
    path: Path
    seen: list[Entry] | None = field(default=None)


class DeviceModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.version = 0
        self.dentries = Dentries(lambda: self.now, ROOM)
        self.budget = Budget(ROOM_BYTES)
        self.dentries.count_in(self.budget)
        self.device: dict[Path, Attrs] = {}
        # What others did to a path, and when; what we did is never out of date.
        self.others: dict[Path, float] = {}
        self.listings: list[Listing] = []

    def new(self, kind: int) -> Attrs:
        self.version += 1
        return Attrs(kind, size=self.version)

    def is_folder(self, path: Path) -> bool:
        return not path or path in self.folders()

    def folders(self) -> list[Path]:
        return [p for p, a in self.device.items() if stat.S_ISDIR(a.mode)]

    def children(self, path: Path) -> list[Entry]:
        return [
            Entry(other[-1], attrs)
            for other, attrs in self.device.items()
            if other[:-1] == path
        ]

    @rule(path=PATHS, name=NAMES, is_folder=st.booleans())
    def we_make(self, path: Path, name: Name, *, is_folder: bool) -> None:
        whole = (*path, name)
        if not self.is_folder(path) or whole in self.device:
            return
        self.others.pop(whole, None)
        if is_folder:
            attrs = self.device[whole] = self.new(stat.S_IFDIR)
            self.others = {p: t for p, t in self.others.items() if p[:-1] != whole}
            self.dentries.made((WEB, path), name, attrs, LIFE_S)
        else:
            attrs = self.device[whole] = self.new(stat.S_IFREG)
            self.dentries.put((WEB, path), name, attrs)

    @rule(path=PATHS, name=NAMES)
    def we_change(self, path: Path, name: Name) -> None:
        whole = (*path, name)
        if whole in self.device:
            attrs = self.device[whole] = self.new(self.device[whole].mode)
            self.others.pop(whole, None)
            self.dentries.put((WEB, path), name, attrs)

    @rule(path=PATHS, name=NAMES)
    def we_may_have_changed(self, path: Path, name: Name) -> None:
        whole = (*path, name)
        if whole in self.device:
            self.device[whole] = self.new(self.device[whole].mode)
            self.dentries.doubt((WEB, path), name)

    @rule(path=PATHS, name=NAMES)
    def we_remove(self, path: Path, name: Name) -> None:
        whole = (*path, name)
        if whole in self.device and not self.children(whole):
            del self.device[whole]
            self.others.pop(whole, None)
            self.dentries.removed((WEB, path), name)

    @rule(old=PATHS, name=NAMES, new=PATHS, to=NAMES)
    def we_rename(self, old: Path, name: Name, new: Path, to: Name) -> None:
        source, dest = (*old, name), (*new, to)
        if (
            source not in self.device
            or not self.is_folder(new)
            or dest[: len(source)] == source
            or self.children(dest)
            or dest in self.folders()
        ):
            return
        self.device.pop(dest, None)
        self.device = {
            dest + p[len(source) :] if p[: len(source)] == source else p: attrs
            for p, attrs in self.device.items()
        }
        # A path says what its new name was told; others' deeds move along with it.
        moved = {
            dest + p[len(source) :]: at
            for p, at in self.others.items()
            if p[: len(source)] == source
        }
        self.others = {
            p: at
            for p, at in self.others.items()
            if p[: len(source)] != source and p[: len(dest)] != dest
        } | moved
        self.dentries.move(((WEB, old), name), ((WEB, new), to))

    @rule(path=PATHS, name=NAMES, is_there=st.booleans())
    def another_changes(self, path: Path, name: Name, *, is_there: bool) -> None:
        whole = (*path, name)
        if not self.is_folder(path) or self.is_folder(whole):
            return
        self.others[whole] = self.now
        if is_there:
            self.device[whole] = self.new(stat.S_IFREG)
        else:
            self.device.pop(whole, None)

    @rule(path=PATHS)
    def a_listing_begins(self, path: Path) -> None:
        if self.is_folder(path):
            self.listings.append(Listing(self.dentries.begin((WEB, path)), path))

    @rule()
    def see_somewhere(self) -> None:
        """Have the device answer the listings that it has not answered yet."""
        for listing in self.listings:
            if listing.seen is None and self.is_folder(listing.path):
                listing.seen = self.children(listing.path)

    @rule(pick=st.integers(0, 3))
    def a_listing_ends(self, pick: int) -> None:
        if self.listings:
            self.see_somewhere()
            listing = self.listings.pop(pick % len(self.listings))
            if listing.seen is None:
                self.dentries.abandon(listing.reading)
            else:
                self.dentries.finish(listing.reading, listing.seen, LIFE_S)

    @rule(path=PATHS)
    def a_listing_is_made(self, path: Path) -> None:
        if self.is_folder(path):
            reading = self.dentries.begin((WEB, path))
            self.dentries.finish(reading, self.children(path), LIFE_S)

    @rule(luck=st.integers(0, 5))
    def the_session_ends(self, luck: int) -> None:
        if luck == 0:
            self.dentries.forget(WEB)
            assert self.dentries.count == 0

    @rule(by=st.sampled_from([0.5, 7.0]))
    def time_passes(self, by: float) -> None:
        # No listing takes longer, so nothing is believed for more than two lives.
        self.now += by
        for listing in [*self.listings]:
            if self.now - listing.reading.at >= LIFE_S:
                self.listings.remove(listing)
                self.dentries.abandon(listing.reading)

    def is_disturbed(self, path: Path) -> bool:
        return self.now - self.others.get(path, -100.0) < 2 * LIFE_S

    @invariant()
    def what_is_said_is_true_or_was_just_now(self) -> None:
        for path in [(), *self.folders()]:
            for name in (A, B):
                whole = (*path, name)
                said = self.dentries.find((WEB, path), name)
                if said is not None and not self.is_disturbed(whole):
                    assert said.attrs == self.device.get(whole)

    @invariant()
    def what_is_said_together_is_what_is_said_alone(self) -> None:
        for path in [(), *self.folders()]:
            listed = self.dentries.listed((WEB, path))
            if listed is None:
                continue
            for entry in listed.entries:
                said = self.dentries.find((WEB, path), entry.name)
                assert said
                assert said.attrs == entry.attrs

    @invariant()
    def there_is_room_for_it(self) -> None:
        # Names that were put since count until the next listing is told.
        assert 0 <= self.dentries.count <= ROOM + 8

    @invariant()
    def what_is_kept_is_what_is_counted(self) -> None:
        told = len(self.dentries._listed)
        held = (self.dentries.count + told) * NAME_BYTES
        assert self.budget.held_bytes == self.dentries.held_bytes == held
        assert held <= ROOM_BYTES


TestDeviceModel = DeviceModel.TestCase
TestDeviceModel.settings = settings(max_examples=300, stateful_step_count=60)
