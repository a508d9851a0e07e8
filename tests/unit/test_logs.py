"""What reaches the log: levels and formats, no secret, and files for appending."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pamfs import logs
from pamfs.app.report import log_stacks
from pamfs.logs import MASK, REDACTOR, LineFormatter, Redactor, open_to_append
from pamfs.model import Secret

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


@pytest.mark.parametrize("mode", [0o640, 0o606, 0o602])
def test_a_log_file_that_others_read_or_write_is_refused(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "log"
    path.touch(mode=0o600)
    path.chmod(mode)
    with pytest.raises(OSError, match="chmod 600"):
        open_to_append(path)


def test_a_log_file_with_a_second_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch(mode=0o600)
    (tmp_path / "other").hardlink_to(path)
    with pytest.raises(OSError, match="second name"):
        open_to_append(path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_log_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch(mode=0o600)
    os.chown(path, 65534, -1)
    with pytest.raises(OSError, match="another user"):
        open_to_append(path)


def formatted(message: str, *arguments: object, error: Exception | None = None) -> str:
    record = logging.LogRecord(
        "pamfs.vfs", logging.WARNING, __file__, 1, message, arguments, None
    )
    if error is not None:
        record.exc_info = (type(error), error, error.__traceback__)
    return LineFormatter("%(levelname)s %(message)s").format(record)


FORGED = "x\nERROR \x1b[2Jforged\u202e\u2028\u200b\x85\r"


def test_a_file_name_neither_forges_a_line_nor_reaches_the_terminal() -> None:
    line = formatted("%s: not stored", FORGED)
    assert line.isprintable()
    assert line.startswith(r"WARNING x\nERROR \x1b[2Jforged\u202e\u2028\u200b\x85\r")
    assert formatted("Grüße, %s", "日本") == "WARNING Grüße, 日本"


def test_a_traceback_is_indented_and_forges_no_line() -> None:
    head, *below = formatted("failed", error=OSError(FORGED)).split("\n")
    assert head == "WARNING failed"
    assert below
    assert all(line.startswith("  ") and line.isprintable() for line in below)


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


class Log:
    """A logger whose only handler is redacted, and what it wrote."""

    def __init__(self) -> None:
        self.redactor = Redactor()
        self.stream = io.StringIO()
        self.logger = logging.getLogger("redaction-under-test")
        handler = logging.StreamHandler(self.stream)
        handler.addFilter(self.redactor)
        self.logger.handlers[:] = [handler]
        self.logger.propagate = False
        self.logger.setLevel(logging.DEBUG)

    @property
    def text(self) -> str:
        return self.stream.getvalue()


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    yield log
    log.logger.handlers[:] = []


def test_a_secret_is_taken_out_of_message_and_arguments(log: Log) -> None:
    log.redactor.register(Secret("hunter2"))
    log.logger.info("hunter2 %s %r", "a-hunter2-b", {"password": "hunter2"})
    log.logger.getChild("child").info("hunter2")
    assert "hunter2" not in log.text
    assert log.text.count(MASK) == 4


def test_a_secret_is_taken_out_of_tracebacks(log: Log) -> None:
    log.redactor.register(Secret("hunter2"))
    try:
        int("hunter2")
    except ValueError:
        log.logger.exception("failed", stack_info=True)
    assert "hunter2" not in log.text
    assert f"base 10: '{MASK}'" in log.text


def test_a_secret_is_found_as_repr_shows_it(log: Log) -> None:
    log.redactor.register(Secret("pä's\n"))
    log.logger.info("%r %r %s", "pä's\n", "pä's\n".encode(), "pä's\n")
    assert log.text.count(MASK) == 3


def test_the_longer_of_two_secrets_goes_first(log: Log) -> None:
    log.redactor.register(Secret("abc"))
    log.redactor.register(Secret("abcdef"))
    log.logger.info("abcdef")
    assert log.text == f"{MASK}\n"


def test_a_secret_stays_out_until_every_user_has_forgotten_it(log: Log) -> None:
    one, other = Secret("123456"), Secret("123456")
    log.redactor.register(one)
    log.redactor.register(other)
    log.redactor.forget(one)
    log.logger.info("123456")
    assert "123456" not in log.text
    log.redactor.forget(other)
    log.redactor.forget(other)
    log.logger.info("123456")
    assert "123456" in log.text


def test_an_empty_secret_masks_nothing(log: Log) -> None:
    log.redactor.register(Secret(""))
    log.logger.info("nothing to hide")
    assert log.text == "nothing to hide\n"


def test_a_wrong_format_string_is_still_a_clean_line(log: Log) -> None:
    log.redactor.register(Secret("hunter2"))
    wrong = "%d of %s"
    log.logger.info(wrong, "hunter2")
    assert "hunter2" not in log.text
    assert MASK in log.text


@given(st.text(min_size=1), st.text(), st.text())
def test_no_text_around_a_secret_brings_it_through(
    secret: str, before: str, after: str
) -> None:
    redactor = Redactor()
    redactor.register(Secret(secret))
    clean = redactor.clean(before + secret + after)
    assert secret not in clean.replace(MASK, "") or secret in before + after


async def test_the_stacks_of_all_tasks_are_lines_below_their_record() -> None:
    """SIGUSR1: a soak found them written as one line."""
    logger, stream = logging.getLogger("pamfs.app.report"), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    before, loop = logger.level, asyncio.new_event_loop()
    logger.setLevel(logging.INFO)
    try:
        log_stacks(loop)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        loop.close()
    first, *below = stream.getvalue().splitlines()
    assert first == "INFO all tasks:"
    assert len(below) > 3
    assert all(line.startswith("  ") for line in below)
    assert any(line.strip().startswith("trio ") for line in below)
