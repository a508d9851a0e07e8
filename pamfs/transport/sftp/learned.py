"""What the server of one session was seen to do with each kind of request.

SFTP servers leave requests out, and say so with whatever status they like: OpenSSH's
``-P`` answers PERMISSION_DENIED, others OP_UNSUPPORTED or a bare FAILURE. Where such a
request has an equal, that is tried; if it works, it is what is sent from then on.

Law: a request that has worked once in a session is there, so a later refusal means
what it says. One that was refused is given up only once its equal has worked.
"""

from __future__ import annotations

import errno
from typing import Final

# What a server may say of a request that it does not have.
_AMBIGUOUS: Final = frozenset({errno.EIO, errno.EACCES, errno.EINVAL})


class Learned:
    """Which requests work in this session, and which do not."""

    def __init__(self) -> None:
        self._works: set[str] = set()
        self._missing: set[str] = set()
        self._told: set[str] = set()

    def may_ask(self, request: str) -> bool:
        """Whether ``request`` may be sent: it is not known to be missing."""
        return request not in self._missing

    def works(self, request: str) -> None:
        """Note that the server has done ``request``."""
        self._works.add(request)

    def has_worked(self, request: str) -> bool:
        """Whether the server has done ``request`` in this session."""
        return request in self._works

    def may_be_missing(self, request: str, code: int) -> bool:
        """Whether a refusal with ``code`` may mean that there is no such request."""
        if code == errno.EOPNOTSUPP:
            return True
        return code in _AMBIGUOUS and request not in self._works

    def is_missing(self, request: str) -> None:
        """Note that the equal of ``request`` worked where it was refused."""
        if request not in self._works:
            self._missing.add(request)

    def is_news(self, what: str) -> bool:
        """Whether ``what`` was not told yet; it is now."""
        is_news = what not in self._told
        self._told.add(what)
        return is_news
