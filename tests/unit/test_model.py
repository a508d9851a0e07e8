"""The values: what they show, and what they never show."""

from __future__ import annotations

import copy
import pickle
import traceback

import pytest

from pamfs.model import Secret, Target

WORD = "hunter2-and-more"


@pytest.mark.parametrize(
    "shown",
    [
        repr(Secret(WORD)),
        str(Secret(WORD)),
        f"{Secret(WORD)}",
        f"{Secret(WORD):>40}",
        f"{Secret(WORD)!r}",
        "%s %r" % (Secret(WORD), Secret(WORD)),  # noqa: UP031 - as logging does
        str([Secret(WORD)]),
        str({"password": Secret(WORD)}),
    ],
)
def test_a_secret_prints_as_nothing(shown: str) -> None:
    assert WORD not in shown
    assert "Secret(...)" in shown


def test_a_secret_has_one_exit() -> None:
    assert Secret(WORD).reveal() == WORD
    assert not hasattr(Secret(WORD), "__dict__")


def test_a_secret_is_never_pickled_nor_copied() -> None:
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never pickled"):
            attempt(Secret(WORD))


def test_a_secret_stays_out_of_tracebacks_with_locals() -> None:
    def fail() -> None:
        secret = Secret(WORD)
        raise ValueError(secret)

    with pytest.raises(ValueError, match="Secret") as caught:
        fail()
    shown = traceback.TracebackException.from_exception(
        caught.value, capture_locals=True
    )
    assert WORD not in "".join(shown.format())


def test_an_empty_secret_is_false() -> None:
    assert not Secret("")
    assert Secret(WORD)


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        (Target("acme", "root", "web01"), "acme/root@web01"),
        (Target("acme", "svc", "fs02", domain="corp"), "acme/corp\\svc@fs02"),
        (Target("acme", "root", "web01", port=2222), "acme/root@web01{ssh.2222}"),
        (
            Target("acme", "root", "sw1", proto="telnet", port=23),
            "acme/root@sw1{telnet.23}",
        ),
        (Target("acme", "u@corp.example", "db"), "acme/u@corp.example@db"),
    ],
)
def test_a_target_shows_what_is_not_the_default(target: Target, shown: str) -> None:
    assert str(target) == shown
