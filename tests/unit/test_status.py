from __future__ import annotations

import asyncio
import errno

import asyncssh
import pytest
from asyncssh import constants
from asyncssh.packet import PacketDecodeError

from pamfs.errors import RemoteError, SessionLostError
from pamfs.transport.sftp.status import ERRNO_OF_STATUS, translated


def test_what_the_device_refused_has_its_errno() -> None:
    with pytest.raises(RemoteError) as caught, translated("lstat"):
        raise asyncssh.SFTPNoSuchFile("no such file")
    assert caught.value.code == errno.ENOENT


def test_a_code_of_the_future_is_an_error() -> None:
    with pytest.raises(RemoteError) as caught, translated("lstat"):
        raise asyncssh.SFTPError(4711, "?")
    assert caught.value.code == errno.EIO


@pytest.mark.parametrize(
    "lost",
    [
        asyncssh.SFTPConnectionLost("gone"),
        asyncssh.SFTPNoConnection("gone"),
        asyncssh.ConnectionLost("gone"),
        asyncio.IncompleteReadError(b"", 4),
        BrokenPipeError(),
        PacketDecodeError("half a packet"),
        asyncssh.KeyExchangeFailed("rekey"),
    ],
)
def test_a_lost_connection_is_no_answer(lost: Exception) -> None:
    with pytest.raises(SessionLostError), translated("read"):
        raise lost


def test_a_bug_of_ours_is_not_dressed_up() -> None:
    with pytest.raises(ZeroDivisionError), translated("read"):
        raise ZeroDivisionError


def test_no_status_becomes_enosys_or_success() -> None:
    assert errno.ENOSYS not in ERRNO_OF_STATUS.values()
    assert all(ERRNO_OF_STATUS.values())
    assert constants.FX_OK not in ERRNO_OF_STATUS
    assert constants.FX_EOF not in ERRNO_OF_STATUS
