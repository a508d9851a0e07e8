"""No log line holds a registered secret, wherever in the record it stood."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pamfs.model import Secret
from pamfs.redaction import MASK, Redactor


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
