"""What is said to whoever works through a mount without being asked: notices.

Law: giving a notice never waits, and a subscriber that fails fails only itself.
The log gets every notice in any case.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pamfs.model import Target

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Notice:
    """One line for a person; ``text`` names no file and holds no secret.

    One that is not urgent may be missed: it says what is waited for.
    """

    target: Target
    text: str
    is_urgent: bool = True

    def __str__(self) -> str:
        return f"{self.target}: {self.text}"


Subscriber = Callable[[Notice], object]


class Notices:
    """Everybody who wants to hear: the desktop, each ``pamfs agent``."""

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> None:
        """Have ``subscriber`` called with every notice, for good."""
        self._subscribers.append(subscriber)

    @contextmanager
    def subscribed(self, subscriber: Subscriber) -> Iterator[None]:
        """Have ``subscriber`` called with every notice in the body."""
        self._subscribers.append(subscriber)
        try:
            yield
        finally:
            self._subscribers.remove(subscriber)

    def about(self, target: Target, *, is_urgent: bool) -> Callable[[str], None]:
        """Return what gives a notice about ``target``, a line at a time."""
        return lambda text: self.give(Notice(target, text, is_urgent=is_urgent))

    def give(self, notice: Notice) -> None:
        """Tell everybody, now."""
        log.log(logging.WARNING if notice.is_urgent else logging.INFO, "%s", notice)
        for subscriber in list(self._subscribers):
            try:
                subscriber(notice)
            except Exception:
                log.exception("a notice could not be passed on")
