"""Servers that break the protocol, each in one way that has a name.

Each access ends with an honest error, and none with a success, a hang or a traceback.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, cast

import asyncssh
import pytest
import trio
from asyncssh.stream import SSHServerStreamSession

from pamfs.errors import RemoteError, SessionLostError
from pamfs.model import RemotePath
from pamfs.transport.sftp.tree import SftpTree
from tests.contracts.implementations import sftp_over_asyncssh, tree_on
from tests.contracts.promise import READ, content_of, opened, refused, store, under
from tests.fakes.packets import (
    AnswersAhead,
    CutThenEnds,
    CutThenSilent,
    DeniesLimits,
    FailsLimits,
    Faulty,
    ForgetsHandles,
    NoNames,
    Oversized,
    RefusesLimits,
    TwoAnswers,
    UnknownStatus,
    WrongIds,
    WrongKind,
)

CONTENT = b"123456"
# What every server takes in one request (filexfer-02, section 3).
SAFE_BYTES = 32768


class Session(SSHServerStreamSession[bytes]):
    """A file session that a handler of the class ``kind`` answers."""

    kind: type[Faulty]
    last: Faulty | None = None

    def __init__(self) -> None:
        super().__init__(None, cast("Any", asyncssh.SFTPServer))

    def session_started(self) -> None:
        channel = cast("Any", self._chan)
        reader = asyncssh.SSHReader[bytes](self, channel)
        writer = asyncssh.SSHWriter[bytes](self, channel)
        handler = self.kind(asyncssh.SFTPServer(channel), reader, writer, 3)
        type(self).last = handler
        assert self._conn is not None
        self._conn.create_task(handler.run(), reader.logger)


def session_of(fault: type[Faulty]) -> type[Session]:
    return cast("type[Session]", type("OneSession", (Session,), {"kind": fault}))


BREAKS = (WrongIds, Oversized, CutThenEnds)


@pytest.mark.parametrize("fault", BREAKS, ids=lambda fault: fault.__name__)
async def test_a_reply_that_breaks_the_session_fails_what_is_under_way(
    tmp_path: Path, fault: type[Faulty]
) -> None:
    session = session_of(fault)
    with sftp_over_asyncssh(tmp_path, session=session) as sftp:
        path = under(sftp.new_folder("here"), b"f")
        async with tree_on(sftp) as tree:
            await store(tree, path, CONTENT)
            async with opened(tree, path, READ) as file:
                arm(session)
                with pytest.raises(SessionLostError):
                    await file.read_at(0, 10)
                # What comes later is told at once that there is no session.
                with pytest.raises(SessionLostError):
                    await tree.lstat(path)


@pytest.mark.parametrize("fault", [TwoAnswers, AnswersAhead])
async def test_a_reply_too_many_is_no_success_of_another_request(
    tmp_path: Path, fault: type[Faulty]
) -> None:
    session = session_of(fault)
    with sftp_over_asyncssh(tmp_path, session=session) as sftp:
        path = under(sftp.new_folder("here"), b"f")
        async with tree_on(sftp) as tree:
            await store(tree, path, CONTENT)
            arm(session)
            with pytest.raises(SessionLostError):
                await look_three_times(tree, path)


@pytest.mark.parametrize("fault", [RefusesLimits, FailsLimits, DeniesLimits])
async def test_limits_that_are_announced_and_refused_are_the_protocols_own(
    tmp_path: Path, fault: type[Faulty]
) -> None:
    with sftp_over_asyncssh(tmp_path, session=session_of(fault)) as sftp:
        path = under(sftp.new_folder("here"), b"f")
        async with tree_on(sftp) as tree:
            assert 0 < tree.capabilities.max_read_bytes <= SAFE_BYTES
            assert 0 < tree.capabilities.max_write_bytes <= SAFE_BYTES
            await store(tree, path, CONTENT)
            assert await content_of(tree, path) == CONTENT


async def test_half_a_packet_and_then_silence_is_ended_by_the_requests_deadline(
    tmp_path: Path,
) -> None:
    session = session_of(CutThenSilent)
    with sftp_over_asyncssh(tmp_path, session=session) as sftp:
        path = under(sftp.new_folder("here"), b"f")
        async with tree_on(sftp) as tree:
            await store(tree, path, CONTENT)
            arm(session)
            # As ``vfs.remote_access`` has it, only sooner.
            with pytest.raises(trio.TooSlowError), trio.fail_after(0.2):
                await tree.lstat(path)


@pytest.mark.parametrize("fault", [WrongKind, UnknownStatus])
async def test_a_reply_without_a_meaning_is_an_io_error_and_the_session_lives(
    tmp_path: Path, fault: type[Faulty]
) -> None:
    session = session_of(fault)
    with sftp_over_asyncssh(tmp_path, session=session) as sftp:
        path = under(sftp.new_folder("here"), b"f")
        async with tree_on(sftp) as tree:
            await store(tree, path, CONTENT)
            arm(session)
            for _ in range(2):
                with refused(errno.EIO):
                    await tree.lstat(path)
                with refused(errno.EIO):
                    await tree.real_path(path)
                with refused(errno.EIO):
                    await tree.readlink(path)
            arm(session, is_armed=False)
            assert await content_of(tree, path) == CONTENT


async def test_a_handle_that_is_gone_is_stale(tmp_path: Path) -> None:
    session = session_of(ForgetsHandles)
    with sftp_over_asyncssh(tmp_path, session=session) as sftp:
        path = under(sftp.new_folder("here"), b"f")
        async with tree_on(sftp) as tree:
            await store(tree, path, CONTENT)
            async with opened(tree, path, READ) as file:
                arm(session)
                with refused(errno.ESTALE):
                    await file.read_at(0, 10)
                arm(session, is_armed=False)


async def test_a_list_of_no_names_is_an_io_error(tmp_path: Path) -> None:
    session = session_of(NoNames)
    with sftp_over_asyncssh(tmp_path, session=session) as sftp:
        path = under(sftp.new_folder("here"), b"l")
        async with tree_on(sftp) as tree:
            await tree.symlink(b"x", path)
            arm(session)
            with refused(errno.EIO):
                await tree.readlink(path)
            with pytest.raises(RemoteError):
                await tree.real_path(path)


async def look_three_times(tree: SftpTree, path: RemotePath) -> None:
    for _ in range(3):
        assert (await tree.lstat(path)).size == len(CONTENT)


def arm(session: type[Session], *, is_armed: bool = True) -> None:
    assert session.last is not None
    session.last.is_armed = is_armed
