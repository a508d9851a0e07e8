"""Answers from their configured sources, each fetched when it is needed.

Law: an answer is a ``Secret`` from the moment it is read, and no error text here
holds any part of it.
"""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from pamfs.config import AnswerSource, SourceKind
from pamfs.errors import CannotAskError, DeclinedError
from pamfs.model import Secret
from pamfs.sessions.prompts import Prompter, Question
from pamfs.trusted_files import UntrustedFileError, check_private, check_program

MAX_REASON_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Answers:
    """Fetches answers; ``prompter`` asks a person."""

    prompter: Prompter

    async def fetch(self, source: AnswerSource, question: Question) -> Secret:
        """Return the answer to ``question`` from ``source``.

        Raises ``CannotAskError`` if the source fails, ``DeclinedError`` if a person
        declined or did not answer before the deadline.
        """
        if source.kind is SourceKind.PROMPT:
            return await self.ask(question)
        what = f"the {question.kind.value} of {question.target}"
        timeout_s = question.deadline - trio.current_time()
        with trio.move_on_after(timeout_s) as scope:
            secret = await _READ[source.kind](source.value, what)
        if scope.cancelled_caught:
            raise CannotAskError(f"{what}: no answer within {timeout_s:.0f} s")
        if not secret:
            raise CannotAskError(f"{what}: {source.kind.value} gives an empty text")
        return secret

    async def ask(self, question: Question) -> Secret:
        """Return a person's answer; it may be empty."""
        with trio.move_on_at(question.deadline):
            return await self.prompter.ask(question)
        raise DeclinedError(
            f"no answer in time: the {question.kind.value} of {question.target}"
        )


def _line(data: bytes, what: str) -> Secret:
    """Return ``data`` as text without one newline (LF or CRLF) at its end."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise CannotAskError(f"{what}: the answer is no UTF-8 text") from None
    return Secret(text.removesuffix("\n").removesuffix("\r"))


async def _read_file(path: str, what: str) -> Secret:
    def read() -> bytes:
        check_private(Path(path))
        return Path(path).read_bytes()

    try:
        return _line(await trio.to_thread.run_sync(read), what)
    except OSError as exc:
        raise CannotAskError(f"{what}: {path}: {exc.strerror}") from None
    except UntrustedFileError as exc:
        raise CannotAskError(f"{what}: {exc}") from None


async def _read_credential(name: str, what: str) -> Secret:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder is None:
        raise CannotAskError(f"{what}: no CREDENTIALS_DIRECTORY: not run by systemd")
    if "/" in name or name in {"", ".", ".."}:
        raise CannotAskError(f"{what}: {name!r} is no name of a credential")
    return await _read_file(f"{folder}/{name}", what)


async def _read_env(name: str, what: str) -> Secret:
    await trio.lowlevel.checkpoint()
    value = os.environ.get(name)
    if value is None:
        raise CannotAskError(f"{what}: the environment has no {name}")
    return Secret(value)


async def _read_value(value: str, _what: str) -> Secret:
    await trio.lowlevel.checkpoint()
    return Secret(value)


async def _run_command(command: str, what: str) -> Secret:
    argv = shlex.split(command)
    try:
        check_program(argv[0])
        done = await trio.run_process(
            argv,
            stdin=subprocess.DEVNULL,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    except OSError as exc:
        raise CannotAskError(f"{what}: {argv[0]}: {exc.strerror}") from None
    except UntrustedFileError as exc:
        raise CannotAskError(f"{what}: {exc}") from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[:1]
        why = ": ".join([f"exit status {done.returncode}", *said])[:MAX_REASON_CHARS]
        raise CannotAskError(f"{what}: {argv[0]}: {why}")
    return _line(done.stdout, what)


async def _read_keyring(name: str, what: str) -> Secret:
    """``name`` is ``service/user``, or the user of the service ``pamfs``."""
    service, _, user = name.rpartition("/")
    try:
        keyring = importlib.import_module("keyring")
    except ImportError:
        raise CannotAskError(
            f"{what}: the Python package keyring is not installed"
        ) from None
    try:
        value = await trio.to_thread.run_sync(
            keyring.get_password, service or "pamfs", user, abandon_on_cancel=True
        )
    except Exception as exc:  # noqa: BLE001 - each backend has errors of its own
        kind = type(exc).__name__
        raise CannotAskError(f"{what}: the keyring failed: {kind}") from None
    if value is None:
        raise CannotAskError(f"{what}: the keyring has no {name}")
    return Secret(str(value))


_READ: Final = {
    SourceKind.FILE: _read_file,
    SourceKind.CREDENTIAL: _read_credential,
    SourceKind.ENV: _read_env,
    SourceKind.VALUE: _read_value,
    SourceKind.COMMAND: _run_command,
    SourceKind.KEYRING: _read_keyring,
}
