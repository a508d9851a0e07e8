"""Programs that ask a person: their environment, their end, and the askpass ones.

Law: the question is an argument, the answer never is: it comes on standard output.

Law: a program that asks runs with the rights of the mount, so only the configuration
and the mount's own environment name one. The process that caused the question says
where its desktop is, no more, and only if it is as free as the mount (``is_ours``).

Such a program ends when the mount dies, also by SIGKILL. ``PR_SET_PDEATHSIG`` counts
the death of the thread that started it, and trio's threads come and go. So a shell
watches a pipe that only the mount holds, and becomes the program (``death_pipe``):
SIGALRM ends a pinentry cleanly, its screen and the terminal's modes included.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from pamfs.errors import CannotAskError, DeclinedError
from pamfs.model import Caller, Secret
from pamfs.processes import belongs_to, place_in
from pamfs.sessions.process_table import read_memory_file
from pamfs.sessions.prompts.question import Question, until_fit
from pamfs.trusted_files import UntrustedFileError, check_trusted

# A line in the pipe is our goodbye, its end without one is our death. A signal that
# comes just before a pinentry waits for a key is forgotten, so there are more.
_WATCH: Final = """\
(
  read -r _ </proc/self/fd/$0 && exit
  for _ in 1 2 3 4 5 6 7 8 9 10; do kill -ALRM $$ || exit; sleep 0.1; done
  kill -KILL $$
) </dev/null >/dev/null 2>&1 &
exec "$@"
"""
# What a shell says of a program that it cannot run.
CANNOT_RUN: Final = frozenset({126, 127})


@contextmanager
def death_pipe(command: Sequence[str]) -> Iterator[tuple[list[str], int]]:
    """Yield how to start ``command``, and the descriptor that has to be passed on."""
    theirs, ours = os.pipe()
    try:
        yield ["/bin/sh", "-c", _WATCH, str(theirs), *command], theirs
    finally:
        os.write(ours, b"\n")  # there is a reader: we are one
        os.close(ours)
        os.close(theirs)


SYSTEMD: Final = "systemd-ask-password"

DISPLAYS: Final = ("WAYLAND_DISPLAY", "DISPLAY")


async def desktop_of(caller: Caller) -> Mapping[str, str]:
    """Return the environment of ``caller``, who has a desktop that we may ask on.

    Raises ``CannotAskError`` if there is none.
    """
    environment = await environment_of(caller) if is_ours(caller) else {}
    if not any(name in environment for name in DISPLAYS):
        raise CannotAskError("the program has no desktop of this user")
    return environment


def is_ours(caller: Caller) -> bool:
    """Whether ``caller`` is of the mount's own user, and not confined: see the law."""
    own = os.getuid()
    return caller.uid == own and belongs_to(caller.pid, own)


def find_program(names: tuple[str, ...], given: str | None) -> str | None:
    """Return the path of the configured program, or of the first one installed.

    Raises ``CannotAskError`` if another user could change it: it sees the answer.
    """
    named = (os.path.expanduser(given),) if given is not None else names  # noqa: PTH111 - a text
    found = next(filter(None, map(shutil.which, named)), None)
    if found is not None:
        try:
            check_trusted(Path(found))
        except UntrustedFileError as exc:
            raise CannotAskError(str(exc)) from None
    return found


async def environment_of(caller: Caller) -> dict[str, str]:
    """Return the environment of a program that asks where ``caller`` is."""
    own = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    return {**own, **place_in(await read_memory_file(caller.pid, "environ"))}


class AskpassPrompter:
    """Asks with the configured program, or the SSH_ASKPASS of the mount itself."""

    def __init__(self, program: str | None = None) -> None:
        self._program = program

    async def ask(self, question: Question) -> Secret:
        """Ask on the caller's desktop, where such programs are at home."""
        environment = await desktop_of(question.caller)
        named = self._program or os.environ.get("SSH_ASKPASS")
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
    # would say where the answer goes. The bars keep its words apart from ours.
    return " | ".join(_lines(question, remark).splitlines())


async def _ask(
    command: Sequence[str],
    text_with: Callable[[str], str],
    environment: Mapping[str, str],
    remark: str,
) -> Secret:
    with death_pipe([*command, text_with(remark)]) as (argv, tether):
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
