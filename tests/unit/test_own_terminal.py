"""A mount asks on its own terminal while it is in front there, one question at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from tests.fakes.terminals import Desk, a_desk

# A shell of few words: it lends its terminal to one job, takes it away, lends it again.
SHELL = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
terminal = os.open(sys.argv[1], os.O_RDWR)
command = [sys.executable, "-c", *sys.argv[2:]]
job = subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0)
os.tcsetpgrp(terminal, job.pid)
job.stdin.write(b"go\\n")
job.stdin.flush()
for line in sys.stdin:
    os.tcsetpgrp(terminal, job.pid if line == "lend\\n" else os.getpgrp())
    print("done", flush=True)
os.killpg(job.pid, signal.SIGKILL)
job.wait()
"""
# A mount, and a program beside it on the same terminal.
MOUNT = """
import os, subprocess, sys, trio
sys.stdin.readline()
program = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL)
from pamfs.app.process import leave_terminal
from pamfs.config import Prompting, PromptWay
from pamfs.errors import CannotAskError
from pamfs.model import Caller, Target
from pamfs.sessions.prompts import ControlPrompters, Question, build_chain
from pamfs.sessions.prompts.question import Kind
leave_terminal()
prompting = Prompting(order=(PromptWay.TERMINAL,), pinentry="/no/such/program")
chain = build_chain(prompting, ControlPrompters(), str, is_foreground=True)
callers = {"program": program.pid, "mount": 2**22 + 1}

async def ask(name):
    caller = Caller(callers[name], os.getuid(), os.getgid())
    target, until = Target("acme", "root", "web01"), trio.current_time() + 60
    question = Question(Kind.PASSWORD, f"{name}?", target, caller, until)
    try:
        print(name, (await chain.ask(question)).reveal(), flush=True)
    except CannotAskError:
        print(name, "nobody", flush=True)

async def main():
    async with trio.open_nursery() as nursery:
        for name in sys.argv[1:]:
            nursery.start_soon(ask, name)

try:
    trio.run(main)
finally:
    program.kill()
"""
WITHIN_S = 20


class Shell:
    """The shell of ``desk``, with a mount in front that asks."""

    def __init__(self, desk: Desk, process: subprocess.Popen[bytes]) -> None:
        self.desk = desk
        self._process = process

    async def see(self, text: bytes) -> None:
        with trio.fail_after(WITHIN_S):
            await self.desk.read_until(text)

    async def hear(self) -> str:
        """Return what the shell or the mount says next."""
        assert self._process.stdout is not None
        with trio.fail_after(WITHIN_S):
            await trio.lowlevel.wait_readable(self._process.stdout)
            return self._process.stdout.readline().decode().strip()

    async def move(self, how: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{how}\n".encode())
        assert await self.hear() == "done"


@contextmanager
def a_shell(*names: str) -> Iterator[Shell]:
    """Yield a shell whose mount asks the questions of ``names``."""
    with a_desk() as desk:
        process = subprocess.Popen(
            [sys.executable, "-c", SHELL, str(desk.path), MOUNT, *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        try:
            yield Shell(desk, process)
        finally:
            process.communicate(timeout=WITHIN_S)


async def test_a_program_and_the_mount_itself_take_turns_on_one_terminal() -> None:
    with a_shell("program", "mount") as shell:
        answered = set()
        for _ in range(2):
            await shell.see(b"? ")
            shell.desk.read_rest()
            assert shell.desk.seen.count(b"? ") == 1
            shell.desk.seen = b""
            shell.desk.type(b"typed\n")
            answered.add(await shell.hear())
        assert answered == {"program typed", "mount typed"}


async def test_what_is_typed_to_the_shell_is_no_answer() -> None:
    with a_shell("mount") as shell:
        await shell.see(b"mount? ")
        await shell.move("take")
        shell.desk.type(b"rm -rf .\n")
        assert await shell.hear() == "mount nobody"
        with trio.fail_after(WITHIN_S):
            await trio.lowlevel.wait_readable(shell.desk.line)
        assert shell.desk.read_line() == b"rm -rf .\n"


async def test_a_mount_that_is_in_front_again_goes_on_with_its_question() -> None:
    with a_shell("mount") as shell:
        await shell.see(b"mount? ")
        await shell.move("take")
        await shell.move("lend")
        shell.desk.type(b"typed\n")
        assert await shell.hear() == "mount typed"


async def test_a_mount_that_left_the_front_while_it_waited_its_turn_asks_nobody() -> (
    None
):
    with a_shell("program", "mount") as shell:
        await shell.see(b"? ")
        await shell.move("take")
        shell.desk.type(b"ls\n")
        assert {await shell.hear(), await shell.hear()} == {
            "program nobody",
            "mount nobody",
        }
        shell.desk.read_rest()
        assert shell.desk.seen.count(b"? ") == 1
