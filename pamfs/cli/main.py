"""``pamfs``: from the command line to an exit code."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from pamfs.cli import access, check, mount, mount_helper, status, umount
from pamfs.cli.base import Exit, exit_of, plain, table
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
    """``--version``; the commit is looked up only when the option is given."""

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
    """Run the command in ``argv``; return its exit code (``pamfs.cli.base``)."""
    words = sys.argv[1:] if argv is None else argv
    if mount_helper.is_meant(words):
        return mount_helper.main(words)
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
    for module in (mount, umount, status):
        module.add_parser(commands)
    access.add_parsers(commands)
    for module in (check, mount_helper):
        module.add_parser(commands)
    if importlib.util.find_spec(_LAB):  # a distribution may leave it out
        importlib.import_module(_LAB).add_parser(commands)
    return parser


def complain(command: str, problem: str) -> None:
    """Print one line on stderr."""
    print(f"pamfs {command}: {plain(problem)}", file=sys.stderr)


_GIT_S = 5


def version_line() -> str:
    """Return e.g. ``pamfs 0.1.0 (f8d4630)``."""
    try:
        version = distribution("pamfs").version
    except PackageNotFoundError:
        version = "(not installed)"
    commit = _commit()
    return f"pamfs {version}" + (f" ({commit})" if commit else "")


def _commit() -> str:
    return _commit_of_install() or _commit_of_checkout()


def _commit_of_install() -> str:
    # PEP 610: pip notes the commit when it installs from a repository.
    try:
        noted = distribution("pamfs").read_text("direct_url.json")
    except PackageNotFoundError:
        return ""
    facts = json.loads(noted) if noted else {}
    return str(facts.get("vcs_info", {}).get("commit_id", ""))[:12]


def _commit_of_checkout() -> str:
    root = Path(__file__).parents[2]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(  # noqa: S603 - our words only
            [git, "-C", str(root), "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            check=False,
            text=True,
            timeout=_GIT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
