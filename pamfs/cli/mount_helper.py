"""``pamfs mount-helper``: what mount(8) runs for ``-t pamfs`` and for fstab.

    mount.pamfs SOURCE DIR [-sfnvrw] [-t TYPE] [-o OPT[,OPT...]]

SOURCE is the configuration's path, bare or as ``pamfs:PATH``; the latter is what
the kernel shows afterwards, so that ``mount -a`` knows what is mounted already.
Complaints and exit codes are those of mount(8). mount.fuse3(8) calls the same with
``pamfs SOURCE DIR -o ...``.
"""

from __future__ import annotations

import argparse
import os
import pwd
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from pamfs.cli.base import Exit, add_command, plain
from pamfs.config import load
from pamfs.errors import ConfigError, PamfsError
from pamfs.mountpoint import SOURCE_PREFIX, OptionError, parse_options
from pamfs.processes import python_path, self_command, self_environment

if TYPE_CHECKING:
    from pamfs.cli.base import Subparsers

NAME: Final = "mount-helper"
_PREFIX: Final = "pamfs mount: "
# What mount.fuse3 passes on as "defaults".
_FUSE_DEFAULTS: Final = frozenset({"dev", "suid"})
# What mount(8) adds for itself when a user mounts.
_FOR_MOUNT: Final = ("user=", "helper=", "uhelper=")
_FOR_USERS: Final[tuple[str, ...]] = ("LANG", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "TZ")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class MountExit(IntEnum):
    """The exit codes of mount(8)."""

    OK = 0
    USAGE = 1  # incorrect invocation or permissions
    SYSTEM = 2  # the machine has no FUSE
    INTERRUPTED = 8
    FAILED = 32


_CODES: Final[Mapping[int, MountExit]] = {
    Exit.OK: MountExit.OK,
    Exit.USAGE: MountExit.USAGE,
    Exit.NO_FUSE: MountExit.SYSTEM,
    Exit.INTERRUPTED: MountExit.INTERRUPTED,
}


class UsageError(PamfsError):
    """The helper was called in a wrong way."""


@dataclass(frozen=True, slots=True)
class MountRequest:
    """One mount that mount(8) requested."""

    config: Path
    folder: Path
    options: tuple[str, ...]
    user: pwd.struct_passwd | None = None


class _Parser(argparse.ArgumentParser):
    """Raises instead of leaving with an exit code that mount(8) has not."""

    def error(self, message: str) -> NoReturn:
        """Raise ``UsageError``."""
        raise UsageError(message)


def add_parser(subparsers: Subparsers) -> None:
    """Add ``mount-helper``, for its help: ``main`` reads the words itself."""
    text = "Mount as mount(8) asks for it; install it as /sbin/mount.pamfs."
    epilog = "example:\n  mount -t pamfs /etc/pamfs/acme.toml /mnt/acme\n"
    parser = add_command(subparsers, NAME, lambda _: MountExit.USAGE, text, epilog)
    parser.add_argument("words", nargs="*", metavar="SOURCE DIR [-o OPTIONS]")


def is_meant(words: Sequence[str]) -> bool:
    """Whether ``words`` come from mount.pamfs, or from mount.fuse3 with no command."""
    first = words[0] if words else ""
    return first == NAME or first.startswith(("/", SOURCE_PREFIX))


def main(words: Sequence[str]) -> int:
    """Mount; return an exit code of mount(8)."""
    is_by_fuse = words[0] != NAME
    words = words if is_by_fuse else words[1:]
    try:
        args = _parser().parse_args(words)
        if is_by_fuse:
            args.options = [_without_defaults(text) for text in args.options]
        return _mount(read(args), args)
    except PamfsError as exc:
        _complain(str(exc))
        is_usage = isinstance(exc, OptionError | UsageError)
        return MountExit.USAGE if is_usage else MountExit.FAILED
    except KeyboardInterrupt:
        return MountExit.INTERRUPTED


