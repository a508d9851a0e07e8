"""All ways to ask, tried in the configured order until one applies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from pamfs.audit import Audit, NoAudit
from pamfs.errors import CannotAskError, DeclinedError, NobodyToAskError
from pamfs.model import Secret, Target
from pamfs.processes import job_of
from pamfs.sessions.prompts.question import Prompter, Question

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
