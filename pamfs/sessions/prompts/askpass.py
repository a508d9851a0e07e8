"""Asks with a program that prints the answer: SSH_ASKPASS, systemd-ask-password.

Law: the question is an argument, the answer never is: it comes on standard
output only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

from pamfs.errors import CannotAskError, DeclinedError
from pamfs.model import Secret
from pamfs.sessions.prompts.pinentry import desktop_of, find_program
from pamfs.sessions.prompts.question import Question, until_fit
from pamfs.sessions.prompts.tether import CANNOT_RUN, tethered

SYSTEMD: Final = "systemd-ask-password"


class AskpassPrompter:
    """Asks with the configured program, or the caller's own SSH_ASKPASS."""

    def __init__(self, program: str | None = None) -> None:
        self._program = program

    async def ask(self, question: Question) -> Secret:
        """Ask on the caller's desktop, where such programs are at home."""
        environment = await desktop_of(question.caller)
        named = self._program or environment.get("SSH_ASKPASS")
        program = find_program((), named) if named else None
        if program is None:
            raise CannotAskError("no SSH_ASKPASS program")
        ask = partial(_ask, [program], partial(_lines, question), environment)
        return await until_fit(question, ask)


class SystemdPrompter:
    """Asks wherever systemd's password agents are: for a system service."""

    async def ask(self, question: Question) -> Secret:
        """Ask with ``systemd-ask-password``; none of our terminals is used."""
        program = shutil.which(SYSTEMD)
        # Only root may ask there, and without INVOCATION_ID we are no service.
        if program is None or os.getuid() != 0 or "INVOCATION_ID" not in os.environ:
            raise CannotAskError("this is no system service")
        left_s = max(1, int(question.deadline - trio.current_time()))
        command = [program, "--no-tty", f"--timeout={left_s}", "--id=pamfs"]
        command += ["--echo=yes"] if question.echo else []
        asked = [*command, "--"]
        ask = partial(_ask, asked, partial(_one_line, question), dict(os.environ))
        return await until_fit(question, ask)


def _lines(question: Question, remark: str) -> str:
    shown = [*question.about(), *([remark] if remark else []), question.prompt]
    return "\n".join(shown)


def _one_line(question: Question, remark: str) -> str:
    # systemd writes the question into a file of lines: one more, and a server
    # would say where the answer goes.
    return " ".join(_lines(question, remark).split())


async def _ask(
    command: Sequence[str],
    text_with: Callable[[str], str],
    environment: Mapping[str, str],
    remark: str,
) -> Secret:
    with tethered([*command, text_with(remark)]) as (argv, tether):
        done = await trio.run_process(
            argv,
            stdin=subprocess.DEVNULL,
            capture_stdout=True,
            stderr=subprocess.DEVNULL,
            check=False,
            env=environment,
            pass_fds=(tether,),
        )
    name = Path(command[0]).name
    if done.returncode in CANNOT_RUN:
        raise CannotAskError(f"{name} cannot be run")
    if done.returncode != 0:
        raise DeclinedError(f"{name} ended with {done.returncode}: declined")
    return Secret(done.stdout.decode("utf-8", "surrogateescape").rstrip("\r\n"))
