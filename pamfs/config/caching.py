"""How much memory the caches of a mount may hold: the key ``cache`` of the file."""

from __future__ import annotations

import re
from typing import Final

from pamfs.config.sections import Section

DEFAULT_BYTES: Final = 128 << 20
# More than a machine would give to one mount; a slip of the unit shows.
_MOST_BYTES: Final = 64 << 30
_SIZE: Final = re.compile(r"(\d+) ?(KiB|MiB|GiB)")
_UNIT_BYTES: Final = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def read_caching(top: Section) -> int:
    """Return the bytes that ``cache`` allows; 0 caches no content."""
    value = top.take("cache")
    if value is None:
        return DEFAULT_BYTES
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if value == 0 and not isinstance(value, bool):
        return 0
    size = int(found[1]) * _UNIT_BYTES[found[2]] if found else None
    if size is None or size > _MOST_BYTES:
        hint = '"128 MiB", in KiB, MiB or GiB; 0: nothing is kept'
        top.report("cache", "this is no size of a cache", hint)
        return DEFAULT_BYTES
    return size
