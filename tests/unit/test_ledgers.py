"""The ledgers of conftest can fail a test."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

from tests.conftest import LogLedger, child_processes, open_files
from tests.limits import HANG_S


def record(text: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("pamfs.x", logging.WARNING, "f", 1, text, args, None)


def test_a_warning_that_nobody_announced_is_a_complaint() -> None:
    ledger = LogLedger()
    ledger.emit(record("%s is down", "proxy"))
    assert ledger.complaints() == ["unexpected WARNING of pamfs.x: proxy is down"]


def test_an_announced_warning_is_none() -> None:
    ledger = LogLedger()
    ledger(r"proxy .* down")
    ledger.emit(record("%s is down", "proxy"))
    assert ledger.complaints() == []


def test_what_was_announced_and_never_came_is_a_complaint() -> None:
    ledger = LogLedger()
    ledger("proxy is down")
    assert ledger.complaints() == ["expected in the log, and not there: proxy is down"]


def test_an_open_file_is_seen() -> None:
    before = open_files()
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        assert open_files() - before == {(fd, "/dev/null")}
    finally:
        os.close(fd)


def test_a_child_is_seen_until_it_is_reaped() -> None:
    before = child_processes()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child_processes() - before == {child.pid}
    child.communicate(b"\n", timeout=HANG_S)
    assert child_processes() == before
