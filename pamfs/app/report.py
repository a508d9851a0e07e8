"""What a mount reports of itself: its state, and on SIGUSR1 the stack of each task.

The state is that of ``pamfs status`` and of the extended attributes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import trio

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
        "lost": [asdict(lost) for lost in tree.lost.unread()],
        "lost_more": tree.lost.more,
    }


def summary(
    mountpoint: Path, pool: Pool, tree: Tree, audit: Mapping[str, object] | None
) -> str:
    """Return the line that ``systemctl status`` shows."""
    states = Counter(status.state for status in pool.status())
    sessions = ", ".join(f"{count} {state}" for state, count in states.items())
    line = f"{mountpoint}: {sessions or 'no session yet'}"
    if lost := len(tree.lost.unread()) + tree.lost.more:
        line += f"; data of {lost} files not stored (pamfs status)"
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


log = logging.getLogger(__name__)


def log_stacks(loop: asyncio.AbstractEventLoop) -> None:
    """Log the stack of each trio task and each asyncio task."""
    root = trio.lowlevel.current_root_task()
    lines = list(_trio_stacks(root, 0)) if root else []
    for task in asyncio.all_tasks(loop):
        frames = traceback.StackSummary.extract(
            (frame, frame.f_lineno) for frame in task.get_stack()
        )
        lines += [f"asyncio {task.get_name()}", *_indented(frames, 1)]
    record = log.makeRecord(log.name, logging.INFO, __file__, 0, "all tasks:", (), None)
    record.stack_info = "\n".join(lines)  # a message would be one line (``logs``)
    if log.isEnabledFor(record.levelno):
        log.handle(record)


def _trio_stacks(task: trio.lowlevel.Task, depth: int) -> Iterator[str]:
    yield f"{'  ' * depth}trio {task.name}"
    frames = traceback.StackSummary.extract(task.iter_await_frames())
    yield from _indented(frames, depth + 1)
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _trio_stacks(child, depth + 1)


def _indented(frames: traceback.StackSummary, depth: int) -> Iterator[str]:
    for frame in frames:
        yield f"{'  ' * depth}{frame.filename}:{frame.lineno} {frame.name}"
