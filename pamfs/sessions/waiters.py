"""Who waits for the login of one target, and what their leaving means for it."""

from __future__ import annotations

from pamfs.model import Caller
from pamfs.sessions.dial import Attempt, first_to_ask


class Waiters:
    """The callers of one target, first come first."""

    def __init__(self) -> None:
        self._callers: list[Caller] = []

    def come(self, caller: Caller, attempt: Attempt | None) -> None:
        """Hear that ``caller`` waits from now on."""
        self._callers.append(caller)
        if attempt is not None:
            attempt.is_wanted = True
            attempt.waiting = self._callers

    def leave(self, caller: Caller, attempt: Attempt | None) -> bool:
        """Hear that ``caller`` waits no more; return whether to end the attempt.

        A login that asks nobody goes on: it will be open for the next caller.
        """
        self._callers.remove(caller)
        if attempt is None:
            return False
        if not self._callers:
            attempt.is_wanted = False
            return attempt.is_asking
        if caller == attempt.caller and caller not in self._callers:
            attempt.pass_to(first_to_ask(self._callers))
        return False
