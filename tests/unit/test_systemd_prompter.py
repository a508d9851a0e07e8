"""systemd's own password agents are asked; this test is one of them."""

from __future__ import annotations

import configparser
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from pamfs.errors import CannotAskError, DeclinedError
from pamfs.model import Caller, Secret
from pamfs.sessions.prompts import Question
from pamfs.sessions.prompts.programs import SYSTEMD, SystemdPrompter
from pamfs.sessions.prompts.question import Kind
from tests.fakes.tenants import WEB01
from tests.limits import HANG_S

# Where systemd-ask-password(1) leaves its questions.
FOLDER = Path("/run/systemd/ask-password")

pytestmark = pytest.mark.skipif(
    os.getuid() != 0 or shutil.which(SYSTEMD) is None,
    reason="needs root and systemd-ask-password",
)


def question() -> Question:
    me = Caller(os.getpid(), os.getuid(), os.getgid())
    deadline = trio.current_time() + 30
    words = "Password\nSocket=/run/elsewhere\nfor you:"  # of a server that means ill
    return Question(Kind.PASSWORD, words, WEB01, me, deadline, details="a\nSocket=/b")


def asked() -> Iterator[Mapping[str, str]]:
    """Yield what is being asked, as an agent reads it."""
    for path in FOLDER.glob("ask.*"):
        parser = configparser.ConfigParser(interpolation=None)
        with suppress(OSError):  # it may be answered by now
            parser.read_string(path.read_text())
            yield parser["Ask"]


async def reply(with_text: bytes) -> str:
    """Answer the first question that appears; return its message."""
    while True:
        for ask in asked():
            if ask.get("Id") == "pamfs":
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as agent:
                    agent.sendto(with_text, ask["Socket"])
                return ask["Message"]
        await trio.lowlevel.checkpoint()


async def test_an_agent_of_systemd_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVOCATION_ID", "0123456789abcdef0123456789abcdef")
    answers: list[Secret] = []

    async def ask() -> None:
        answers.append(await SystemdPrompter().ask(question()))

    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            message = await reply(b"+of-this-test")
    assert [answer.reveal() for answer in answers] == ["of-this-test"]
    assert str(WEB01) in message


async def test_a_cancel_declines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVOCATION_ID", "0123456789abcdef0123456789abcdef")

    async def ask() -> None:
        with pytest.raises(DeclinedError):
            await SystemdPrompter().ask(question())

    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await reply(b"-")


async def test_what_is_no_service_does_not_ask_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    with pytest.raises(CannotAskError):
        await SystemdPrompter().ask(question())
