"""A deadline that stands still while a person is asked.

A login has ``connect_timeout_s`` until the proxy has spoken, and ``login_timeout_s``
from then on, since a person may have to approve it on a phone. A question that pamfs
asks has a limit of its own (``prompt_timeout_s``), so both stand still meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

import trio


class Limit(Enum):
    """Which time is used up."""

    CONNECT = "connect_timeout"
    LOGIN = "login_timeout"


class Patience:
    """Seconds that are left, used up only inside ``limit`` and outside ``paused``.

    Each limit counts over all tries of an attempt.
    """

    def __init__(self, connect_s: float, login_s: float = math.inf) -> None:
        self._left_s = {Limit.CONNECT: connect_s, Limit.LOGIN: login_s}
        self._limit = Limit.CONNECT
        self._scope: trio.CancelScope | None = None
        self._pauses = 0
        self._is_over = False

    @property
    def limit_in_use(self) -> Limit:
        """Return which time is used up now."""
        return self._limit

    def use(self, limit: Limit) -> None:
        """Use up the time of ``limit`` from now on."""
        self._stop()
        self._limit = limit
        self._start()

    @property
    def is_ended(self) -> bool:
        """Whether it was ended on purpose, and not used up."""
        return self._is_over

    @contextmanager
    def limit(self) -> Iterator[trio.CancelScope]:
        """Cancel the body when nothing is left; the scope says whether it was."""
        with trio.CancelScope() as scope:
            self._scope = scope
            self._start()
            if self._is_over:
                scope.cancel()
            try:
                yield scope
            finally:
                self._stop()
                self._scope = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the body take no time; pauses may overlap."""
        self._stop()
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            self._start()

    def end(self) -> None:
        """Cancel what runs inside ``limit``, now and later."""
        self._is_over = True
        if self._scope is not None:
            self._scope.cancel()

    def _start(self) -> None:
        if self._scope is not None and not self._pauses:
            self._scope.deadline = trio.current_time() + self._left_s[self._limit]

    def _stop(self) -> None:
        if self._scope is not None and not self._pauses:
            self._left_s[self._limit] = self._scope.deadline - trio.current_time()
            self._scope.deadline = math.inf
