"""``pamfs agent``: answer the questions of a mount on this terminal, as they come."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pamfs.cli.answering import Answerer
from pamfs.cli.exits import Exit
from pamfs.cli.parsers import add_command, plain
from pamfs.cli.places import NoMountError, daemon_of, find_place
from pamfs.mountpoint import own_mounts

if TYPE_CHECKING:
    from pamfs.cli.parsers import Subparsers

_EPILOG: Final = """\
example:
  pamfs agent ~/pam

Ctrl-D instead of an answer declines; Ctrl-C ends the agent.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add ``agent``."""
    text = "Show the questions of a mount on this terminal, and answer them."
    parser = add_command(subparsers, "agent", run, text, _EPILOG)
    parser.add_argument(
        "mountpoint",
        type=Path,
        nargs="?",
        metavar="MOUNTPOINT",
        help="default: the one",
    )


def run(args: argparse.Namespace) -> int:
    """Answer until the mount ends."""
    try:
        point = _the_mount(args.mountpoint)
    except NoMountError as exc:
        print(f"pamfs agent: {plain(exc)}", file=sys.stderr)
        return Exit.NOT_MOUNTED
    with daemon_of(point) as daemon:
        daemon.wait_for_ever()
        daemon.send({"command": "agent"})
        print(f"pamfs agent: answering for {plain(point)}", flush=True)
        Answerer(daemon).run()
    return Exit.OK


def _the_mount(given: Path | None) -> Path:
    if given is not None:
        return find_place(given).mountpoint
    points = sorted({entry.mountpoint for entry in own_mounts()})
    if len(points) != 1:
        raise NoMountError(f"{len(points)} mounts: say which one (pamfs status)")
    return points[0]
