"""``pamfs umount``: returns when all data is stored and all sessions are closed.

A daemon that does not answer is never detached: unmounting a living mount from outside
would lose data that is not stored yet. Only a mount whose daemon is dead is cleaned up.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pamfs.cli.base import Exit, add_command, check_yours, plain
from pamfs.control.connection import NoAnswerError, find_daemon
from pamfs.mountpoint import clean_up, find_mount, is_dead, real_mountpoint

if TYPE_CHECKING:
    from pamfs.cli.base import Subparsers
    from pamfs.control.connection import Daemon

_EPILOG: Final = """\
example:
  pamfs umount ~/pam
"""
# After its answer the daemon has only its process to end.
_GONE_S: Final = 30.0
# For the test request, which needs no device.
_ANSWER_S: Final = 10.0
# After this time a line says what is waited for.
_SILENT_S: Final = 3.0


def add_parser(subparsers: Subparsers) -> None:
    """Add ``umount``."""
    text = "Unmount; return when all data is stored and all sessions are closed."
    parser = add_command(subparsers, "umount", run, text, _EPILOG)
    parser.add_argument("mountpoint", type=Path, metavar="MOUNTPOINT")


def run(args: argparse.Namespace) -> int:
    """Unmount ``MOUNTPOINT``; print what was lost, if anything was."""
    point = real_mountpoint(args.mountpoint)
    entry = find_mount(point)
    if entry is None or not entry.is_ours:
        return _fail(Exit.NOT_MOUNTED, f"{point} is not a mount of pamfs")
    check_yours(entry)
    daemon = find_daemon(point)
    if daemon is None:
        return _without_daemon(point)
    with daemon:
        return _ask(daemon, point)


def _ask(daemon: Daemon, point: Path) -> Exit:
    try:
        if not is_answering(point):
            line = f"{point}: process {daemon.pid} does not answer; it stays mounted"
            return _fail(Exit.NO_ANSWER, line)
        daemon.wait_for_ever()  # storing takes as long as it takes
        daemon.send({"command": "umount"})
        if not daemon.wait_readable(_SILENT_S):
            what = "data is stored, sessions are closed, leases are given back"
            print(f"pamfs umount: {plain(point)}: {what} ...", file=sys.stderr)
        answer = daemon.receive()
    except NoAnswerError as exc:
        if is_dead(point):
            clean_up(point)
        return _fail(Exit.LOST, f"{point}: {exc}; what was not stored is not known")
    code = judge(answer, point)
    if code is not Exit.BUSY and not daemon.wait_gone(_GONE_S):
        return _fail(Exit.NO_ANSWER, f"{point}: process {daemon.pid} does not end")
    return code


def is_answering(point: Path) -> bool:
    """Return whether the daemon of ``point`` answers a simple question in time."""
    other = find_daemon(point)
    if other is None:
        return False
    with other:
        try:
            other.ask("status", _ANSWER_S)
        except NoAnswerError:
            return False
    return True


def judge(answer: Mapping[str, object], point: Path) -> Exit:
    """Return the exit code for the daemon's answer; complain of what was lost."""
    for line in _lines(answer, "unreturned"):
        hint = "the next mount of this configuration tries again"
        print(f"pamfs umount: not given back: {plain(line)} ({hint})", file=sys.stderr)
    lines = _lines(answer, "lost")
    for line in lines:
        _fail(Exit.LOST, f"not stored: {line}")
    if lines:
        return Exit.LOST
    if answer.get("ok") is True:
        return Exit.OK
    entry = find_mount(point)
    code = Exit.BUSY if entry and entry.is_ours else Exit.FAILED
    return _fail(code, str(answer.get("error") or f"{point}: refused"))


def _lines(answer: Mapping[str, object], key: str) -> list[object]:
    lines = answer.get(key)
    return lines if isinstance(lines, list) else []


def _without_daemon(point: Path) -> Exit:
    if is_dead(point):
        clean_up(point)
        print(f"{point}: its daemon had died; the dead mount is gone", file=sys.stderr)
        return Exit.OK
    hint = f"fusermount3 -u {point} detaches without waiting"
    return _fail(Exit.NO_ANSWER, f"{point}: its daemon does not answer ({hint})")


def _fail(code: Exit, problem: str) -> Exit:
    print(f"pamfs umount: {plain(problem)}", file=sys.stderr)
    return code
