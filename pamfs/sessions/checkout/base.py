"""What a checkout provider is: the one interface behind every kind of PAM.

Vendors use "check-in" for both directions (facts/pam.md#segura-vault-words), so the
methods are called ``acquire`` and ``release``. A provider keeps nothing that is not in
the ``Lease``: after a crash only the journal's copy of it is left.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final, Protocol

from pamfs.errors import LoginError, PamfsError
from pamfs.model import Target


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted, why and for how long; ``ticket`` is the site's change number."""

    target: Target
    reason: str = ""
    ticket: str = ""
    duration_s: float | None = None


# The id of a lease that was requested, and perhaps granted: no answer came.
ASKED: Final = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use a credential until ``expires_at`` (seconds since the epoch).

    ``id`` is the provider's name for it and no secret; ``None`` means that the
    end is not known.
    """

    target: Target
    id: str
    expires_at: float | None = None
    is_renewable: bool = False


@dataclass(frozen=True, slots=True)
class Pending:
    """An approval is needed: ``id`` continues the request, ``waits_for`` names it."""

    id: str
    waits_for: str = "approval"


@dataclass(frozen=True, slots=True)
class Busy:
    """Another user holds the credential."""

    holder: str = ""
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Denied:
    """The PAM said no, and why."""

    why: str


Answer = Lease | Pending | Busy | Denied


class UnansweredGrantError(PamfsError):
    """The answer to ``acquire`` was lost: ``lease`` may be granted, and goes back.

    ``error`` is for the caller.
    """

    def __init__(self, error: LoginError, lease: Lease) -> None:
        super().__init__(str(error))
        self.code = error.code
        self.error = error
        self.lease = lease


class Provider(Protocol):
    """One way to check out. Raises ``UnreachableError`` if the PAM is away.

    Each call ends by itself: none is cut short, or a grant could get lost.
    """

    async def acquire(self, request: Request, pending: Pending | None) -> Answer:
        """Ask for a lease, or continue a request that was ``pending``.

        Raises ``UnansweredGrantError`` if there may be a grant that was not understood.
        """
        ...

    async def renew(self, lease: Lease) -> Lease | None:
        """Return a longer lease, or None if there is none to be had."""
        ...

    async def release(self, lease: Lease) -> None:
        """Give the lease back; giving back what is back already is success.

        With the id ``ASKED`` it is whatever we hold of the target, if anything.
        """
        ...


class JournalError(LoginError):
    """The leases held cannot be written down."""

    code = errno.EIO


class Journal(Protocol):
    """The leases held, on disk and without secrets, for the start after a crash.

    Each ``held`` is undone by one ``returned`` of an equal lease.
    """

    def held(self, lease: Lease) -> None:
        """Write down that ``lease`` is held; on disk when this returns.

        Raises ``JournalError`` if it is not; it counts as held all the same.
        """
        ...

    def returned(self, lease: Lease) -> None:
        """Write down that ``lease`` was given back."""
        ...
