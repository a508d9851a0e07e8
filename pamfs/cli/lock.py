"""``pamfs lock``: close a target now."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pamfs.cli.exits import Exit
from pamfs.cli.parsers import add_command, plain
from pamfs.cli.places import NoMountError, daemon_of, find_place

if TYPE_CHECKING:
    from pamfs.cli.parsers import Subparsers

_EPILOG: Final = """\
example:
  pamfs lock ~/pam/acme/root@web01
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add ``lock``."""
    text = "Close a target: its session ends, its credential is checked in."
    parser = add_command(subparsers, "lock", run, text, _EPILOG)
    parser.add_argument("path", type=Path, metavar="PATH", help="a target, or below it")


def run(args: argparse.Namespace) -> int:
    """Close the target of PATH; return when its session is over."""
    try:
        place = find_place(args.path)
    except NoMountError as exc:
        return _fail(Exit.NOT_MOUNTED, exc)
    with daemon_of(place.mountpoint) as daemon:
        daemon.wait_for_ever()
        daemon.send({"command": "lock", "path": place.below})
        answer = daemon.receive()
    if answer.get("ok") is True:
        return Exit.OK
    return _fail(Exit.FAILED, answer.get("error"))


def _fail(code: Exit, problem: object) -> Exit:
    print(f"pamfs lock: {plain(problem)}", file=sys.stderr)
    return code
