"""What the parsers of all commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pamfs.config import default_path

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001


def add_command(
    subparsers: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    epilog: str,
) -> argparse.ArgumentParser:
    """Add the command ``name``: ``text`` is its help, ``epilog`` its example."""
    parser = subparsers.add_parser(
        name,
        help=text[:1].lower() + text[1:].rstrip("."),
        description=text,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add ``--config FILE``, with the default place."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"default: {default_path()}".replace("%", "%%"),
    )


def config_path(args: argparse.Namespace) -> Path:
    """Return the configuration file that was asked for, absolute."""
    given: Path | None = args.config
    return (given or default_path()).absolute()


def plain(text: object) -> str:
    """Return ``text`` fit for a terminal: no control characters."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
