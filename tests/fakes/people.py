"""People who can be asked, and what they were asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from pamfs.errors import CannotAskError
from pamfs.model import Secret
from pamfs.sessions.prompts import Question
from pamfs.sessions.prompts.question import Kind


@dataclass
class FakePerson:
    """A ``Prompter`` that answers by kind after ``takes_s``; a failure is raised."""

    answers: Mapping[Kind, str | Exception] = field(default_factory=dict)
    takes_s: float = 0.0
    asked: list[Question] = field(default_factory=list)

    async def ask(self, question: Question) -> Secret:
        self.asked.append(question)
        await trio.sleep(self.takes_s)
        answer = self.answers.get(question.kind, CannotAskError("nobody is there"))
        if isinstance(answer, Exception):
            raise answer
        return Secret(answer)
