"""A POSIX file system in memory, as root sees it: no wire, no waiting.

Invariant: a node lives while a name or an open handle holds it, and ``nlink``
is the number of its names (for a directory 2 plus its subdirectories).
"""

from __future__ import annotations

import errno
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

NAME_MAX = 255
PATH_MAX = 4096
LINKS_MAX = 40  # Linux follows at most 40 symbolic links in one path


def refused(code: int) -> OSError:
    """Return the error that the system call would give."""
    return OSError(code, errno.errorcode[code])


@dataclass(eq=False, slots=True)
class Node:
    """A file, a directory or a symbolic link; ``mode`` says which."""

    mode: int
    now_ns: int
    uid: int = 0
    gid: int = 0
    nlink: int = 1
    content: bytearray = field(default_factory=bytearray)
    entries: dict[bytes, Node] = field(default_factory=dict)
    parent: Node | None = None
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0

    def __post_init__(self) -> None:
        self.atime_ns = self.mtime_ns = self.ctime_ns = self.now_ns

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def size(self) -> int:
        return 4096 if self.is_dir else len(self.content)

    def touched(self, now_ns: int) -> None:
        self.mtime_ns = self.ctime_ns = now_ns

    def resize(self, size: int) -> None:
        if size < len(self.content):
            del self.content[size:]
        else:
            self.content.extend(bytes(size - len(self.content)))


@dataclass(slots=True)
class Place:
    """Where a path leads: the directory, the last name, and who bears it."""

    parent: Node
    name: bytes
    node: Node | None

    def found(self) -> Node:
        if self.node is None:
            raise refused(errno.ENOENT)
        return self.node


