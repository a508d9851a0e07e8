"""Log lines go to stderr, cleaned; log files are their owner's alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from pamfs import logs
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
