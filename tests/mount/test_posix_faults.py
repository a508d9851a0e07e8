"""The checks of open files while sessions are lost: an error is an error.

A session ends at the n-th round trip and the next one is opened on the same
device. A check may then fail with EIO or ESTALE, and with nothing else: data
that is not there, an end of file too early, a write that was not stored and not
reported are what its assertions are for.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable

import pyfuse3
import pytest

from tests.fakes.faults import DropsAfter
from tests.fakes.memory import MemoryFs
from tests.fakes.remote import Device, FakeTree
from tests.mount.drivers import in_process
from tests.mount.kernel_names import readdir_reply
from tests.mount.posix_io import IO

LOST = {errno.EIO, errno.ESTALE}


def losing(*trips: int) -> Callable[[MemoryFs, Device], FakeTree]:
    """Return a maker of sessions, the first of which end after ``trips``."""
    left = list(trips)

    def make(fs: MemoryFs, device: Device) -> FakeTree:
        if left:
            return DropsAfter(left.pop(0), fs, device)
        return FakeTree(fs, device)

    return make


def is_honest(exc: BaseException | None) -> bool:
    """Whether ``exc`` says that a session was lost, or stems from that."""
    while exc is not None and not isinstance(exc, OSError):
        exc = exc.__cause__ or exc.__context__
    return exc is not None and exc.errno in LOST


@pytest.mark.parametrize("trips", range(2, 50, 4))
async def test_a_lost_session_is_an_error_and_never_wrong_data(
    trips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyfuse3, "readdir_reply", readdir_reply)
    # What was not stored is told in the log; how often depends on the trip.
    for name in ("pamfs.vfs.files", "pamfs.vfs.data.writeback"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    for name, check in IO.items():
        async with in_process(Device(), losing(trips, 5)) as driver:
            try:
                await driver.run(check)
            except (OSError, AssertionError) as exc:
                assert is_honest(exc), f"{name} after {trips} round trips"  # noqa: PT017
