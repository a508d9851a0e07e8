"""Who uses the session of a target, and when nobody has for long enough."""

from __future__ import annotations

import math
from types import TracebackType

import trio


class Idleness:
    """Counts loans and open files; while there are any, the session is not idle."""

    def __init__(self, close_after_s: float) -> None:
        self.loans = 0
        self.pins = 0
        self._close_after_s = close_after_s
        self._alarm = trio.CancelScope()

    def __enter__(self) -> None:
        """Count one caller more in the body."""
        self.loans += 1
        self._set_alarm()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.loans -= 1
        self._set_alarm()

    def pin(self, count: int) -> None:
        """Add ``count`` to the open files."""
        self.pins += count
        self._set_alarm()

    async def wait_idle(self) -> None:
        """Return when nobody has used it for long enough, and nobody does now."""
        while True:
            with trio.CancelScope() as self._alarm:
                self._set_alarm()
                await trio.sleep_forever()
            # A loan may have come between the alarm and this line.
            if self._is_idle:
                return

    @property
    def _is_idle(self) -> bool:
        return not self.loans and not self.pins

    def _set_alarm(self) -> None:
        wait_s = self._close_after_s if self._is_idle else math.inf
        deadline = trio.current_time() + wait_s
        if deadline != self._alarm.deadline:  # setting it costs more than looking
            self._alarm.deadline = deadline
