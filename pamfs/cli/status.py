"""``pamfs status``: the targets of each mount, their sessions, and the last errors.

The daemon sends one JSON object; ``--json`` prints it unchanged. It keeps the list of
lost data until that was printed for the mount's own user (``lost_seen``). The mount
is accessed only to find out whether a daemon that does not answer is dead.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pamfs.cli.base import Exit, add_command, check_yours, plain
from pamfs.control.connection import NoAnswerError, find_daemon
from pamfs.mountpoint import find_mount, is_dead, own_mounts, real_mountpoint

if TYPE_CHECKING:
    from pamfs.cli.base import Subparsers

_EPILOG: Final = """\
example:
  $ pamfs status ~/pam
  /home/alice/pam: pid 4711, /home/alice/.config/pamfs/config.toml
  TARGET           STATE    SINCE     LEASE ENDS  OPEN  READ     WRITTEN  LOGINS
  acme/root@web01  ready    09:41:12  10:41:12       2  1.4 MiB  0 B           1

  pamfs status --json | jq '.mounts[].targets[].state'
"""
_ASK_S: Final = 10.0
_COLUMNS: Final = (
    "TARGET",
    "STATE",
    "SINCE",
    "LEASE ENDS",
    "OPEN",
    "READ",
    "WRITTEN",
    "LOGINS",
)
_RIGHT: Final = frozenset({"OPEN", "LOGINS"})
_KIB: Final = 1024

Facts = Mapping[str, object]


def add_parser(subparsers: Subparsers) -> None:
    """Add ``status``."""
    text = "Show the mounts of this user (root: of all), with their sessions."
    parser = add_command(subparsers, "status", run, text, _EPILOG)
    parser.add_argument(
        "mountpoint", type=Path, nargs="?", metavar="MOUNTPOINT", help="only this one"
    )
    parser.add_argument("--json", action="store_true", help="for scripts")


def run(args: argparse.Namespace) -> int:
    """Print every mount that answers; complain of each that does not."""
    points = _points(args.mountpoint)
    mounts: list[Facts] = []
    code = Exit.OK
    for point in points:
        try:
            mounts.append(ask(point))
        except NoAnswerError as exc:
            print(f"pamfs status: {plain(exc)}", file=sys.stderr)
            code = Exit.NO_ANSWER
    if args.mountpoint and not points:
        point = real_mountpoint(args.mountpoint)
        print(f"pamfs status: {plain(point)} is not a mount of pamfs", file=sys.stderr)
        return Exit.NOT_MOUNTED
    if mounts or code is Exit.OK:
        found = {"mounts": mounts}
        text = json.dumps(found, indent=2) if args.json else "\n".join(render(mounts))
        print(text, flush=True)
        for mount in mounts:
            _note_read(mount)
    return code


def ask(point: Path) -> Facts:
    """Return the status of ``point``'s daemon; raise ``NoAnswerError``."""
    daemon = find_daemon(point)
    if daemon is None:
        if is_dead(point):
            hint = f"pamfs umount {point} clears it away"
            raise NoAnswerError(f"{point}: its daemon has ended ({hint})")
        raise NoAnswerError(f"{point}: its daemon does not answer")
    with daemon:
        return daemon.ask("status", _ASK_S)


def _note_read(mount: Facts) -> None:
    """Have the daemon forget the lost data that was shown now."""
    numbers = [row.get("number") for row in _rows(mount.get("lost"))]
    until = max((number for number in numbers if isinstance(number, int)), default=None)
    daemon = find_daemon(Path(str(mount.get("mountpoint")))) if until else None
    if daemon is None:
        return
    with daemon, suppress(NoAnswerError):
        daemon.send({"command": "lost_seen", "until": until})
        daemon.wait_readable(_ASK_S)


def render(mounts: Sequence[Facts]) -> Iterator[str]:
    """Yield the lines for a person."""
    if not mounts:
        yield "nothing is mounted"
    for number, mount in enumerate(mounts):
        if number:
            yield ""
        head = f"{mount.get('mountpoint')}: pid {mount.get('pid')}"
        yield plain(f"{head}, {mount.get('config')}")
        cache = mount.get("cache")
        if isinstance(cache, dict) and cache:
            facts = (f"{key.replace('_', ' ')} {cache[key]}" for key in cache)
            yield plain(f"cache: {', '.join(facts)}")
        for vault in _rows(mount.get("vaults")):
            yield plain(_render_vault(vault))
        yield from _render_audit(mount.get("audit"))
        yield from _render_targets(_rows(mount.get("targets")))
        yield from _render_refusals(_rows(mount.get("refusals")))
        yield from _render_lost(_rows(mount.get("lost")), mount.get("lost_more"))


