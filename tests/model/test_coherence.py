"""Whatever the order of events: nothing older than our own change is ever known.

The device has one folder. Programs change it through this mount, another machine
changes it behind our back, answers arrive long after they were sent, listings overlap
changes, sessions end. What is known of a name must be what that name was on the device
at some instant since our own last change of it, and no longer ago than the TTL.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NoReturn

import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from pamfs.model import AttrChange, Attrs, Entry, Extent, Name
from pamfs.transport.base import OpenMode
from pamfs.vfs.coherence import Coherence
from pamfs.vfs.names.dentries import FolderPath, ListingInProgress
from pamfs.vfs.names.directory_stream import DirectoryStream
from pamfs.vfs.names.inodes import Inode
from tests.fakes.mounted import CALLER, WEB01, mounted, tenant

TTL_S: Final = 8.0
NAMES: Final = [Name(b"a"), Name(b"b"), Name(b"c")]
FOLDER: Final = b"acme/root@web01"


class FailedError(Exception):
    """The device refused, or its answer did not come."""


def fail() -> NoReturn:
    """Raise what ends a change."""
    raise FailedError


@dataclass
class Asked:
    """A lookup on its way, with what the device said."""

    name: Name
    known: Inode | None
    attrs: Attrs | None
    at: float


@dataclass
class Unstored:
    """Writes that are not acknowledged."""

    end: int
    is_foretold: bool = False
    extents: tuple[Extent, ...] = ()


@dataclass
class World:
    """The device, and what this mount did and knows."""

    coherence: Coherence
    home: Inode
    clock: MockClock
    inode_of: Callable[[Name, Attrs], Inode]
    # What each name was, and since when.
    history: dict[Name, list[tuple[float, Attrs | None]]] = field(default_factory=dict)
    ours_at: dict[Name, float] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    readings: list[tuple[ListingInProgress, list[Entry]]] = field(default_factory=list)
    written: dict[Name, tuple[Inode, int]] = field(default_factory=dict)
    size: int = 0

    def now(self, name: Name) -> Attrs | None:
        """Return what ``name`` is on the device."""
        return self.history[name][-1][1]

    def set(self, name: Name, attrs: Attrs | None) -> None:
        """Have ``name`` be ``attrs`` on the device from now on."""
        self.history[name].append((trio.current_time(), attrs))

    def new(self) -> Attrs:
        """Return attributes that no file had before."""
        self.size += 1
        return Attrs(stat.S_IFREG | 0o644, size=self.size, mtime_ns=self.size)

    def ours(self, *names: Name) -> None:
        """Note that this mount changed ``names``, as the device has answered."""
        for name in names:
            self.ours_at[name] = trio.current_time()
            self.written.pop(name, None)

    @property
    def place(self) -> FolderPath:
        """Return where the folder is."""
        return WEB01, ()

    # -- events --------------------------------------------------------------

    def elsewhere(self, name: Name) -> None:
        """Another machine changes ``name``."""
        self.set(name, None if self.now(name) else self.new())

    def make(self, name: Name) -> None:
        """A program makes ``name``, or replaces it."""
        with self.coherence.changing((self.home, name)):
            self.clock.jump(1)
            attrs = self.new()
            self.set(name, attrs)
            self.coherence.made(self.home, name, attrs)
        self.coherence.looked(self.inode_of(name, attrs), attrs, trio.current_time())
        self.ours(name)

    def remove(self, name: Name) -> None:
        """A program removes ``name``."""
        if self.now(name) is None:
            return
        with self.coherence.changing((self.home, name)):
            self.clock.jump(1)
            self.set(name, None)
            self.coherence.removed(self.home, name)
        if self.coherence.known.listing(self.place) is not None:
            dentry = self.coherence.known.find(self.home, name)
            assert dentry is not None, "the device is asked once more"
            assert dentry.attrs is None
        self.ours(name)

    def fail(self, name: Name, *, happens: bool = True) -> None:
        """A change of ``name`` fails, and ``happens`` on the device all the same."""
        with (
            contextlib.suppress(FailedError),
            self.coherence.changing((self.home, name)),
        ):
            if happens:
                self.elsewhere(name)
            self.clock.jump(1)
            fail()
        self.ours(name)

    def rename(self, old: Name, new: Name) -> None:
        """A program renames ``old`` over ``new``."""
        attrs = self.now(old)
        if attrs is None or old == new:
            return
        source, dest = (self.home, old), (self.home, new)
        with self.coherence.changing(source, dest):
            self.clock.jump(1)
            # What is known of a file goes with it to its new name, for its TTL.
            self.history[new] = [*self.history[old], (trio.current_time(), attrs)]
            since = self.ours_at.get(old, 0.0)
            self.set(old, None)
            self.coherence.renamed(source, dest)
        writing = self.written.get(old)
        self.ours(old, new)
        self.ours_at[new] = since
        if writing is not None:
            self.written[new] = writing

    def set_mode(self, name: Name) -> None:
        """A program sets attributes of ``name``."""
        inode, attrs = self.home.children.get(name), self.now(name)
        if inode is None or attrs is None or name in self.written:
            return
        with self.coherence.setting(inode, AttrChange(mtime_ns=1)) as is_set:
            attrs = self.new()
            self.set(name, attrs)
            is_set(attrs)
            self.clock.jump(1)
        self.ours(name)

    def write(self, name: Name) -> None:
        """A program opens ``name`` and writes beyond its end."""
        attrs = self.now(name)
        if attrs is None or name in self.written:
            return
        inode = self.inode_of(name, attrs)
        at = trio.current_time()
        self.coherence.opened(inode, attrs, at, OpenMode.WRITE)
        if self.home.children.get(name) is inode:
            assert self.coherence.known.find(self.home, name) is None
        end = attrs.size + 1000
        self.coherence.queued(inode, Unstored(end))
        self.coherence.written(inode, end, is_append=False)
        self.written[name] = inode, end

    def close(self, name: Name) -> None:
        """The writes of ``name`` are acknowledged and it is closed."""
        if name not in self.written:
            return
        inode, end = self.written.pop(name)
        attrs = Attrs(stat.S_IFREG | 0o644, size=end, mtime_ns=end)
        if self.home.children.get(name) is inode:
            self.set(name, attrs)
        self.size = max(self.size, end)
        self.clock.jump(1)
        self.coherence.stored(inode, (attrs, trio.current_time()))
        self.coherence.flushed(inode)
        self.coherence.released(inode)
        self.ours(name)

    def ask(self, name: Name) -> None:
        """A lookup of ``name`` is sent, and answered by the device."""
        known = self.home.children.get(name)
        at = trio.current_time()
        self.asked.append(Asked(name, known, self.now(name), at))

    def answer(self, _: Name) -> None:
        """The answer of the oldest lookup arrives."""
        if not self.asked:
            return
        asked = self.asked.pop(0)
        name, attrs, at = asked.name, asked.attrs, asked.at
        if attrs is None:
            self.coherence.absent(self.home, name, asked.known, at)
            return
        dentry = self.coherence.known.find(self.home, name)
        if dentry is not None and dentry.attrs is None:
            self.coherence.found_unlisted(self.home, name, attrs, at)
        self.coherence.looked(self.inode_of(name, attrs), attrs, at)

    def list(self, _: Name) -> None:
        """A listing is sent, and answered by the device."""
        reading = self.coherence.listing(self.place)
        found = [Entry(n, attrs) for n in NAMES if (attrs := self.now(n)) is not None]
        self.readings.append((reading, found))

    def arrive(self, _: Name) -> None:
        """The oldest listing arrives."""
        if self.readings:
            self.coherence.listed(*self.readings.pop(0), TTL_S)

    def lose(self, _: Name) -> None:
        """The session ends; what was on its way does not arrive."""
        for reading, _entries in self.readings:
            self.coherence.not_listed(reading)
        self.readings.clear()
        self.asked.clear()
        self.coherence.session_over(WEB01)
        for name in NAMES:
            assert self.coherence.known.find(self.home, name) is None

    # -- what must hold ------------------------------------------------------

    def check(self) -> None:
        for name in NAMES:
            self._check_name(name)
        for name, (inode, end) in self.written.items():
            assert inode.seen is None or inode.seen.size >= end, name

    def _check_name(self, name: Name) -> None:
        dentry = self.coherence.known.find(self.home, name)
        if dentry is None or name in self.written:
            return
        since = max(self.ours_at.get(name, 0.0), trio.current_time() - TTL_S)
        states = self.history[name]
        ends = [at for at, _ in states[1:]] + [float("inf")]
        allowed = [
            attrs for (_, attrs), end in zip(states, ends, strict=True) if end >= since
        ]
        assert dentry.attrs in allowed


def fail_unheard(world: World, name: Name) -> None:
    """A change fails before it happens."""
    world.fail(name, happens=False)


EVENTS: Final = [
    *(
        World.elsewhere,
        World.make,
        World.remove,
        World.fail,
        fail_unheard,
        World.set_mode,
    ),
    *(World.write, World.close, World.ask, World.answer, World.list, World.arrive),
    World.lose,
]
STEP: Final = st.one_of(
    st.tuples(st.sampled_from(EVENTS), st.sampled_from(NAMES)),
    st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)),
)


async def world(clock: MockClock) -> World:
    """Return a world whose folder is empty and listed by nobody."""
    mount = mounted(tenant(attr_timeout_s=TTL_S))
    node = await mount.look(FOLDER)
    home = mount.tree.inodes.get(node.ino)
    fh = await mount.tree.directories.open(node.ino, CALLER)
    mount.tree.directories.close(fh)
    mount.tree.coherence.watch(home, DirectoryStream())

    def inode_of(name: Name, attrs: Attrs) -> Inode:
        return mount.tree.inodes.looked_up(home, name, attrs)

    found = World(mount.tree.coherence, home, clock, inode_of)
    for name in NAMES:
        found.history[name] = [(trio.current_time(), None)]
    return found


LISTED: Final = [(World.make, NAMES[0]), (World.list, NAMES[0]), (World.arrive, b"")]


@settings(deadline=None, max_examples=300)
@example([*LISTED, (World.remove, NAMES[0])])
@example([*LISTED, (World.write, NAMES[0])])
@example([*LISTED, (World.lose, NAMES[0])])
@example(  # the file that is written has another name by now
    [
        (World.elsewhere, NAMES[0]),
        (World.write, NAMES[0]),
        (NAMES[0], NAMES[1]),
        (World.set_mode, NAMES[1]),
    ]
)
@given(st.lists(STEP, max_size=40))
def test_nothing_older_than_our_own_change_is_known(
    steps: list[tuple[Callable[[World, Name], None] | Name, Name]],
) -> None:
    clock = MockClock()

    async def run() -> None:
        found = await world(clock)
        for event, name in steps:
            clock.jump(0.25)
            if isinstance(event, bytes):
                found.rename(event, name)
            else:
                event(found, name)
            found.check()

    trio.run(run, clock=clock)
