"""Asks a provider for a lease until it says yes or no, or time is up.

Law: a request for approval stays pending when its caller has left, and
the next access goes on with it; a lease that is granted after its caller left
is handed straight back.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import trio

from pamfs.config import AnswerSource, SourceKind
from pamfs.errors import (
    ApprovalPendingError,
    CredentialBusyError,
    LoginRefusedError,
    PamfsError,
)
from pamfs.model import Caller, Secret, Target
from pamfs.sessions.answers import Answers
from pamfs.sessions.attempt import Attempt
from pamfs.sessions.checkout.base import (
    ASKED,
    Answer,
    Busy,
    Denied,
    Lease,
    Pending,
    Provider,
    Request,
    UnansweredGrantError,
)
from pamfs.sessions.checkout.custody import Custody, HeldLease
from pamfs.sessions.prompts import Question
from pamfs.sessions.prompts.question import Kind
from pamfs.tasks import AbandonedError, obtain

log = logging.getLogger(__name__)

# An approver needs minutes, the first look may as well be soon.
FIRST_POLL_S: Final = 1.0
LONGEST_POLL_S: Final = 15.0


_Reply = HeldLease | Pending | Busy | Denied


@dataclass(slots=True)
class _PendingRequest:
    """A request, and the approval that it waits for."""

    request: Request
    pending: Pending | None = None


class LeaseRequests:
    """Requests leases from providers; remembers what waits for approval."""

    def __init__(self, answers: Answers, custody: Custody) -> None:
        self._answers = answers
        self._custody = custody
        self._wishes: dict[Target, _PendingRequest] = {}

    @property
    def awaiting(self) -> tuple[Target, ...]:
        """Return the targets whose approval is asked for and not yet given."""
        return tuple(self._wishes)

    async def check_out(self, attempt: Attempt, provider: Provider) -> HeldLease:
        """Return a lease; raise a ``LoginError`` if there is none to be had.

        The approver's time is the one of a person, ``prompt_timeout``.
        """
        with attempt.deadline.paused():
            wish = self._wishes.get(attempt.target)
            if wish is None:
                wish = _PendingRequest(await self._request(attempt))
            if wish.pending:
                _await(attempt, wish.pending)
            try:
                return await self._poll(attempt, provider, wish)
            finally:
                attempt.awaiting = ""

    async def _poll(
        self, attempt: Attempt, provider: Provider, wish: _PendingRequest
    ) -> HeldLease:
        deadline = trio.current_time() + attempt.tenant.login.prompt_timeout_s
        pause_s = FIRST_POLL_S
        while True:
            held = await self._ask(attempt, provider, wish)
            if held is not None:
                return held
            left_s = deadline - trio.current_time()
            if left_s <= 0:
                raise self._still_pending(attempt, wish)
            await trio.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 1.5, LONGEST_POLL_S)

    async def _ask(
        self, attempt: Attempt, provider: Provider, wish: _PendingRequest
    ) -> HeldLease | None:
        """Ask once; None: it is pending."""

        async def get() -> _Reply:
            # Not cancelled with its caller: a late grant must be recorded.
            with self._custody.calls.shield():
                async with self._custody.turn(attempt.target):
                    with self._custody.asking(attempt.target):
                        answer = await self._acquire(provider, wish)
                        self._note(wish, answer)
                        if isinstance(answer, Lease):
                            return HeldLease(answer, provider, self._custody)
                        return answer
            raise AbandonedError("the mount ended before the answer")

        answer: _Reply = await obtain(self._custody.nursery, get, _give_back)
        match answer:
            case HeldLease():
                return answer
            case Pending():
                _await(attempt, answer)
                return None
            case Busy():
                raise CredentialBusyError(_busy(attempt.target, answer))
            case Denied():
                raise LoginRefusedError(f"the checkout was denied: {answer.why}")

    async def _acquire(self, provider: Provider, wish: _PendingRequest) -> Answer:
        try:
            return await provider.acquire(wish.request, wish.pending)
        except UnansweredGrantError as exc:
            self._custody.return_unanswered(exc.lease, provider)
            raise exc.error from None
        except PamfsError:
            raise
        except Exception:  # a bug, and it may have been granted before
            asked = Lease(wish.request.target, ASKED)
            self._custody.return_unanswered(asked, provider)
            raise

    def _note(self, wish: _PendingRequest, answer: Answer) -> None:
        """Keep the pending approval, also when its caller has left."""
        target = wish.request.target
        if isinstance(answer, Pending):
            if wish.pending != answer:
                log.info("%s: waits for %s", target, answer.waits_for)
            wish.pending = answer
            self._wishes[target] = wish
        else:
            wish.pending = None
            self._wishes.pop(target, None)

    def _still_pending(
        self, attempt: Attempt, wish: _PendingRequest
    ) -> ApprovalPendingError:
        waits_for = wish.pending.waits_for if wish.pending else "approval"
        within_s = attempt.tenant.login.prompt_timeout_s
        return ApprovalPendingError(
            f"waits for {waits_for}: not given within {within_s:g} s;"
            " the request stays open, and the next access goes on with it"
        )

    async def _request(self, attempt: Attempt) -> Request:
        config = attempt.tenant.checkout
        if config is None or not config.sends_details:
            return Request(attempt.target)
        return Request(
            attempt.target,
            reason=await self._text(attempt, attempt.tenant.login.reason, Kind.REASON),
            ticket=await self._text(attempt, config.ticket, Kind.TICKET),
            duration_s=config.duration_s,
        )

    async def _text(
        self, attempt: Attempt, source: AnswerSource | None, kind: Kind
    ) -> str:
        if source is None:
            return ""

        async def ask(caller: Caller) -> Secret:
            question = Question(
                kind=kind,
                text=f"{kind.value.capitalize()}:",
                target=attempt.target,
                caller=caller,
                reconnection=attempt.reconnection(),
                deadline=trio.current_time() + attempt.tenant.login.prompt_timeout_s,
                echo=True,
                choices=attempt.tenant.login.reasons if kind is Kind.REASON else (),
            )
            return await self._answers.fetch(source, question)

        is_asked = source.kind is SourceKind.PROMPT
        answer = await (attempt.ask(ask) if is_asked else ask(attempt.caller))
        return answer.reveal().strip()  # sent to the provider: a reason is no secret


def _await(attempt: Attempt, pending: Pending) -> None:
    if attempt.awaiting != pending.waits_for:
        attempt.awaiting = pending.waits_for
        attempt.notify(f"waits for {pending.waits_for}")


async def _give_back(answer: _Reply) -> None:
    if isinstance(answer, HeldLease):
        log.info(
            "%s: granted after its caller had left: checked in again",
            answer.lease.target,
        )
        await answer.give_back()


def _busy(target: Target, answer: Busy) -> str:
    text = f"{target.credential}@{target.device} is held by "
    text += answer.holder or "another user"
    if answer.until is not None:
        text += f" until {_instant(answer.until)}"
    return text


def _instant(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).replace(microsecond=0).isoformat()
