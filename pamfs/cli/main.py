"""``pamfs``: the command line to an exit code."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from typing import Final

from pamfs.cli import agent, check, helper, lock, mount, status, umount, unlock
from pamfs.cli.exits import Exit, exit_of, table
from pamfs.cli.parsers import plain
from pamfs.cli.version import version_line
from pamfs.errors import PamfsError

_LAB: Final = "pamfs.cli.lab"
_EPILOG: Final = """\
example:
  pamfs check
  pamfs mount ~/pam
  ls ~/pam/acme/root@web01/etc
  pamfs umount ~/pam

exit codes:
"""


class _ShowVersion(argparse.Action):
    """``--version``, whose text is looked up only when it is asked for."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Print the version and leave."""
        del namespace, values, option_string
        print(version_line())
        parser.exit(Exit.OK)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in ``argv``; return its exit code (``pamfs.cli.exits``)."""
    words = sys.argv[1:] if argv is None else argv
    if helper.is_meant(words):
        return helper.main(words)
    args = build_parser().parse_args(words)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except PamfsError as exc:
        complain(args.command, str(exc))
        return exit_of(exc)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with all commands."""
    parser = argparse.ArgumentParser(
        prog="pamfs",
        description="Mount a PAM proxy: below it, everything is files.",
        epilog=_EPILOG + table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", nargs=0, action=_ShowVersion, help="show version and commit"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (mount, umount, status, unlock, lock, agent, check, helper):
        module.add_parser(commands)
    if importlib.util.find_spec(_LAB):  # a distribution may leave it out
        importlib.import_module(_LAB).add_parser(commands)
    return parser


def complain(command: str, problem: str) -> None:
    """Print one line on stderr."""
    print(f"pamfs {command}: {plain(problem)}", file=sys.stderr)
