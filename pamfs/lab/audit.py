"""The audit log: one JSON object per line, written at once.

It never holds a password, a code or a user name as it came over the wire.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class AuditLog:
    """Appends events to a private file, and then tells the listeners their names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listeners: list[Callable[[str], None]] = []
        self._fd = os.open(
            path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
        )

    def write(self, event: str, **facts: str | float | list[str] | None) -> None:
        """Append ``event``; facts that are None or empty are left out."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        said = {k: v for k, v in facts.items() if v not in (None, "")}
        line = {"time": now, "event": event, **said}
        os.write(self._fd, json.dumps(line).encode() + b"\n")
        for listener in tuple(self.listeners):
            listener(event)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
