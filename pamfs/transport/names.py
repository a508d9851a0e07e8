"""By which name each open file of a session can still be reached.

A request by path may stand in for one by handle only while the path leads to the
file that is open. What this session does to names is known here; what others do
shows when the file is looked at (``handle_attrs``).
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

from pamfs.model import RemotePath


@dataclass(slots=True, eq=False, weakref_slot=True)
class OpenName:
    """The name of one open file; None once it has none that is known."""

    path: RemotePath | None


class OpenNames:
    """The names of all open files of one session."""

    def __init__(self) -> None:
        self._names: weakref.WeakSet[OpenName] = weakref.WeakSet()

    def opened(self, path: RemotePath) -> OpenName:
        """Return the name of a file that was opened by ``path``; it is kept current."""
        name = OpenName(path)
        self._names.add(name)
        return name

    def removed(self, path: RemotePath) -> None:
        """Note that ``path`` leads to nothing, or to another file, from now on."""
        for name in self._names:
            if name.path is not None and _is_at(name.path, path):
                name.path = None

    def renamed(self, old: RemotePath, new: RemotePath) -> None:
        """Note that what was at ``old``, and below it, is at ``new``."""
        if old == new:
            return
        self.removed(new)
        for name in self._names:
            if name.path is not None and _is_at(name.path, old):
                name.path = RemotePath(new + name.path[len(old) :])


def _is_at(path: RemotePath, place: RemotePath) -> bool:
    return path == place or path.startswith(place + b"/")
