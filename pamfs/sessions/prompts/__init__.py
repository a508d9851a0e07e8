"""Ways to ask a person."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pamfs.audit import Audit
from pamfs.config import Prompting, Way
from pamfs.model import Target
from pamfs.sessions.prompts.askpass import AskpassPrompter, SystemdPrompter
from pamfs.sessions.prompts.chain import ChainPrompter
from pamfs.sessions.prompts.desk import Desk, Talk
from pamfs.sessions.prompts.pinentry import (
    CallerTerminalPrompter,
    DesktopPrompter,
    OwnTerminalPrompter,
)
from pamfs.sessions.prompts.question import Prompter, Question
from pamfs.sessions.prompts.terminal import TerminalPrompter, Turns

__all__ = [
    "ChainPrompter",
    "Desk",
    "Desks",
    "Prompter",
    "Question",
    "Talk",
    "TerminalPrompter",
    "build_chain",
]


@dataclass(frozen=True, slots=True)
class Desks:
    """Who sits at the control socket: ``unlock`` for one target, ``agent`` for all."""

    unlock: Desk = field(default_factory=Desk)
    agent: Desk = field(default_factory=Desk)


def build_chain(
    prompting: Prompting,
    desks: Desks,
    unlock_line: Callable[[Target], str],
    *,
    is_foreground: bool,
    audit: Audit | None = None,
) -> ChainPrompter:
    """Return the ways to ask of a mount. Whoever unlocks is asked before all others."""
    turns = Turns()
    ways: Mapping[Way, Prompter] = {
        Way.CONTROL: desks.agent,
        Way.TERMINAL: CallerTerminalPrompter(prompting.pinentry, turns),
        Way.PINENTRY: DesktopPrompter(prompting.pinentry),
        Way.ASKPASS: AskpassPrompter(prompting.askpass),
        Way.SYSTEMD: SystemdPrompter(),
    }
    prompters = [(way.value, ways[way]) for way in prompting.order]
    if is_foreground and Way.TERMINAL in prompting.order:
        prompters.append(("the mount's terminal", OwnTerminalPrompter(turns)))
    return ChainPrompter([("unlock", desks.unlock), *prompters], unlock_line, audit)
