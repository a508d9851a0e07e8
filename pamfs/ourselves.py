"""Our own modules as processes: this very package, whatever the current folder holds.

Law: no folder that somebody else can write is looked into for what we run. ``-m``
alone has Python look into the current one first.
"""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[1]


def command(module: str, *words: str) -> list[str]:
    """Return what runs ``module`` with ``words``; start it in ``/``."""
    return [sys.executable, "-P", "-m", module, *words]


def environment() -> dict[str, str]:
    """Return an environment in which this package is found, installed or not."""
    found = dict(os.environ)
    if str(_ROOT) in {*site.getsitepackages(), site.getusersitepackages()}:
        return found  # and the programs that we start are spared a PYTHONPATH
    paths = found.get("PYTHONPATH", "").split(os.pathsep)
    others = [path for path in paths if path and path != str(_ROOT)]
    return {**found, "PYTHONPATH": os.pathsep.join([str(_ROOT), *others])}
