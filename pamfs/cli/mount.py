"""``pamfs mount``: returns when the mount is usable, or prints why it is not.

In the background two processes share a pipe. The serving process writes exactly one
line: ``ready``, or ``failed CODE MESSAGE`` with which the waiting process ends. If the
pipe closes without a line, the serving process has died; its exit code and the last
line of libfuse in the log are shown then.

Order, each step before anything is connected: mount point and options are checked,
the configuration is read, the serving process starts in a new session with the log as
stdout and stderr. It sets up the log, forbids core dumps, checks the private names of
its libraries, and only then imports the rest.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import logging
import os
import re
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pamfs import logs
from pamfs.cli.base import Exit, add_command, add_config, config_path, exit_of, plain
from pamfs.config import Config, load, log_folder
from pamfs.errors import PamfsError, first_failure
from pamfs.logs import open_to_append
from pamfs.mountpoint import (
    MountOptions,
    OptionError,
    parse_options,
    prepare,
    real_mountpoint,
)
from pamfs.processes import self_command, self_environment

if TYPE_CHECKING:
    from pamfs.cli.base import Subparsers

log = logging.getLogger(__name__)

_EPILOG: Final = """\
example:
  pamfs mount ~/pam
  pamfs mount --config acme.toml -o allow_other,log_level=debug /mnt/acme

options (-o):
  allow_other          other users may enter; file modes decide what they may do
  ro                   nothing can be changed; likewise nodev, nosuid, noexec,
                       noatime, nodiratime, default_permissions
  uid=N, gid=N         owner of the files (with owner = "me")
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
        return serve(config, point, options, Report(args.ready_fd))
    if prepare(point, options):
        print(f"pamfs mount: {point}: cleaned up a dead mount", file=sys.stderr)
    if args.foreground:
        if options.log:
            _log_to(options.log)
        options = replace(options, foreground=True)
        return serve(config, point, options, Report(None))
    return start(point, options, _words(args, config, point))


def serve(config: Config, point: Path, options: MountOptions, report: Report) -> int:
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


def _fail(exc: Exception, report: Report) -> int:
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
    fd = open_log(path)
    os.dup2(fd, sys.stderr.fileno())
    os.close(fd)


def _words(args: argparse.Namespace, config: Config, point: Path) -> Sequence[str]:
    options = [word for option in args.options for word in ("-o", option)]
    return ["--config", str(config.path), *options, "--", str(point)]


# Nothing is dialled before the mount is usable: this is imports and one mount(2).
_READY_S: Final = 60.0
_READY: Final = b"ready\n"
_END_S: Final = 10.0


class Report:
    """The serving process's end of the pipe: writes one line, once."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def ready(self) -> None:
        """Say that the mount is usable."""
        self._say(_READY)

    def failed(self, code: Exit, problem: str) -> None:
        """Say why the mount is not, or no longer, usable."""
        line = problem.replace("\n", " ")
        self._say(f"failed {code.value} {line}\n".encode(errors="backslashreplace"))

    def _say(self, line: bytes) -> None:
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            os.write(fd, line)
        except BrokenPipeError:
            pass  # the starter was interrupted
        finally:
            os.close(fd)


def start(point: Path, options: MountOptions, words: Sequence[str]) -> int:
    """Start the serving process; return when the mount is usable, or an exit code.

    ``words`` are the arguments of ``pamfs mount``, its paths absolute. Raises
    ``OptionError`` if the log cannot be written.
    """
    log = options.log or default_log(point)
    log_fd = open_log(log)
    began = os.lseek(log_fd, 0, os.SEEK_END)
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603 - pamfs itself
            self_command("pamfs", "mount", f"--ready-fd={writing}", *words),
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            pass_fds=[writing],
            start_new_session=True,
            env=self_environment(),
            cwd="/",
        )
    finally:
        os.close(writing)
        os.close(log_fd)
    try:
        line = _wait_line(reading)
    except KeyboardInterrupt:
        process.terminate()
        _end(process)
        raise
    finally:
        os.close(reading)
    if line == _READY:
        return Exit.OK
    code = _end(process)
    return _explain(line, code, log, began)


def default_log(point: Path) -> Path:
    """Return the log of the mount on ``point``: the same at each mount."""
    plain_name = re.sub(r"[^A-Za-z0-9._-]", "_", point.name)
    digest = hashlib.sha256(os.fsencode(point)).hexdigest()[:8]
    return log_folder() / f"{plain_name}-{digest}.log"


def open_log(path: Path) -> int:
    """Return a descriptor for the log; raise ``OptionError`` if there is none."""
    try:
        return open_to_append(path)
    except OSError as exc:
        problem = f"the log {path} cannot be written: {exc.strerror}"
        raise OptionError(f"{problem} (-o log=FILE)") from None


def _wait_line(fd: int) -> bytes:
    line = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while not line.endswith(b"\n"):
        if not poll.poll(_READY_S * 1000):
            return b""
        more = os.read(fd, 4096)
        if not more:
            return line
        line += more
    return line


def _end(process: subprocess.Popen[bytes]) -> int:
    """End a process that did not become ready; return its exit code."""
    for number in (0, signal.SIGTERM, signal.SIGKILL):  # 0: it ends by itself
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_END_S)
    return Exit.FAILED


def _explain(line: bytes, code: int, log: Path, began: int) -> int:
    said = re.fullmatch(rb"failed (\d+) (.*)\n", line, re.DOTALL)
    if said:
        code, problem = int(said[1]), said[2].decode()
    else:
        problem = (
            f"the serving process ended (exit code {code}) before the mount was usable"
        )
    why = _last_words(log, began)
    hint = f"{why}; log: {log}" if why else f"log: {log}"
    print(f"pamfs mount: {plain(problem)} ({plain(hint)})", file=sys.stderr)
    return code if code > 0 else Exit.MOUNT_FAILED


def _last_words(log: Path, began: int) -> str:
    """Return the last line of fusermount3 or libfuse in the log, if any."""
    try:
        with log.open("rb") as file:
            file.seek(began)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    fuse = [line for line in lines if line.startswith("fuse")]
    return fuse[-1] if fuse else ""
