from __future__ import annotations

import errno
import logging
import stat
from collections.abc import Callable, Sequence

import pyfuse3
import pytest
import trio
from trio.testing import MockClock

from pamfs.errors import CredentialBusyError, PamfsError, RemoteError
from pamfs.fuse.inflight import InFlightTable
from pamfs.fuse.replies import Waiting, entry_of, errno_of, reply
from pamfs.model import Attrs, Ino
from pamfs.vfs.names.attributes import Node


class Handlers:
    def __init__(self) -> None:
        self.in_flight = InFlightTable(wants_to_end=lambda _: True)
        self.within_s = 5.0
        self.waiting: Waiting | None = None

    def pid_behind(self, args: Sequence[object]) -> int:
        return 7

    @reply
    async def raises(self, exc: BaseException) -> None:
        await trio.lowlevel.checkpoint()
        raise exc

    @reply
    async def echoes(self, value: str) -> str:
        await trio.lowlevel.checkpoint()
        return value

    @reply
    async def hangs(self) -> None:
        await trio.sleep_forever()


class NoSuchCallError(PamfsError):
    code = errno.ENOSYS


@pytest.mark.parametrize(
    ("exc", "code"),
    [
        (RemoteError(errno.ENOTEMPTY, "rmdir"), errno.ENOTEMPTY),
        (CredentialBusyError("taken"), errno.EBUSY),
        (pyfuse3.FUSEError(errno.EXDEV), errno.EXDEV),
        (trio.TooSlowError(), errno.ETIMEDOUT),
        (ExceptionGroup("two", [RemoteError(errno.EROFS, "x")]), errno.EROFS),
        (ValueError("a bug"), errno.EIO),
        (NoSuchCallError("never ENOSYS"), errno.EOPNOTSUPP),
    ],
)
def test_each_failure_has_one_errno(exc: BaseException, code: int) -> None:
    assert errno_of(exc) == code


async def test_a_value_passes() -> None:
    assert await Handlers().echoes("x") == "x"


async def test_an_explained_error_leaves_as_its_errno_and_nothing_else() -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await Handlers().raises(RemoteError(errno.ENOSPC, "write"))
    assert caught.value.errno == errno.ENOSPC


async def test_a_bug_is_eio_with_a_traceback_in_the_log(
    expect_log: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    expect_log("raises failed")
    with caplog.at_level(logging.ERROR), pytest.raises(pyfuse3.FUSEError) as caught:
        await Handlers().raises(ZeroDivisionError("a bug of ours"))
    assert caught.value.errno == errno.EIO
    assert "ZeroDivisionError" in caplog.text


async def test_a_hang_ends_at_the_deadline(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await Handlers().hangs()
    assert caught.value.errno == errno.ETIMEDOUT
    assert trio.current_time() - start == 5.0


async def test_an_interrupted_caller_gets_eintr(autojump_clock: MockClock) -> None:
    handlers = Handlers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handlers.in_flight.watch)
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await handlers.hangs()
        assert caught.value.errno == errno.EINTR
        nursery.cancel_scope.cancel()


async def test_shutdown_passes_through() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await Handlers().hangs()
    assert scope.cancelled_caught


def test_an_entry_says_explicitly_how_long_it_holds() -> None:
    attrs = Attrs(stat.S_IFREG | 0o640, 1025, 1, 2, 3_000_000_005, 4_000_000_006)
    entry = entry_of(Node(Ino(9), attrs, 1.5))
    assert (entry.entry_timeout, entry.attr_timeout) == (1.5, 1.5)
    assert (entry.st_ino, entry.st_size, entry.st_blocks) == (9, 1025, 3)
    assert (entry.st_mode, entry.st_uid, entry.st_gid) == (attrs.mode, 1, 2)
    assert (entry.st_atime_ns, entry.st_mtime_ns) == (3_000_000_005, 4_000_000_006)
    assert entry.st_ctime_ns == attrs.mtime_ns


def test_a_ctime_from_the_wire_is_shown() -> None:
    attrs = Attrs(stat.S_IFREG, ctime_ns=77)
    assert entry_of(Node(Ino(9), attrs, 0)).st_ctime_ns == 77
