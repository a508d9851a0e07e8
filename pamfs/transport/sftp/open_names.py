"""By which name each open file of a session can still be reached.

A request by path may stand in for one by handle only while the path leads to the
file that is open. What this session does to names is known here; what others do
shows when the file is looked at (``handle_attrs``).
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from pamfs.model import Attrs, RemotePath

Look = Callable[[], Awaitable[Attrs]]

# How long a request waits for the close of a file that the server shows only then.
_CLOSE_S: Final = 5.0


@dataclass(slots=True, eq=False, weakref_slot=True)
class OpenName:
    """The name of one open file; None once it has none that is known."""

    path: RemotePath | None
    look: Look | None = None
    # The server does not show the file by its name before it is closed.
    is_hidden: bool = False
    closed: trio.Event = field(default_factory=trio.Event)


class OpenNames:
    """The names of all open files of one session."""

    def __init__(self) -> None:
        self._names: weakref.WeakSet[OpenName] = weakref.WeakSet()
        self._hides = False  # whether the server was seen to hide a file

    def opened(self, path: RemotePath) -> OpenName:
        """Return the name of a file that was opened by ``path``; it is kept current."""
        name = OpenName(path)
        self._names.add(name)
        return name

    def hide(self, name: OpenName) -> None:
        """Note that the server does not show the file of ``name`` by its path."""
        name.is_hidden = self._hides = True

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

    def hidden_at(self, path: RemotePath) -> OpenName | None:
        """Return the open file at ``path`` that the server does not show."""
        for name in self._names if self._hides else ():
            if name.is_hidden and name.path == path:
                return name
        return None


async def shows_closed(hidden: OpenName) -> bool:
    """Whether the file of ``hidden`` is closed, or soon is: it has its name then."""
    with trio.move_on_after(_CLOSE_S):
        await hidden.closed.wait()
    return hidden.closed.is_set()


def _is_at(path: RemotePath, place: RemotePath) -> bool:
    return path == place or path.startswith(place + b"/")
