"""Log records without secrets, and files that are opened for appending."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pamfs import logs
from pamfs.logs import open_to_append
from pamfs.model import Secret
from pamfs.redaction import MASK, REDACTOR

LOUD = ("asyncssh", "asyncio", "trio", "pyfuse3")


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in LOUD}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)
    logging.captureWarnings(capture=False)


def test_a_line_has_time_level_logger_and_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.set_up("info")
    logging.getLogger("pamfs.x").info("hello %s", "there")
    logging.getLogger("pamfs.x").debug("not at this level")
    time, level, name, text = capsys.readouterr().err.split(" ", 3)
    assert len(time) == len("2026-01-01T00:00:00.000")
    assert (level, name, text) == ("INFO", "pamfs.x:", "hello there\n")


@pytest.mark.parametrize("level", ["info", "debug"])
def test_asyncssh_says_user_names_at_debug_only_and_never_the_code(
    level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = Secret("493021")
    REDACTOR.register(code)
    try:
        logs.set_up(level)
        user_name = "alice%acme[root@web01]493021"
        logging.getLogger("asyncssh").info("Beginning auth for user %s", user_name)
    finally:
        REDACTOR.forget(code)
    said = capsys.readouterr().err
    assert "493021" not in said
    assert (f"[root@web01]{MASK}" in said) is (level == "debug")


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
