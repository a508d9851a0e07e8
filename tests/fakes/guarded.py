"""A machine and its guard, and programs that look and enter."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import trio

from pamfs.config import Guarding
from pamfs.errors import GuardRefusedError
from pamfs.model import Caller, Target
from pamfs.sessions.guard import Guard
from tests.fakes.processes import FakeMachine
from tests.fakes.tenants import WEB01

WEB03 = Target("acme", "root", "web03")


@dataclass
class Records:
    """An audit log."""

    kept: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def record(self, event: str, **facts: object) -> None:
        self.kept.append((event, facts))


class Site:
    """A machine, a guard, and programs that look and enter."""

    def __init__(self, config: Guarding | None = None) -> None:
        self.machine = FakeMachine()
        self.records = Records()
        self.guard = Guard(
            config or Guarding(),
            Path("/mnt"),
            processes=self.machine,
            audit=self.records,
            now=trio.current_time,
        )

    def lists(self, caller: Caller) -> None:
        self.guard.note_listing("acme", caller)

    async def enters(
        self, caller: Caller, target: Target = WEB01, takes_s: float = 0.0
    ) -> bool:
        """Whether ``caller`` is let in; a login takes as long as it takes."""
        try:
            await self.guard.admit(target, caller)
        except GuardRefusedError:
            return False
        await trio.sleep(takes_s)
        self.guard.leaves(caller)
        return True
