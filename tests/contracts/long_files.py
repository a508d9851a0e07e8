"""A file long enough to be spread over channels, and how it is written."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from pamfs.model import RemotePath
from pamfs.transport import sftp_file
from pamfs.transport.base import RemoteFile
from pamfs.transport.sftp_file import SftpFile

STEP = 200_003
CONTENT = random.Random(2).randbytes(24 << 20)


def make_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every device count as far, and every file as long."""
    monkeypatch.setattr(sftp_file, "FAR_S", 0.0)
    monkeypatch.setattr(sftp_file, "LONG_BYTES", 0)


async def write_all(file: RemoteFile, start: int = 0, end: int = len(CONTENT)) -> None:
    async with trio.open_nursery() as nursery:
        for at in range(start, end, STEP):
            piece = memoryview(CONTENT)[at : min(at + STEP, end)]
            nursery.start_soon(file.write_at, at, piece)


async def widened(file: RemoteFile) -> int:
    """Return how many ways ``file`` has, once it has been decided."""
    assert isinstance(file, SftpFile)
    assert file._widened is not None
    await file._widened.wait()
    return file._ways.count


def content_at(path: RemotePath) -> bytes:
    return Path(path.decode()).read_bytes()
