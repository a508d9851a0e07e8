"""Everything on every server, written down: ``python -m tests.menagerie.run``.

Arguments are names of servers, all of them otherwise.
It ends with 1 if a server stored something wrong that was said to be stored.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

import trio

from tests.contracts.test_remote import PROMISES
from tests.menagerie import table
from tests.menagerie.applications import (
    APPLICATIONS,
    LONG,
    mounted_site,
    outcome,
)
from tests.menagerie.clients import implementation_of
from tests.menagerie.outcomes import KEPT
from tests.menagerie.promised import found
from tests.menagerie.servers import KINDS, Kind

FAR_MS = 10


def promises(kind: Kind) -> dict[str, str]:
    """Return the promises that ``kind`` does not keep, and how."""
    seen: dict[str, str] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        implementation_of(kind, Path(folder)) as sftp,
    ):
        for name in PROMISES:
            how = trio.run(partial(found, sftp, name))
            if how != KEPT:
                seen[name] = how.replace(folder, "...")
    return seen


def is_variant(kind: Kind) -> bool:
    """Whether ``kind`` moves bytes as another one does: OpenSSH with other settings."""
    return kind.name.startswith("openssh-") and kind.name != "openssh-p-fstat"


def applications(kind: Kind) -> dict[str, tuple[str, str]]:
    """Return what became of every application, and of long copies near and far."""
    wanted = APPLICATIONS if is_variant(kind) else APPLICATIONS | LONG
    with mounted_site(kind) as site:
        seen = {name: outcome(app, site) for name, app in wanted.items()}
    if not is_variant(kind):
        with mounted_site(kind, rtt_ms=FAR_MS) as site:
            for name, app in LONG.items():
                seen[f"{name}, {FAR_MS} ms"] = outcome(app, site)
    return {name: (found.state.value, found.note) for name, found in seen.items()}


def main() -> int:
    """Run the servers named, or all; write the table after each step."""
    kinds = [KINDS[name] for name in sys.argv[1:] or KINDS]
    for kind in kinds:
        if missing := kind.missing():
            sys.stdout.write(f"{kind.name}: needs {', '.join(missing)}\n")
    here = [kind for kind in kinds if not kind.missing()]
    for kind in here:
        table.see(kind.name, kind.version(), applications=applications(kind))
        sys.stdout.write(f"{kind.name}: applications done\n")
        sys.stdout.flush()
    for kind in here:
        table.see(kind.name, kind.version(), promises=promises(kind))
    wrong = table.wrong()
    sys.stdout.writelines(f"WRONG, and said to be stored: {what}\n" for what in wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
