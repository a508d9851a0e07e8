"""``pamfs unlock``: open a target now, asked on this terminal."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from pamfs.cli.answering import Answerer
from pamfs.cli.by_path import add_path_command, send_path
from pamfs.cli.exits import Exit

if TYPE_CHECKING:
    from pamfs.cli.parsers import Subparsers

_EPILOG: Final = """\
example:
  pamfs unlock ~/pam/acme/root@web01

PATH is a target, or below it. One that cools down after a refusal is tried again
all the same.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add ``unlock``."""
    text = "Log in to a target now; questions are asked on this terminal."
    add_path_command(subparsers, "unlock", run, text, _EPILOG)


def run(args: argparse.Namespace) -> int:
    """Open the target of PATH; say why it could not be opened."""
    return send_path(
        "unlock", args.path, lambda daemon: Answerer(daemon).run(), Exit.REFUSED
    )