class MemoryFs:
    """One tree of nodes, and the system calls on it; ``OSError`` as Linux."""

    def __init__(self, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.clock_ns = clock_ns
        self.root = Node(stat.S_IFDIR | 0o755, clock_ns(), nlink=2)

    # -- paths -----------------------------------------------------------

    def place(self, path: bytes, *, follow: bool) -> Place:
        """Return where ``path`` leads; with ``follow`` through a last link too."""
        if len(path) >= PATH_MAX:
            raise refused(errno.ENAMETOOLONG)
        here, steps, links = self.root, _steps(path), 0
        place = Place(here, b"", here)
        while steps:
            name = steps.pop(0)
            place = _step(here, name)
            node = place.node
            if node is not None and node.is_link and (steps or follow):
                links += 1
                if links > LINKS_MAX:
                    raise refused(errno.ELOOP)
                content = bytes(node.content)
                here = self.root if content.startswith(b"/") else here
                steps = _steps(content) + steps
                place = Place(here, b"", here)
                continue
            if steps:
                here = place.found()
        if path.endswith(b"/") and place.node and not place.node.is_dir:
            raise refused(errno.ENOTDIR)
        return place

    def node(self, path: bytes, *, follow: bool = False) -> Node:
        """Return the node at ``path``; ENOENT if there is none."""
        return self.place(path, follow=follow).found()

    def walk(self) -> Iterator[Node]:
        """Yield every node that has a name, as often as it has names."""
        todo = [self.root]
        while todo:
            node = todo.pop()
            yield node
            todo.extend(node.entries.values())

    # -- names -----------------------------------------------------------

    def create(self, path: bytes, mode: int) -> Node:
        """Make a node of any type at ``path``; EEXIST if the name is taken."""
        place = self.place(path, follow=False)
        if place.node is not None:
            raise refused(errno.EEXIST)
        return self.add(place, mode)

    def add(self, place: Place, mode: int) -> Node:
        """Give the free name of ``place`` to a new node."""
        now = self.clock_ns()
        node = Node(mode, now)
        if place.parent.mode & stat.S_ISGID:
            node.gid = place.parent.gid
            node.mode |= stat.S_ISGID if node.is_dir else 0
        node.nlink = 0
        self._enter(place, node)
        return node

    def mkdir(self, path: bytes, mode: int) -> None:
        self.create(path, stat.S_IFDIR | (mode & 0o7777))

    def rmdir(self, path: bytes) -> None:
        place = self.place(path, follow=False)
        node = place.found()
        if not node.is_dir:
            raise refused(errno.ENOTDIR)
        if node is self.root:
            raise refused(errno.EBUSY)
        if node.entries:
            raise refused(errno.ENOTEMPTY)
        self._leave(place)

    def unlink(self, path: bytes) -> None:
        place = self.place(path, follow=False)
        if place.found().is_dir:
            raise refused(errno.EISDIR)
        self._leave(place)

    def link(self, old: bytes, new: bytes) -> None:
        node = self.node(old)
        if node.is_dir:
            raise refused(errno.EPERM)
        place = self.place(new, follow=False)
        if place.node is not None:
            raise refused(errno.EEXIST)
        self._enter(place, node)

    def symlink(self, content: bytes, path: bytes) -> None:
        if not content:
            raise refused(errno.ENOENT)
        node = self.create(path, stat.S_IFLNK | 0o777)
        node.content[:] = content

    def readlink(self, path: bytes) -> bytes:
        node = self.node(path)
        if not node.is_link:
            raise refused(errno.EINVAL)
        return bytes(node.content)

    def rename(self, old: bytes, new: bytes, *, replace: bool) -> None:
        source, dest = self.place(old, follow=False), self.place(new, follow=False)
        node = source.found()
        _check_loops(node, source, dest)
        if dest.node is not None:
            if not replace:
                raise refused(errno.EEXIST)
            if dest.node is node:
                return
            _check_replaceable(node, dest.node)
            self._leave(dest)
        self._leave(source)
        self._enter(dest, node)

    def _enter(self, place: Place, node: Node) -> None:
        if place.parent.nlink == 0:  # a directory that was removed
            raise refused(errno.ENOENT)
        now = self.clock_ns()
        place.parent.entries[place.name] = node
        place.parent.touched(now)
        node.ctime_ns = now
        if node.is_dir:
            node.nlink, node.parent = 2 + _subdirs(node), place.parent
            place.parent.nlink += 1
        else:
            node.nlink += 1

    def _leave(self, place: Place) -> None:
        node, now = place.found(), self.clock_ns()
        del place.parent.entries[place.name]
        place.parent.touched(now)
        node.ctime_ns = now
        if node.is_dir:
            node.nlink = 0
            place.parent.nlink -= 1
        else:
            node.nlink -= 1

    # -- for tests -------------------------------------------------------

    def put(self, path: bytes, content: bytes = b"", mode: int = 0o644) -> Node:
        """Store a file as somebody on the device would, with its folders."""
        self.make_dirs(path.rpartition(b"/")[0])
        place = self.place(path, follow=True)
        node = place.node or self.add(place, stat.S_IFREG | mode)
        node.content[:] = content
        node.touched(self.clock_ns())
        return node

    def make_dirs(self, path: bytes, mode: int = 0o755) -> Node:
        """Make ``path`` and what is missing above it."""
        here = b""
        for name in _steps(path):
            here += b"/" + name
            if self.place(here, follow=True).node is None:
                self.mkdir(here, mode)
        return self.node(path or b"/", follow=True)


def _steps(path: bytes) -> list[bytes]:
    return [name for name in path.split(b"/") if name]


def _step(here: Node, name: bytes) -> Place:
    if not here.is_dir:
        raise refused(errno.ENOTDIR)
    if len(name) > NAME_MAX:
        raise refused(errno.ENAMETOOLONG)
    match name:
        case b".":
            return Place(here, name, here)
        case b"..":
            return Place(here, name, here.parent or here)
        case _:
            return Place(here, name, here.entries.get(name))


def _subdirs(node: Node) -> int:
    return sum(child.is_dir for child in node.entries.values())


def _is_inside(node: Node, above: Node) -> bool:
    here: Node | None = node
    while here is not None and here is not above:
        here = here.parent
    return here is not None


def _check_loops(node: Node, source: Place, dest: Place) -> None:
    # The order of Linux, fs/namei.c do_renameat2: both ancestries come first.
    if node.is_dir and node is not dest.node and _is_inside(dest.parent, node):
        raise refused(errno.EINVAL)
    upper = dest.node
    if upper is not None and upper is not node and _is_inside(source.parent, upper):
        raise refused(errno.ENOTEMPTY)


def _check_replaceable(node: Node, victim: Node) -> None:
    if victim.is_dir and not node.is_dir:
        raise refused(errno.EISDIR)
    if node.is_dir and not victim.is_dir:
        raise refused(errno.ENOTDIR)
    if victim.entries:
        raise refused(errno.ENOTEMPTY)
