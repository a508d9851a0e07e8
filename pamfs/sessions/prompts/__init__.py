"""The ways to ask a person, tried in the configured order until one applies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from pamfs.audit import Audit, NoAudit
from pamfs.config import Prompting, PromptWay
from pamfs.errors import CannotAskError, DeclinedError, NobodyToAskError
from pamfs.model import Secret, Target
from pamfs.processes import job_of
from pamfs.sessions.prompts.control_prompter import ControlPrompter, Talk
from pamfs.sessions.prompts.pinentry import (
    CallerTerminalPrompter,
    DesktopPrompter,
    OwnTerminalPrompter,
)
from pamfs.sessions.prompts.programs import AskpassPrompter, SystemdPrompter
from pamfs.sessions.prompts.question import Prompter, Question
from pamfs.sessions.prompts.terminal import TerminalLocks, TerminalPrompter

log = logging.getLogger(__name__)


class ChainPrompter:
    """Asks with the first of ``prompters`` that can.

    ``unlock_line`` is what a person types to be asked after all.
    """

    def __init__(
        self,
        prompters: Sequence[tuple[str, Prompter]],
        unlock_line: Callable[[Target], str],
        audit: Audit | None = None,
    ) -> None:
        self._prompters: Final = tuple(prompters)
        self._unlock_line = unlock_line
        self._audit = audit or NoAudit()

    async def ask(self, question: Question) -> Secret:
        """Return the answer; raise ``NobodyToAskError`` that says what to type."""
        for way, prompter in self._prompters:
            shown = partial(self._record, "prompt_shown", question, way)
            try:
                answer = await prompter.ask(replace(question, on_shown=shown))
            except CannotAskError as exc:
                log.debug("%s: not asked by %s: %s", question.target, way, exc)
                continue
            except DeclinedError:
                self._record("prompt_declined", question, way)
                raise
            self._record("prompt_answered", question, way)
            return answer
        raise NobodyToAskError(
            f"nobody can be asked for the {question.kind.value} of {question.target};"
            f" type: {self._unlock_line(question.target)}",
            question.caller.uid,
            job_of(question.caller.pid),
        )

    def _record(self, event: str, question: Question, way: str) -> None:
        self._audit.record(
            event,
            way=way,
            kind=question.kind.value,
            target=str(question.target),
            pid=question.caller.pid,
            uid=question.caller.uid,
        )


__all__ = [
    "ChainPrompter",
    "ControlPrompter",
    "ControlPrompters",
    "Prompter",
    "Question",
    "Talk",
    "TerminalPrompter",
    "build_chain",
]


@dataclass(frozen=True, slots=True)
class ControlPrompters:
    """Prompters of the control socket: ``unlock`` for a target, ``agent`` for all."""

    unlock: ControlPrompter = field(default_factory=ControlPrompter)
    agent: ControlPrompter = field(default_factory=ControlPrompter)


def build_chain(
    prompting: Prompting,
    control: ControlPrompters,
    unlock_line: Callable[[Target], str],
    *,
    is_foreground: bool,
    audit: Audit | None = None,
) -> ChainPrompter:
    """Return the ways to ask of a mount; that of ``pamfs unlock`` comes first."""
    turns = TerminalLocks()
    ways: Mapping[PromptWay, Prompter] = {
        PromptWay.CONTROL: control.agent,
        PromptWay.TERMINAL: CallerTerminalPrompter(prompting.pinentry, turns),
        PromptWay.PINENTRY: DesktopPrompter(prompting.pinentry),
        PromptWay.ASKPASS: AskpassPrompter(prompting.askpass),
        PromptWay.SYSTEMD: SystemdPrompter(),
    }
    prompters = [(way.value, ways[way]) for way in prompting.order]
    if is_foreground and PromptWay.TERMINAL in prompting.order:
        prompters.append(("the mount's terminal", OwnTerminalPrompter(turns)))
    return ChainPrompter([("unlock", control.unlock), *prompters], unlock_line, audit)
