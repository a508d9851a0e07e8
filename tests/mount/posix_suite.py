"""All checks together, and which of them docs/posix.md lists as deviations."""

from __future__ import annotations

import re
from pathlib import Path

from tests.mount.posix import Check
from tests.mount.posix_attrs import ATTRS, DEVIANT_ATTRS
from tests.mount.posix_directories import DIRECTORIES
from tests.mount.posix_events import EVENTS
from tests.mount.posix_io import IO
from tests.mount.posix_kernel import DEVIANT_KERNEL, KERNEL
from tests.mount.posix_links import DEVIANT_LINKS, LINKS
from tests.mount.posix_names import NAMES
from tests.mount.posix_opens import OPENS

# Those that any driver can run, and those that need a kernel.
PORTABLE: dict[str, Check] = IO | NAMES | LINKS | ATTRS | OPENS
CHECKS: dict[str, Check] = PORTABLE | KERNEL | DIRECTORIES | EVENTS
DEVIANTS: dict[str, Check] = DEVIANT_LINKS | DEVIANT_ATTRS | DEVIANT_KERNEL

_ROW = re.compile(r"^\| `(\w+)` \| (.+) \| (.+) \|$")


def documented(page: Path) -> dict[str, tuple[str, str]]:
    """Return the rows of the table of deviations: name to (what, why)."""
    found = {}
    for line in page.read_text().splitlines():
        if row := _ROW.match(line):
            found[row[1]] = (row[2], row[3])
    return found
