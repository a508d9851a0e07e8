"""``pamfs lab``: start and stop the embedded PAM; the commands of its administrator.

``pamfs.lab`` is imported only when a command needs it: a distribution may leave it out.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pamfs.errors import PamfsError

if TYPE_CHECKING:
    from collections.abc import Callable

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001

_EPILOG = """\
example:
  pamfs lab up --dir ~/lab
  pamfs mount --config ~/lab/config.toml ~/pam
  cat ~/pam/acme/root@web01/etc/motd
  pamfs lab kill-session --dir ~/lab root@web01
  pamfs lab down --dir ~/lab
"""
_HIGHEST_PORT = 65535


def add_parser(subparsers: Subparsers) -> None:
    """Add ``lab`` and its commands."""
    parser = subparsers.add_parser(
        "lab",
        help="run an embedded PAM to try things on",
        description="An embedded PAM on 127.0.0.1: proxy, vault, devices.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    acts = parser.add_subparsers(dest="act", metavar="COMMAND", required=True)
    start = _command(acts, "up", "start the lab; returns when it is ready", _up)
    start.add_argument("--port", type=_port, default=0, help="default: a free one")
    start.add_argument("--spec", type=Path, help="another lab (JSON)")
    start.add_argument("--foreground", action="store_true", help="do not detach")
    _command(acts, "down", "stop the lab", _down)
    _command(acts, "sessions", "show the sessions as JSON", _show)
    _command(acts, "rotate-host-key", "show another host key from now on", _show)
    killing = _command(acts, "kill-session", "cut sessions", _show)
    killing.add_argument("target", nargs="?", help="[tenant/]credential@device")
    _command(
        acts, "custody", "show the credentials in custody at the vault as JSON", _show
    )
    for act, text in (
        ("approve", "approve sessions to a target"),
        ("hold", "take a target into custody at the vault for another user"),
        ("let-go", "end every custody of a target at the vault"),
    ):
        command = _command(acts, act, text, _tell)
        command.add_argument("target", help="[tenant/]credential@device")
    for act, text in (
        ("expire", "mark an operator's password as expired"),
        ("lock", "lock an operator"),
        ("unlock", "unlock an operator"),
    ):
        command = _command(acts, act, text, _tell)
        command.add_argument("operator", help="[tenant/]name")


def run(args: argparse.Namespace) -> int:
    """Do the command of ``pamfs lab``; return the exit code (1: one clear line)."""
    act: Callable[[argparse.Namespace], int] = args.do
    try:
        return act(args)
    except PamfsError as exc:
        print(f"pamfs lab: {exc}", file=sys.stderr)
        return 1


def _command(
    acts: Subparsers, name: str, text: str, do: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    parser = acts.add_parser(
        name,
        help=text,
        description=text[:1].upper() + text[1:] + ".",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--dir", type=Path, required=True, metavar="DIR", help="the lab's folder"
    )
    parser.set_defaults(do=do)
    return parser


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= _HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"{number} is not a port")
    return number


def _up(args: argparse.Namespace) -> int:
    from pamfs.lab import daemon

    if args.foreground:
        return daemon.foreground(args.dir, args.port, args.spec)
    daemon.up(args.dir, args.port, args.spec)
    facts = json.loads((args.dir / "lab.json").read_text())
    print(f"lab: 127.0.0.1:{facts['port']}, configuration {facts['config']}")
    return 0


def _down(args: argparse.Namespace) -> int:
    from pamfs.lab import daemon

    stopped = daemon.down(args.dir)
    print(f"lab: {'stopped' if stopped else f'none is running in {args.dir}'}")
    return 0


def _show(args: argparse.Namespace) -> int:
    print(json.dumps(_asked(args), indent=2))
    return 0


def _tell(args: argparse.Namespace) -> int:
    _asked(args)
    return 0


def _asked(args: argparse.Namespace) -> object:
    from pamfs.lab import daemon

    names = {"target", "operator"} & set(vars(args))
    return daemon.ask(
        args.dir, args.act, **{name: getattr(args, name) for name in names}
    )