def _render_vault(vault: Facts) -> str:
    line = f"vault of {vault.get('tenant')}: {vault.get('targets')} targets"
    if vault.get("fetched_at") is not None:
        line += f" as of {_instant(vault['fetched_at'])}"
    if vault.get("is_stale"):
        line += ", stale"
    return line + (f": {vault['error']}" if vault.get("error") else "")


def _render_audit(audit: object) -> Iterator[str]:
    if not isinstance(audit, dict):
        return
    line = f"audit: {audit.get('written')} records to {audit.get('to')}"
    if audit.get("dropped"):
        line += f", {audit['dropped']} dropped"
    if audit.get("problem"):
        line += f", {audit.get('waiting')} waiting: {audit['problem']}"
    yield plain(line)


def _points(given: Path | None) -> list[Path]:
    if given is None:
        return sorted({entry.mountpoint for entry in own_mounts()})
    point = real_mountpoint(given)
    entry = find_mount(point)
    if entry is None or not entry.is_ours:
        return []
    check_yours(entry)
    return [point]


def _rows(targets: object) -> list[Facts]:
    rows = targets if isinstance(targets, list) else []
    return [row for row in rows if isinstance(row, dict)]


def _render_targets(rows: Sequence[Facts]) -> Iterator[str]:
    if not rows:
        yield "no session yet"
        return
    table = [_COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line, row in zip(table, [None, *rows], strict=True):
        yield "  ".join(
            cell.rjust(width) if name in _RIGHT else cell.ljust(width)
            for name, cell, width in zip(_COLUMNS, line, widths, strict=True)
        ).rstrip()
        if row:
            yield from _notes(row)


def _render_refusals(rows: Sequence[Facts]) -> Iterator[str]:
    if rows:
        yield "refused by the guard:"
    for row in rows:
        caller = f"{row.get('program')}, pid {row.get('pid')}, uid {row.get('uid')}"
        what = f"{row.get('target')}: {row.get('why')}"
        yield plain(f"  {_instant(row.get('at'))}  {caller}: {what}")
        yield plain(f"            {row.get('how')}")


def _render_lost(rows: Sequence[Facts], more: object) -> Iterator[str]:
    if rows:
        yield "data that was written and is not stored (shown once):"
    for row in rows:
        much = f"{_size(row['nbytes'])}, " if row.get("nbytes") else ""
        who = f"{much}pid {row.get('pid')}, uid {row.get('uid')}"
        yield plain(f"  {_instant(row.get('at'))}  {row.get('path')}: {who}")
        yield plain(f"            {row.get('why')}")
    if more:
        yield plain(f"  and {more} more files: the log names them")


def _cells(row: Facts) -> tuple[str, ...]:
    return (
        plain(f"{row.get('tenant')}/{row.get('target')}"),
        plain(row.get("state")).replace("_", " "),
        _instant(row.get("since")),
        _instant(row.get("lease_expires_at")),
        plain(row.get("open_files")),
        _size(row.get("bytes_read")),
        _size(row.get("bytes_written")),
        plain(row.get("logins")),
    )


def _notes(row: Facts) -> Iterator[str]:
    if row.get("host_key"):
        yield f"    host key    {plain(row['host_key'])}"
    if row.get("awaiting"):
        yield f"    waits for   {plain(row['awaiting'])}"
    if row.get("last_error"):
        yield f"    last error  {plain(row['last_error'])}"


def _instant(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-"
    then = datetime.fromtimestamp(value, UTC).astimezone()
    is_today = then.date() == datetime.now(UTC).astimezone().date()
    return then.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M")


def _size(value: object) -> str:
    if not isinstance(value, int) or value < _KIB:
        return f"{plain(value)} B"
    size = float(value)
    for unit in ("KiB", "MiB", "GiB"):
        size /= _KIB
        if size < _KIB:
            return f"{size:.1f} {unit}"
    return f"{size / _KIB:.1f} TiB"
