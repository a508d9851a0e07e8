"""Names of a library that it does not promise: are they there, and what if not.

Law: what pamfs takes from a library beside its documented interface is declared as
``Names`` and looked for when the mount starts. Looking neither connects nor builds
anything: methods and class attributes are found on the class, attributes of an object
in the instructions of ``__init__`` that store them, arguments in the signature.
"""

from __future__ import annotations

import dis
import importlib
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pamfs.errors import PamfsError

_STORES: Final = frozenset({"STORE_ATTR"})


class LibraryError(PamfsError):
    """A library lacks something that pamfs cannot do without."""


@dataclass(frozen=True, slots=True)
class Names:
    """Names that pamfs uses of ``owner``: ``module`` or ``module:Class``.

    ``args`` is set where the names are called: how many positional arguments they
    must take, ``self`` included. ``keywords`` is set where they are called with those
    of these arguments that they take, by name: they must need no others.
    """

    owner: str
    names: tuple[str, ...]
    args: int | None = None
    keywords: frozenset[str] = frozenset()

    def missing(self) -> Iterator[str]:
        """Yield what is not there, as ``Class.name`` or ``module.name``."""
        module_name, _, class_name = self.owner.partition(":")
        try:
            owner: object = importlib.import_module(module_name)
        except ImportError:
            yield module_name
            return
        if class_name:
            owner = getattr(owner, class_name, None)
        stored = _attributes(owner) if isinstance(owner, type) else frozenset()
        for name in self.names:
            is_there = hasattr(owner, name) or name in stored
            if not is_there or not self._takes(owner, name):
                yield f"{class_name or module_name}.{name}"

    def _takes(self, owner: object, name: str) -> bool:
        if self.args is None and not self.keywords:
            return True
        try:
            taken = inspect.signature(getattr(owner, name))
            if self.args is not None:
                taken.bind(*range(self.args))
        except (TypeError, ValueError):
            return False
        return not self.keywords or self.keywords.issuperset(taken.parameters)


def missing(declared: Iterable[Names]) -> list[str]:
    """Return all that is missing of ``declared``."""
    return [name for names in declared for name in names.missing()]


def is_within(version: str, first: tuple[int, int], end: tuple[int, int]) -> bool:
    """Whether ``version`` is at least ``first`` and before ``end``."""
    parts = version.split(".")[:2]
    if not all(part.isdecimal() for part in parts):
        return False
    return first <= tuple(map(int, parts)) < end


def _attributes(kind: type) -> set[str]:
    """Return the attributes that an object of ``kind`` has when it is made."""
    found: set[str] = set()
    for base in kind.__mro__:
        found.update(vars(base).get("__annotations__", ()))
        made = vars(base).get("__init__")
        if inspect.isfunction(made):
            steps = dis.get_instructions(made)
            found.update(str(s.argval) for s in steps if s.opname in _STORES)
    return found
