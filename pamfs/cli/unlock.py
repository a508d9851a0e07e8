"""``pamfs unlock``: open a target now, asked on this terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pamfs.cli.answering import Answerer
from pamfs.cli.exits import Exit
from pamfs.cli.parsers import add_command, plain
from pamfs.cli.places import NoMountError, daemon_of, find_place

if TYPE_CHECKING:
    from pamfs.cli.parsers import Subparsers

_EPILOG: Final = """\
example:
  pamfs unlock ~/pam/acme/root@web01

A target that cools down after a refusal is tried again all the same.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add ``unlock``."""
    text = "Log in to a target now; questions are asked on this terminal."
    parser = add_command(subparsers, "unlock", run, text, _EPILOG)
    parser.add_argument("path", type=Path, metavar="PATH", help="a target, or below it")


def run(args: argparse.Namespace) -> int:
    """Open the target of PATH; say why it could not be opened."""
    try:
        place = find_place(args.path)
    except NoMountError as exc:
        return _fail(Exit.NOT_MOUNTED, exc)
    with daemon_of(place.mountpoint) as daemon:
        daemon.wait_for_ever()
        daemon.send({"command": "unlock", "path": place.below})
        last = Answerer(daemon).run()
    if last.get("ok") is True:
        return Exit.OK
    return _fail(Exit.REFUSED, last.get("error"))


def _fail(code: Exit, problem: object) -> Exit:
    print(f"pamfs unlock: {plain(problem)}", file=sys.stderr)
    return code
