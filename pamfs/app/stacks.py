"""Where every task stands: what SIGUSR1 writes to the log."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Iterator

import trio

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
    log.info("all tasks:\n%s", "\n".join(lines))


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
