"""Asks the programs at the control socket: ``pamfs agent``, ``pamfs unlock``.

A question goes to every seat it is for; the first answer counts and the others
see it withdrawn. One JSON object a line: ``{"question": 7, "kind": ...}`` and
``{"withdrawn": 7}`` out, ``{"answer": 7, "text": ...}``, ``{"decline": 7}`` and
``{"cannot": 7}`` in (docs/prompts.md).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

import outcome
import trio

from pamfs.errors import CannotAskError, DeclinedError
from pamfs.model import Secret, Target
from pamfs.sessions.prompts.question import Question, cause, until_fit
from pamfs.tasks import Flight

Message = Mapping[str, object]


class Talk(Protocol):
    """A connection to a person's program, one object a line."""

    async def send(self, message: Message) -> None:
        """Send one object; raise ``trio.BrokenResourceError`` if it is closed."""
        ...

    async def receive(self) -> Message | None:
        """Return the next object, or None at the end."""
        ...


@dataclass(eq=False, slots=True)
class _Seat:
    target: Target | None
    outbox: trio.MemorySendChannel[Message]

    def is_for(self, question: Question) -> bool:
        return self.target in {None, question.target}


@dataclass(eq=False, slots=True)
class _Asked:
    number: int
    question: Question
    remark: str
    seats: set[_Seat]
    flight: Flight[Secret]

    def show_to(self, seat: _Seat) -> None:
        self.seats.add(seat)
        seat.outbox.send_nowait(shown(self.number, self.question, self.remark))

    def leave(self, seat: _Seat) -> None:
        """Note that ``seat`` does not answer; after the last one the question fails."""
        self.seats.discard(seat)
        if not self.seats and not self.flight.is_landed:
            error = CannotAskError("the program that was asked has left")
            self.flight.land(outcome.Error(error))


class ControlPrompter:
    """The programs that answer, and their open questions; a ``Prompter``."""

    def __init__(self) -> None:
        self._seats: list[_Seat] = []
        self._asked: dict[int, _Asked] = {}
        self._numbers: Final = itertools.count(1)

    async def ask(self, question: Question) -> Secret:
        """Return the first answer; raise ``CannotAskError`` if no program is here."""
        if not any(seat.is_for(question) for seat in self._seats):
            raise CannotAskError("no agent is at the control socket")
        return await until_fit(question, partial(self._ask_once, question))

    async def attend(
        self,
        talk: Talk,
        target: Target | None = None,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Give ``talk`` a seat (for one target, or all) until it closes."""
        send, receive = trio.open_memory_channel[Message](math.inf)
        seat = _Seat(target, send)
        self._seats.append(seat)
        task_status.started()
        for asked in self._asked.values():
            if seat.is_for(asked.question):
                asked.show_to(seat)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_deliver, receive, talk)
                await self._hear(seat, talk)
                nursery.cancel_scope.cancel()
        finally:
            self._seats.remove(seat)
            for asked in list(self._asked.values()):
                if seat in asked.seats:
                    asked.leave(seat)

    async def _ask_once(self, question: Question, remark: str) -> Secret:
        seats = [seat for seat in self._seats if seat.is_for(question)]
        if not seats:
            raise CannotAskError("the program that was asked has left")
        asked = _Asked(next(self._numbers), question, remark, set(), Flight())
        self._asked[asked.number] = asked
        for seat in seats:
            asked.show_to(seat)
        try:
            return await asked.flight.wait_landed()
        finally:
            del self._asked[asked.number]
            for seat in asked.seats:
                seat.outbox.send_nowait({"withdrawn": asked.number})

    async def _hear(self, seat: _Seat, talk: Talk) -> None:
        while (message := await talk.receive()) is not None:
            for verb in ("answer", "decline", "cannot"):
                asked = self._asked.get(_number(message.get(verb)))
                # A seat answers what it was asked, and nothing else.
                if asked and seat in asked.seats and not asked.flight.is_landed:
                    _take(asked, seat, verb, message)


def shown(number: int, question: Question, remark: str) -> Message:
    """Return ``question`` as it goes over the socket."""
    return {
        "question": number,
        "kind": question.kind.value,
        "target": str(question.target),
        "about": question.about(),
        "prompt": question.prompt,
        "remark": remark,
        "echo": question.echo,
        "cause": cause(question.caller),
        "within_s": max(0.0, question.deadline - trio.current_time()),
    }


def _take(asked: _Asked, seat: _Seat, verb: str, message: Message) -> None:
    match verb:
        case "answer":
            asked.seats.discard(seat)
            asked.flight.land(outcome.Value(Secret(str(message.get("text", "")))))
        case "decline":
            asked.seats.discard(seat)
            why = f"the {asked.question.kind.value} was declined"
            asked.flight.land(outcome.Error(DeclinedError(why)))
        case _:
            asked.leave(seat)


async def _deliver(outbox: trio.MemoryReceiveChannel[Message], talk: Talk) -> None:
    try:
        async for message in outbox:
            await talk.send(message)
    except trio.BrokenResourceError:
        return  # the hearing side notices the end as well


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
