"""A library in which one name is called differently: the next release, perhaps.

The name is replaced in the sources as they are imported, everywhere, so the library
goes on working; only programs that use the name notice. ``as_renamed`` must run before
the library is imported. A program started with ``environment`` runs it by itself.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

VARIABLE: Final = "PAMFS_TEST_RENAMED"
FOLDER: Final = Path(__file__).parent


class Renaming(importlib.abc.MetaPathFinder):
    """Finds the modules of ``library`` as Python does, and renames in them."""

    def __init__(self, library: str, name: str) -> None:
        self._library = library
        self._name = name

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != self._library:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin, self._name)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, name: str) -> None:
        super().__init__(fullname, path)
        self._word = re.compile(rb"\b%s\b" % name.encode())

    def get_code(self, fullname: str) -> CodeType | None:
        source = self.get_data(self.path)
        if not self._word.search(source):
            return super().get_code(fullname)
        renamed = self._word.sub(lambda found: found[0] + b"_renamed", source)
        return compile(renamed, self.path, "exec", dont_inherit=True)


def as_renamed(library: str, name: str) -> None:
    """Rename ``name`` in all that is imported of ``library`` from now on."""
    assert library not in sys.modules, f"{library} is imported already"
    sys.meta_path.insert(0, Renaming(library, name))


def environment(library: str, name: str) -> dict[str, str]:
    """Return what makes a Python program of its own import it renamed."""
    return {VARIABLE: f"{library}:{name}", "PYTHONPATH": str(FOLDER / "site")}


def from_environment() -> None:
    """Do as ``environment`` says; for ``sitecustomize``."""
    library, _, name = os.environ[VARIABLE].partition(":")
    as_renamed(library, name)
