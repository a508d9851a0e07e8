"""The conversation with the real pinentry programs, on a terminal."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from pamfs.errors import CannotAskError, DeclinedError
from pamfs.sessions.prompts.pinentry import Assuan, escape, started, unescape
from tests.fakes.terminals import Desk, a_desk
from tests.limits import HANG_S
from tests.mount.mounts import is_alive
from tests.mount.terminals import children_of

ENVIRONMENT = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
FLAVORS = ("pinentry-curses", "pinentry-tty")


@pytest.fixture
def desk() -> Iterator[Desk]:
    with a_desk() as made:
        yield made


@pytest.fixture(params=FLAVORS)
def flavor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def on(
    desk: Desk, flavor: str, on_torn: Callable[[], object] = lambda: None
) -> AsyncIterator[Assuan]:
    async with started([flavor], ENVIRONMENT, on_torn) as pinentry:
        await pinentry.option("ttyname", str(desk.path))
        await pinentry.option("ttytype", "xterm")
        await pinentry.option("lc-ctype", "C.UTF-8")
        await pinentry.tell("SETTIMEOUT", "30")
        yield pinentry


async def type_at(desk: Desk, prompt: bytes, keys: bytes) -> None:
    await desk.read_until(prompt)
    desk.type(keys)


async def test_what_is_typed_is_the_answer(desk: Desk, flavor: str) -> None:
    with trio.fail_after(HANG_S):
        async with on(desk, flavor) as pinentry, trio.open_nursery() as nursery:
            await pinentry.tell("SETDESC", "100 % sure?\nReally")
            await pinentry.tell("SETPROMPT", "Password:")
            nursery.start_soon(type_at, desk, b"Password:", "pä%41ss\r".encode())
            secret = await pinentry.get_pin()
    assert secret.reveal() == "pä%41ss"
    assert b"Really" in desk.seen
    assert "pä%41ss".encode() not in desk.seen


async def test_the_same_pinentry_is_asked_again(desk: Desk, flavor: str) -> None:
    with trio.fail_after(HANG_S):
        async with on(desk, flavor) as pinentry, trio.open_nursery() as nursery:
            await pinentry.tell("SETPROMPT", "Code:")
            nursery.start_soon(type_at, desk, b"Code:", b"12345\r")
            assert (await pinentry.get_pin()).reveal() == "12345"
            await pinentry.tell("SETERROR", "six digits")
            nursery.start_soon(type_at, desk, b"digits", b"123456\r")
            assert (await pinentry.get_pin()).reveal() == "123456"


async def test_a_question_that_is_taken_back_leaves_the_terminal_clean(
    desk: Desk, flavor: str
) -> None:
    before = desk.modes()
    with trio.fail_after(HANG_S):
        async with on(desk, flavor) as pinentry, trio.open_nursery() as nursery:
            await pinentry.tell("SETPROMPT", "Code:")
            nursery.start_soon(pinentry.get_pin)
            await desk.read_until(b"Code:")
            nursery.cancel_scope.cancel()
    assert desk.modes() == before
    desk.read_rest()
    # What entered the alternate screen has left it.
    assert desk.seen.count(b"\x1b[?1049h") == desk.seen.count(b"\x1b[?1049l")


ASK_AND_WAIT = """\
import sys, trio
from tests.unit.test_assuan import ENVIRONMENT, started
async def ask():
    async with started([sys.argv[2]], ENVIRONMENT) as pinentry:
        await pinentry.option("ttyname", sys.argv[1])
        await pinentry.option("ttytype", "xterm")
        await pinentry.tell("SETPROMPT", "Code:")
        await pinentry.tell("SETTIMEOUT", "60")
        await pinentry.get_pin()
trio.run(ask)
"""


async def test_a_pinentry_ends_with_a_mount_that_is_killed(
    desk: Desk, flavor: str
) -> None:
    before = desk.modes()
    command = [sys.executable, "-c", ASK_AND_WAIT, str(desk.path), flavor]
    with trio.fail_after(HANG_S):
        mount = await trio.lowlevel.open_process(command)
        await desk.read_until(b"Code:")
        (pinentry,) = children_of({mount.pid}, flavor)
        mount.kill()
        await mount.wait()
        while is_alive(pinentry):  # noqa: ASYNC110 - it is nobody's of ours
            await trio.sleep(0.01)
    assert desk.modes() == before
    desk.read_rest()
    assert desk.seen.count(b"\x1b[?1049h") == desk.seen.count(b"\x1b[?1049l")


async def test_a_pinentry_that_is_killed_is_told_from_one_that_answers(
    desk: Desk, flavor: str
) -> None:
    torn: list[str] = []

    async def kill() -> None:
        await desk.read_until(b"Code:")
        (pinentry,) = children_of({os.getpid()}, flavor)
        os.kill(pinentry, signal.SIGKILL)

    with trio.fail_after(HANG_S):
        async with on(desk, flavor, lambda: torn.append("answered")) as pinentry:
            await pinentry.tell("SETPROMPT", "Code:")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(type_at, desk, b"Code:", b"1\r")
                await pinentry.get_pin()
        desk.seen = b""
        async with on(desk, flavor, lambda: torn.append("killed")) as pinentry:
            await pinentry.tell("SETPROMPT", "Code:")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill)
                with pytest.raises(CannotAskError, match="has ended"):
                    await pinentry.get_pin()
    assert torn == ["killed"]


async def test_a_cancel_declines(desk: Desk) -> None:
    with trio.fail_after(HANG_S):
        async with on(desk, "pinentry-tty") as pinentry, trio.open_nursery() as nursery:
            await pinentry.tell("SETPROMPT", "Code:")
            nursery.start_soon(type_at, desk, b"Code:", b"\x04")
            with pytest.raises(DeclinedError):
                await pinentry.get_pin()


async def test_no_answer_in_time_declines(desk: Desk, flavor: str) -> None:
    with trio.fail_after(HANG_S):
        async with on(desk, flavor) as pinentry:
            await pinentry.tell("SETTIMEOUT", "1")
            with pytest.raises(DeclinedError):
                await pinentry.get_pin()


async def test_what_is_no_terminal_cannot_be_asked_on() -> None:
    with trio.fail_after(HANG_S):
        async with started(["pinentry-curses"], ENVIRONMENT) as pinentry:
            await pinentry.option("ttyname", "/dev/null")
            with pytest.raises(CannotAskError):
                await pinentry.get_pin()


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 3\n", "#!/bin/sh\necho ERR 1 no\n"])
async def test_a_program_that_is_no_pinentry_cannot_ask(
    tmp_path: Path, text: str
) -> None:
    program = tmp_path / "odd"
    program.write_text(text)
    program.chmod(0o700)
    with pytest.raises(CannotAskError):
        async with started([str(program)], ENVIRONMENT):
            raise AssertionError("it has started")
    with pytest.raises(CannotAskError):
        async with started([str(tmp_path / "missing")], ENVIRONMENT):
            raise AssertionError("it has started")


def test_lines_are_escaped_both_ways() -> None:
    assert escape("50 %\r\nsure") == "50 %25%0D%0Asure"
    assert unescape(b"50 %25%0D%0Asure%") == "50 %\r\nsure%"
