"""What a session tells an operator about itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetStatus:
    """What ``pamfs status`` says of one target. Instants: seconds since the epoch."""

    tenant: str
    target: str
    state: str
    since: float
    lease_expires_at: float | None
    open_files: int
    bytes_read: int = 0  # by programs, through the tree: it alone can count them
    bytes_written: int = 0
    logins: int
    host_key: str | None
    last_error: str | None
    awaiting: str | None = None
