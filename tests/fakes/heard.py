"""An audit that keeps the records of one test."""

from __future__ import annotations


class Heard:
    """Keeps what is recorded, in order."""

    def __init__(self) -> None:
        """Begin with nothing heard."""
        self.records: list[dict[str, object]] = []

    def record(self, event: str, **facts: object) -> None:
        """Keep it."""
        self.records.append({"event": event, **facts})