def _without_defaults(text: str) -> str:
    """Return options without those that mount.fuse3 adds by itself to each mount."""
    return ",".join(word for word in text.split(",") if word not in _FUSE_DEFAULTS)


def read(args: argparse.Namespace) -> MountRequest:
    """Return the mount that is requested; raise for what would not work."""
    given = [word.strip() for text in args.options for word in text.split(",")]
    source, user, options = args.source, None, []
    for word in given:
        key, _, value = word.partition("=")
        if key == "config":
            source = value
        elif key == "setuid":
            user = _user(value)
        elif word == "remount":
            raise UsageError("remount is not possible: unmount it and mount it again")
        elif not word.startswith(_FOR_MOUNT) and not _is_dropped(word, args):
            options.append(word)
    config = Path(source.removeprefix(SOURCE_PREFIX))
    if not config.is_absolute():
        raise UsageError(
            f"{source}: the source is the absolute path of a configuration"
        )
    if args.read_only:
        options.append("ro")
    folder = Path(args.folder).absolute()  # for a process that starts in /
    return MountRequest(config, folder, (f"fsname={config}", *options), user)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mount.pamfs", add_help=False)
    parser.add_argument("source")
    parser.add_argument("folder")
    parser.add_argument("-o", dest="options", action="append", default=[])
    parser.add_argument("-s", dest="is_sloppy", action="store_true")
    parser.add_argument("-f", dest="is_fake", action="store_true")
    parser.add_argument("-v", dest="is_verbose", action="store_true")
    parser.add_argument("-r", dest="read_only", action="store_true")
    parser.add_argument("-n", "-w", dest="ignored", action="store_true")
    parser.add_argument("-t", dest="fstype")
    return parser


def _is_dropped(word: str, args: argparse.Namespace) -> bool:
    """Whether ``word`` is unknown and to be ignored: ``mount -s``."""
    if not args.is_sloppy:
        return False
    try:
        parse_options([word])
    except OptionError:
        return True
    return False


def _user(text: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(text)) if text.isdecimal() else pwd.getpwnam(text)
    except KeyError:
        raise OptionError(f"setuid={text}: there is no such user") from None


def _mount(request: MountRequest, args: argparse.Namespace) -> MountExit:
    parse_options(request.options)
    options = ["-o", ",".join(request.options)]
    words = ["mount", "--config", str(request.config), *options, "--"]
    command = self_command("pamfs", *words, str(request.folder))
    if args.is_verbose:
        print(f"mount.pamfs: {shlex.join(command)}", file=sys.stderr)
    if args.is_fake:
        load(request.config)
        return MountExit.OK
    user = request.user
    try:
        done = subprocess.run(  # noqa: S603 - pamfs itself
            command,
            check=False,
            cwd="/",
            env=_environment(user),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=_groups(user) if user else None,
        )
    except OSError as exc:
        raise ConfigError(str(request.folder), exc.strerror or str(exc)) from None
    for line in done.stderr.decode(errors="replace").splitlines():
        _complain(line.removeprefix(_PREFIX))
    return _CODES.get(done.returncode, MountExit.FAILED)


def _groups(user: pwd.struct_passwd) -> list[int]:
    return os.getgrouplist(user.pw_name, user.pw_gid)


def _environment(user: pwd.struct_passwd | None) -> dict[str, str]:
    """Return what the mount is started with: a mount unit has no HOME and no PATH.

    Nothing of root's goes to another user's mount but the language and the time zone.
    """
    found = {"PATH": _PATH, **self_environment()}
    if user is None:
        return found
    kept = {key: found[key] for key in _FOR_USERS if key in found}
    kept |= {"PATH": _PATH, **python_path()}
    kept |= {"HOME": user.pw_dir, "LOGNAME": user.pw_name, "USER": user.pw_name}
    runtime = Path(f"/run/user/{user.pw_uid}")
    return kept | ({"XDG_RUNTIME_DIR": str(runtime)} if runtime.is_dir() else {})


def _complain(problem: str) -> None:
    print(f"mount.pamfs: {plain(problem)}", file=sys.stderr)
