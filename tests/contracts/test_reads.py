"""Reads from servers that answer with too little, with too much, or with nothing."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncssh
import pytest
import trio

from pamfs.model import RemotePath
from pamfs.transport.base import RemoteFile
from tests.contracts.implementations import Sftp, sftp_over_asyncssh
from tests.contracts.promise import READ, opened, refused, under
from tests.fakes.servers import EndsWithNothing, SendsNothing, SendsTooMuch
from tests.limits import HANG_S

CONTENT = bytes(range(256)) * 40
LIMIT = 4 << 20  # what asyncssh's server says it reads at a time


@contextmanager
def served(folder: Path, server: type[asyncssh.SFTPServer]) -> Iterator[Sftp]:
    with sftp_over_asyncssh(folder, server) as sftp:
        here = sftp.new_folder("here")
        (Path(here.decode()) / "f").write_bytes(CONTENT)
        yield sftp


@asynccontextmanager
async def opened_on(sftp: Sftp) -> AsyncIterator[RemoteFile]:
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            tree = sftp.new_tree(nursery)
            folder = RemotePath(bytes(sftp._folder / "here"))
            async with opened(tree, under(folder, b"f"), READ) as file:
                yield file


@pytest.mark.parametrize("size", [8192, 2 * LIMIT])
async def test_no_data_in_the_middle_of_a_file_is_an_error_and_no_end(
    tmp_path: Path, size: int
) -> None:
    with served(tmp_path, SendsNothing) as sftp:
        async with opened_on(sftp) as file:
            assert await file.read_at(0, 4096) == CONTENT[:4096]
            with refused(errno.EIO):
                await file.read_at(0, size)
            with refused(errno.EIO):
                await file.read_at(4096, size)


@pytest.mark.parametrize("size", [16384, 2 * LIMIT])
async def test_no_data_at_the_end_of_a_file_is_its_end(
    tmp_path: Path, size: int
) -> None:
    with served(tmp_path, EndsWithNothing) as sftp:
        async with opened_on(sftp) as file:
            assert await file.read_at(0, size) == CONTENT
            assert await file.read_at(len(CONTENT), size) == b""
            assert await file.read_at(len(CONTENT) + 5, size) == b""


@pytest.mark.parametrize("size", [4096, 2 * LIMIT])
async def test_more_than_was_asked_for_is_an_error(tmp_path: Path, size: int) -> None:
    content = b"x" * (3 * LIMIT)
    with served(tmp_path, SendsTooMuch) as sftp:
        (tmp_path / "here" / "f").write_bytes(content)
        async with opened_on(sftp) as file:
            with refused(errno.EIO):
                await file.read_at(0, size)
