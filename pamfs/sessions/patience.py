"""A deadline that stands still while a person is asked.

A login has ``connect_timeout_s`` for the machines; the person has a time of
their own (``prompt_timeout_s``), or a slow typist would be cut off.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Patience:
    """Seconds that are left, used up only inside ``limit`` and outside ``paused``."""

    def __init__(self, seconds: float) -> None:
        self._left_s = seconds
        self._scope: trio.CancelScope | None = None
        self._pauses = 0
        self._is_over = False

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
            self._scope.deadline = trio.current_time() + self._left_s

    def _stop(self) -> None:
        if self._scope is not None and not self._pauses:
            self._left_s = self._scope.deadline - trio.current_time()
            self._scope.deadline = math.inf
