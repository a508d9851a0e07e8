"""Log and audit files: their owner's alone, and nobody waits to open one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pamfs.logs import open_to_append


def test_a_log_file_is_private_and_only_grows(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.log"
    for _ in range(2):
        fd = open_to_append(path)
        os.write(fd, b"line\n")
        os.close(fd)
    assert path.read_text() == "line\nline\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_log_file_is_no_link_to_something_else(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic"):
        open_to_append(tmp_path / "log")
    assert not (tmp_path / "other").exists()


@pytest.mark.timeout(10)
@pytest.mark.parametrize("is_read", [False, True])
def test_a_pipe_is_refused_at_once(tmp_path: Path, *, is_read: bool) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if is_read else -1
    with pytest.raises(OSError, match="not a regular file"):
        open_to_append(path)
    if is_read:
        os.close(reader)


def test_a_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(tmp_path / "socket"))
        with pytest.raises(OSError, match="not a regular file"):
            open_to_append(tmp_path / "socket")


def test_a_device_that_takes_lines_is_no_pipe() -> None:
    fd = open_to_append(Path("/dev/null"))
    assert os.write(fd, b"line\n") == len(b"line\n")
    assert os.get_blocking(fd)
    os.close(fd)
