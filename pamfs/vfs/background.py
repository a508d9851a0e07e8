"""Where work runs that no request waits for, and what memory it may hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from pamfs.vfs.budget import Budget

# Starts a task that outlives the request: the mount's ``nursery.start_soon``.
Spawn = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Background:
    """The tasks and the memory of a mount; without a mount, those of the loop."""

    spawn: Spawn = trio.lowlevel.spawn_system_task
    budget: Budget = field(default_factory=Budget)
