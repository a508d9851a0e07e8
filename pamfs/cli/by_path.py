"""What ``lock`` and ``unlock`` have in common: a path, its daemon, one command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pamfs.cli.exits import Exit
from pamfs.cli.parsers import add_command, plain
from pamfs.cli.places import NoMountError, daemon_of, find_place
from pamfs.control import Daemon

if TYPE_CHECKING:
    from pamfs.cli.parsers import Subparsers


def add_path_command(
    subparsers: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    epilog: str,
) -> argparse.ArgumentParser:
    """Add the command ``name``, which takes a path on a mount."""
    parser = add_command(subparsers, name, run, text, epilog)
    parser.add_argument("path", type=Path, metavar="PATH")
    return parser


def send_path(
    command: str,
    path: Path,
    hear: Callable[[Daemon], Mapping[str, object]],
    otherwise: Exit,
) -> Exit:
    """Send ``command`` for ``path`` and ``hear`` its last word.

    What is wrong goes to stderr; ``otherwise`` is the exit code of a refusal.
    """
    try:
        place = find_place(path)
    except NoMountError as exc:
        return _fail(command, Exit.NOT_MOUNTED, exc)
    with daemon_of(place.mountpoint) as daemon:
        daemon.wait_for_ever()
        daemon.send({"command": command, "path": place.below})
        last = hear(daemon)
    if last.get("ok") is True:
        return Exit.OK
    return _fail(command, otherwise, last.get("error"))


def _fail(command: str, code: Exit, problem: object) -> Exit:
    print(f"pamfs {command}: {plain(problem)}", file=sys.stderr)
    return code
