"""The state of a mount for ``pamfs status`` and for the extended attributes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from pamfs.config import Config
from pamfs.model import Target
from pamfs.sessions.pool import Pool
from pamfs.sessions.session import TargetStatus
from pamfs.vfs.tree import Tree


def report(
    mountpoint: Path, config: Config, pool: Pool, tree: Tree
) -> Mapping[str, object]:
    """Return the state of the mount and of every target that was accessed."""
    return {
        "mountpoint": str(mountpoint),
        "pid": os.getpid(),
        "config": str(config.path),
        "cache": dict(tree.statistics()),
        "targets": [asdict(status) for status in statuses(pool, tree)],
        "refusals": [asdict(refusal) for refusal in pool.refusals()],
    }


def summary(mountpoint: Path, pool: Pool, audit: Mapping[str, object] | None) -> str:
    """Return the line that ``systemctl status`` shows."""
    states = Counter(status.state for status in pool.status())
    sessions = ", ".join(f"{count} {state}" for state, count in states.items())
    line = f"{mountpoint}: {sessions or 'no session yet'}"
    problem = audit.get("problem") if audit else None
    return f"{line}; audit: {problem}" if problem else line


def statuses(pool: Pool, tree: Tree) -> list[TargetStatus]:
    """Return each target's status, with what programs did through the mount."""
    used = {str(target): usage for target, usage in tree.handles.usage.items()}
    return [
        replace(
            status,
            open_files=usage.open_files,
            bytes_read=usage.bytes_read,
            bytes_written=usage.bytes_written,
        )
        if (usage := used.get(f"{status.tenant}/{status.target}"))
        else status
        for status in pool.status()
    ]


def describe(pool: Pool, target: Target) -> Mapping[str, str]:
    """Return what the extended attributes of a target's folder show."""
    for status in pool.status():
        if f"{status.tenant}/{status.target}" == str(target):
            facts = asdict(status)
            return {key: str(fact) for key, fact in facts.items() if fact is not None}
    return {"state": "absent"}
