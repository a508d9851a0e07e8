"""``pamfs mount``: returns when the mount is usable, or says why it is not."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pamfs import logs
from pamfs.cli import background
from pamfs.cli.exits import Exit, exit_of
from pamfs.cli.parsers import add_command, add_config, config_path, plain
from pamfs.config import Config, load
from pamfs.errors import PamfsError, first_failure
from pamfs.mountpoint import MountOptions, parse_options, prepare, real_mountpoint

if TYPE_CHECKING:
    from pamfs.cli.parsers import Subparsers

log = logging.getLogger(__name__)

_EPILOG: Final = """\
example:
  pamfs mount ~/pam
  pamfs mount --config acme.toml -o allow_other,log_level=debug /mnt/acme

options (-o):
  allow_other          other users may enter; file modes decide what they may do
  ro                   nothing can be changed; likewise nodev, nosuid, noexec,
                       noatime, nodiratime, default_permissions
  uid=N, gid=N         whose the files are (with owner = "me")
  log=FILE             where the log goes; log_level=debug|info|warning|error
  fsname=NAME          what df shows; subtype=NAME, default sshfs: file managers
                       treat that one as remote
  dev and suid are refused: such files of a device have no effect here.
  Words of fstab (_netdev, nofail, noauto, user, x-systemd.*, ...) do no harm.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add ``mount``."""
    text = "Mount the PAM proxies of a configuration on an empty folder."
    parser = add_command(subparsers, "mount", run, text, _EPILOG)
    add_config(parser)
    parser.add_argument(
        "--foreground", action="store_true", help="serve here; log to stderr"
    )
    parser.add_argument(
        "-o",
        dest="options",
        action="append",
        default=[],
        metavar="OPT[,OPT...]",
        help="mount options, see below",
    )
    parser.add_argument("mountpoint", type=Path, metavar="MOUNTPOINT")
    # How the background process tells the one that started it.
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Check everything, then serve here or start the process that serves."""
    point = real_mountpoint(args.mountpoint)
    config = load(config_path(args))
    options = parse_options(args.options, name=name_of(config))
    if args.ready_fd is not None:
        return serve(config, point, options, background.Report(args.ready_fd))
    if prepare(point, options):
        print(f"pamfs mount: {point}: cleaned up a dead mount", file=sys.stderr)
    if args.foreground:
        if options.log:
            _log_to(options.log)
        options = replace(options, foreground=True)
        return serve(config, point, options, background.Report(None))
    return background.start(point, options, _words(args, config, point))


def serve(
    config: Config, point: Path, options: MountOptions, report: background.Report
) -> int:
    """Serve until unmounted; a failure goes to ``report``, or to stderr."""
    logs.set_up(options.log_level)
    # The folder that it is started in stays free to be unmounted or removed.
    os.chdir("/")
    # A core would hold what people typed.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        # What is imported stays for good: no need to look through it for garbage.
        gc.disable()
        from pamfs.transport.ssh import asyncssh_compat

        # Before the rest is imported, which needs the names that this looks for.
        asyncssh_compat.check()
        from pamfs.app import serve as serve_mount

        gc.freeze()
        gc.enable()
        lost = serve_mount(config, point, options, report.ready)
    except Exception as exc:  # noqa: BLE001 - the last resort of the daemon
        return _fail(exc, report)
    return Exit.LOST if lost else Exit.OK


def name_of(config: Config) -> str:
    """Return what ``df`` calls the mount: its tenant, or its configuration."""
    names = list(config.tenants)
    return names[0] if len(names) == 1 else config.path.stem


def find_cause(exc: BaseException) -> PamfsError | None:
    """Return the failure that we can explain, in a group or alone."""
    if isinstance(exc, BaseExceptionGroup):
        causes = [find_cause(inner) for inner in exc.exceptions]
        return next((cause for cause in causes if cause), None)
    return exc if isinstance(exc, PamfsError) else None


def _fail(exc: Exception, report: background.Report) -> int:
    cause = find_cause(exc)
    if cause is None:
        log.error("the mount ended by a bug of pamfs", exc_info=exc)
        report.failed(
            Exit.FAILED, f"a bug of pamfs: {type(first_failure(exc)).__name__}"
        )
        return Exit.FAILED
    code = exit_of(cause)
    code = Exit.MOUNT_FAILED if code is Exit.FAILED else code
    report.failed(code, str(cause))
    print(f"pamfs mount: {plain(cause)}", file=sys.stderr)
    return code


def _log_to(path: Path) -> None:
    fd = background.open_log(path)
    os.dup2(fd, sys.stderr.fileno())
    os.close(fd)


def _words(args: argparse.Namespace, config: Config, point: Path) -> Sequence[str]:
    options = [word for option in args.options for word in ("-o", option)]
    return ["--config", str(config.path), *options, "--", str(point)]
