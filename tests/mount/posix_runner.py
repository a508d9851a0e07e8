"""Run checks on a folder in a process of their own; write down what became of each.

``python -m tests.mount.posix_runner FOLDER RESULTS``: standard input holds a
JSON list of [kind, name], kind being CHECKS or DEVIANTS. Every line of RESULTS
is a JSON list of a name and null, or what went wrong. A check that hangs leaves
no line: ending it is the caller's business.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from tests.mount.posix import Check
from tests.mount.posix_real import RealOs
from tests.mount.posix_suite import CHECKS, DEVIANTS

KINDS = {"CHECKS": CHECKS, "DEVIANTS": DEVIANTS}


def run(check: Check, folder: bytes) -> str | None:
    """Run ``check`` in a new folder; return what went wrong."""
    try:
        os.mkdir(folder)
        check(RealOs(), folder)
    except Exception:  # noqa: BLE001 - it is what the caller wants to know
        return traceback.format_exc(limit=-4)
    return None


def main() -> None:
    """Run what standard input asks for."""
    root = os.fsencode(sys.argv[1])
    os.umask(0o022)
    with Path(sys.argv[2]).open("w") as results:
        for kind, name in json.load(sys.stdin):
            found = run(KINDS[kind][name], root + b"/" + name.encode())
            results.write(json.dumps([name, found]) + "\n")
            results.flush()


if __name__ == "__main__":
    main()
