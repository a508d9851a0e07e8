"""File descriptors of this process, and what to do when none is left.

A lack of descriptors (EMFILE: of this process, ENFILE: of the machine) is no refusal
by anybody. A login fails with ``NoDescriptorError``: its target does not cool down and
no account counts it. What ``pamfs status``, ``pamfs umount`` and the watchdog need is
kept in reserve: ``SPARE`` holds descriptors open and closes them while it is lent.

The log gets one line in ``QUIET_S``, however often descriptors are wanted in vain.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from pamfs.errors import LoginRefusedError, NoDescriptorError, first_failure

log = logging.getLogger(__name__)

SHORTAGE: Final = frozenset({errno.EMFILE, errno.ENFILE})
# A connection of a command, and a program with two pipes: 9 descriptors for a moment.
SPARES: Final = 12
# A login wants the connection, files for a moment, and a program that has a secret.
# Without /etc/resolv.conf the resolver says that the proxy does not exist.
LOGIN_DESCRIPTORS: Final = 16
QUIET_S: Final = 60.0


class SpareDescriptors:
    """Descriptors in reserve; state: how many bodies of ``lent`` run."""

    def __init__(self) -> None:
        self._held: list[int] = []
        self._borrowers = 0
        self._wanted = 0

    def hold(self, count: int = SPARES) -> None:
        """Keep ``count`` descriptors in reserve from now on."""
        self._wanted = count
        self._fill()

    def release(self) -> None:
        """Keep none any more."""
        self.hold(0)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Let the body, and whatever runs meanwhile, use the reserve."""
        self._borrowers += 1
        self._fill()
        try:
            yield
        finally:
            self._borrowers -= 1
            self._fill()

    def _fill(self) -> None:
        wanted = 0 if self._borrowers else self._wanted
        while len(self._held) > wanted:
            os.close(self._held.pop())
        try:
            while len(self._held) < wanted:
                self._held.append(_new_descriptor())
        except OSError:
            return  # the next end of a body tries again


SPARE: Final = SpareDescriptors()


class ShortageLog:
    """When the log last said that no descriptor is left."""

    def __init__(self) -> None:
        self.noted_at = -QUIET_S

    def note(self, error: NoDescriptorError) -> None:
        """Log ``error``, unless that was done within ``QUIET_S``."""
        now = time.monotonic()
        if now - self.noted_at >= QUIET_S:
            self.noted_at = now
            log.warning(
                "%s; open sessions go on, new logins fail (LimitNOFILE=, ulimit -n)",
                error,
            )


SHORTAGE_LOG: Final = ShortageLog()


def check_free(count: int = LOGIN_DESCRIPTORS) -> None:
    """Raise ``NoDescriptorError`` unless ``count`` descriptors can be opened now."""
    with ExitStack() as stack:
        try:
            for _ in range(count):
                stack.callback(os.close, _new_descriptor())
        except OSError as exc:
            raise no_descriptor(exc.errno or errno.EMFILE) from None


def shortage_of(exc: BaseException) -> NoDescriptorError | None:
    """Return the error to raise if a lack of descriptors is the cause of ``exc``.

    A refusal stays one, whatever went wrong behind it: an account has counted it.
    """
    cause: BaseException | None = first_failure(exc)
    if isinstance(cause, LoginRefusedError):
        return None
    while cause is not None:
        if isinstance(cause, NoDescriptorError):
            return cause
        if isinstance(cause, OSError) and cause.errno in SHORTAGE:
            return no_descriptor(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return None


def hidden_shortage(exc: Exception) -> NoDescriptorError | None:
    """As ``shortage_of``, where the C library may have hidden the cause.

    Without a descriptor for /etc/resolv.conf or /etc/passwd it says that a host or a
    user does not exist.
    """
    try:
        check_free(1)
    except NoDescriptorError as shortage:
        return shortage
    return shortage_of(exc)


def raise_shortage(exc: OSError) -> None:
    """Raise ``NoDescriptorError`` if that is what ``exc`` says."""
    if exc.errno in SHORTAGE:
        raise no_descriptor(exc.errno) from None


def no_descriptor(code: int) -> NoDescriptorError:
    """Return the error for ``code``, and log it unless that was done lately."""
    if code == errno.ENFILE:
        where = "the machine has no file descriptor left (sysctl fs.file-max)"
    else:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        where = f"the mount has no file descriptor left: its limit is {limit}"
    error = NoDescriptorError(where, code)
    SHORTAGE_LOG.note(error)
    return error


def _new_descriptor() -> int:
    return os.open("/", os.O_PATH | os.O_CLOEXEC)
