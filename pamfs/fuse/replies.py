"""``reply`` wraps each handler: it returns, or raises ``FUSEError`` with one errno.

Any other exception would end pyfuse3's main loop and with it the mount
(facts/peers.md#handler-errors). Cancellation from outside passes: it is shutdown.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import pyfuse3
import trio

from pamfs.errors import PamfsError, first_failure
from pamfs.fuse.inflight import InFlightTable
from pamfs.model import Attrs
from pamfs.vfs.names.attributes import Node

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
_BLOCK_BYTES = 512  # what st_blocks counts, stat(2)
_IO_BYTES = 131072  # what cp and cat should ask for at a time


V = TypeVar("V")


class Waiting(Protocol):
    """Where handlers run that have to wait."""

    async def in_trio(self, ask: Callable[[], Awaitable[V]]) -> V:
        """Return what ``ask()`` does in a task of trio."""
        ...


class Handlers(Protocol):
    """What ``reply`` needs of the object whose methods it wraps.

    ``waiting`` is None where the handlers are called in tasks of trio already.
    """

    in_flight: InFlightTable
    within_s: float
    waiting: Waiting | None

    def pid_behind(self, args: Sequence[object]) -> int:
        """Return the process that a request with these arguments comes from."""
        ...


S = TypeVar("S", bound=Handlers)
Handler = Callable[Concatenate[S, P], Coroutine[Any, Any, R]]


def errno_of(exc: BaseException) -> int:
    """Return the one errno that stands for ``exc``; EIO for a bug of ours."""
    match exc:
        case PamfsError():
            # ENOSYS would switch the operation off for the whole mount.
            return errno.EOPNOTSUPP if exc.code == errno.ENOSYS else exc.code
        case pyfuse3.FUSEError():
            return exc.errno
        case trio.TooSlowError():
            return errno.ETIMEDOUT
        case BaseExceptionGroup():
            return errno_of(first_failure(exc))
        case _:
            return errno.EIO


def reply(handler: Handler[S, P, R]) -> Handler[S, P, R]:
    """Return ``handler`` with a deadline and interruption.

    It raises only ``FUSEError``.
    """
    operation = handler.__name__.lstrip("_")

    async def tracked(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        pid = self.pid_behind(args)
        with self.in_flight.track(operation, pid, self.within_s) as request:
            try:
                with request.scope:
                    return await handler(self, *args, **kwargs)
                # Only a cancelled scope falls through to here.
                raise pyfuse3.FUSEError(  # noqa: TRY301 - logged like any other
                    errno.EINTR if request.is_interrupted else errno.ETIMEDOUT
                )
            except Exception as exc:
                raise _as_fuse_error(operation, request.number, exc) from exc

    @functools.wraps(handler)
    async def bounded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if self.waiting is None:
            return await tracked(self, *args, **kwargs)
        return await self.waiting.in_trio(lambda: tracked(self, *args, **kwargs))

    return bounded


def reply_now(
    handler: Callable[Concatenate[S, P], R],
) -> Handler[S, P, R]:
    """As ``reply``, for a handler that never waits: it needs no deadline, nor trio."""
    operation = handler.__name__.lstrip("_")

    @functools.wraps(handler)
    async def answered(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        number = self.in_flight.answered_at_once()
        try:
            return handler(self, *args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except Exception as exc:
            raise _as_fuse_error(operation, number, exc) from exc

    return answered


def at_once(
    nowait: Callable[Concatenate[S, P], R | None],
) -> Callable[[Handler[S, P, R]], Handler[S, P, R]]:
    """Answer by ``nowait`` if that returns anything, else by the handler below.

    ``nowait`` waits for nothing and has changed nothing when it returns None.
    """

    def wrapped(handler: Handler[S, P, R]) -> Handler[S, P, R]:
        bounded = reply(handler)
        operation = handler.__name__.lstrip("_")

        @functools.wraps(handler)
        async def answered(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            try:
                found = nowait(self, *args, **kwargs)
            except Exception as exc:
                number = self.in_flight.answered_at_once()
                raise _as_fuse_error(operation, number, exc) from exc
            if found is None:
                return await bounded(self, *args, **kwargs)
            self.in_flight.answered_at_once()
            return found

        return answered

    return wrapped


def _as_fuse_error(operation: str, number: int, exc: Exception) -> pyfuse3.FUSEError:
    code, cause = errno_of(exc), first_failure(exc)
    if isinstance(cause, PamfsError | pyfuse3.FUSEError | trio.TooSlowError):
        log.debug("#%d %s: %s: %s", number, operation, errno.errorcode[code], cause)
    else:
        log.error("#%d %s failed", number, operation, exc_info=exc)
    return pyfuse3.FUSEError(code)


def entry_of(node: Node) -> pyfuse3.EntryAttributes:
    """Return ``node`` as the kernel wants it, its timeouts set explicitly."""
    entry = pyfuse3.EntryAttributes()
    attrs: Attrs = node.attrs
    entry.st_ino = pyfuse3.InodeT(node.ino)
    entry.generation = 0
    entry.entry_timeout = entry.attr_timeout = node.timeout_s
    entry.st_mode = pyfuse3.ModeT(attrs.mode)
    entry.st_nlink = attrs.nlink
    entry.st_uid = attrs.uid
    entry.st_gid = attrs.gid
    entry.st_rdev = 0
    entry.st_size = attrs.size
    entry.st_blksize = _IO_BYTES
    entry.st_blocks = -(-attrs.size // _BLOCK_BYTES)
    entry.st_atime_ns = attrs.atime_ns
    entry.st_mtime_ns = attrs.mtime_ns
    # SFTP version 3 has no ctime (docs/posix.md).
    entry.st_ctime_ns = attrs.mtime_ns if attrs.ctime_ns is None else attrs.ctime_ns
    return entry


def missing_entry(timeout_s: float) -> pyfuse3.EntryAttributes:
    """Return a negative entry: for ``timeout_s`` the kernel takes the name for absent.

    With ENOENT it would ask again each time.
    """
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(0)
    entry.entry_timeout = timeout_s
    return entry
