"""``pamfs lock``: close a target now, or all of a tenant or a mount."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from pamfs.cli.by_path import add_path_command, send_path
from pamfs.cli.exits import Exit
from pamfs.control import Daemon

if TYPE_CHECKING:
    from pamfs.cli.parsers import Subparsers

_EPILOG: Final = """\
example:
  pamfs lock ~/pam/acme/root@web01

PATH is a target, or below it; of a tenant's folder or of the mount point, every
target in it is closed.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add ``lock``."""
    text = "Close a target: its session ends, its credential is checked in."
    add_path_command(subparsers, "lock", run, text, _EPILOG)


def run(args: argparse.Namespace) -> int:
    """Close what is at PATH; return when no session is left there."""
    return send_path("lock", args.path, Daemon.receive, Exit.FAILED)
