"""A file long enough to be spread over channels, and how it is written."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from pamfs.model import RemotePath
from pamfs.transport.base import RemoteFile
from pamfs.transport.sftp import file as sftp_file
from pamfs.transport.sftp.file import SftpFile

STEP = 200_003
CONTENT = random.Random(2).randbytes(24 << 20)
_TWICE = memoryview(CONTENT + CONTENT[:STEP])
# On their way at once: enough for one channel to be too narrow.
_AT_ONCE = 12


def make_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every device count as far, and every file as long."""
    monkeypatch.setattr(sftp_file, "FAR_S", 0.0)
    monkeypatch.setattr(sftp_file, "LONG_BYTES", 0)


def long_content(size: int) -> bytes:
    """Return what a file of ``size`` holds: the content, over and over."""
    return (CONTENT * (size // len(CONTENT) + 1))[:size]


async def write_piece(
    file: RemoteFile,
    at: int,
    end: int,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Write what belongs at ``at``; it has left when this has started."""
    start = at % len(CONTENT)
    task_status.started()
    await file.write_at(at, _TWICE[start : start + min(STEP, end - at)])


async def write_all(file: RemoteFile, start: int = 0, end: int = len(CONTENT)) -> None:
    """Write from ``start`` to ``end``, in order, some at once."""
    await _write_while(file, start, end, lambda: True)


async def grow(file: RemoteFile, start: int = 0) -> int:
    """Write from ``start`` until it is decided how many handles ``file`` has.

    Return where the file ends then.
    """
    assert isinstance(file, SftpFile)

    def is_open() -> bool:
        return file._widened is None or not file._widened.is_set()

    return await _write_while(file, start, sys.maxsize, is_open)


async def _write_while(
    file: RemoteFile, start: int, end: int, is_wanted: Callable[[], bool]
) -> int:
    places = trio.CapacityLimiter(_AT_ONCE)

    async def write(at: int, task_status: trio.TaskStatus[None]) -> None:
        try:
            await write_piece(file, at, end, task_status)
        finally:
            places.release_on_behalf_of(at)

    async with trio.open_nursery() as nursery:
        at = start
        while at < end and is_wanted():
            await places.acquire_on_behalf_of(at)
            await nursery.start(write, at)
            at += STEP
    return min(at, end)


def handles_of(file: RemoteFile) -> int:
    """Return how many handles the writes of ``file`` go through."""
    assert isinstance(file, SftpFile)
    return file._stripes.count


def content_at(path: RemotePath) -> bytes:
    return Path(path.decode()).read_bytes()
