"""Programs of another account in a folder of their own, each with a hard end.

Law: the pytest process never touches a path on a mount. Whatever does is a
program of its own with a hard end, because a request that nobody answers leaves
its caller beyond the reach of any signal.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.limits import HANG_S, PROGRAM_S
from tests.mount.accounts import ROOT, Account

Command = Sequence[str | bytes | Path]
Stream = int | IO[bytes]


@dataclass(frozen=True)
class Done:
    """What became of a program."""

    code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        """Return both outputs, readable."""
        return (self.out + self.err).decode(errors="backslashreplace")


class TookTooLongError(AssertionError):
    """A program did not end in time; it was killed."""


@dataclass
class Place:
    """A folder of its own for one account, and programs run there as that account."""

    account: Account
    folder: Path
    extra_env: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """Return what a program started here has in its environment."""
        return self.account.environment(self.folder) | self.extra_env

    def start(
        self, command: Command, *, timeout_s: float = PROGRAM_S, stdin: bytes = b""
    ) -> Done:
        """Run ``command`` to its end and return it, whatever its exit code."""
        # Files, no pipes: a daemon that keeps them open holds up nobody.
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            given.write(stdin)
            given.seek(0)
            child = self._spawn(command, given, out, err)
            try:
                code = child.wait(timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                with suppress(subprocess.TimeoutExpired):
                    child.wait(HANG_S)
                raise TookTooLongError(
                    f"{show(command)} took over {timeout_s:g} s\n{_tail(out, err)}"
                ) from None
            out.seek(0)
            err.seek(0)
            return Done(code, out.read(), err.read())

    def run(
        self, command: Command, *, timeout_s: float = PROGRAM_S, stdin: bytes = b""
    ) -> bytes:
        """Run ``command``, which must succeed; return what it printed."""
        done = self.start(command, timeout_s=timeout_s, stdin=stdin)
        if done.code != 0:
            raise AssertionError(f"{show(command)} ended with {done.code}: {done.text}")
        return done.out

    def open(self, command: Command) -> subprocess.Popen[bytes]:
        """Start ``command`` with pipes; the caller talks to it and ends it."""
        return self._spawn(command, subprocess.PIPE, subprocess.PIPE, subprocess.STDOUT)

    def pamfs(self, *arguments: str | Path, timeout_s: float = PROGRAM_S) -> Done:
        """Run a pamfs command to its end."""
        return self.start(
            [self.account.python, "-m", "pamfs", *arguments], timeout_s=timeout_s
        )

    def manifest(self, folder: bytes | Path) -> dict[str, list[object]]:
        """Return the manifest of a folder that may be on a mount."""
        script = ROOT / "tests" / "mount" / "trees.py"
        out = self.run(
            [self.account.python, "-c", script.read_text(), folder], timeout_s=PROGRAM_S
        )
        found: dict[str, list[object]] = json.loads(out)
        return found

    def python(self, code: str, *arguments: str | bytes | Path) -> bytes:
        """Run a few lines of Python as the account; return what they print."""
        return self.run([self.account.python, "-c", code, *arguments])

    def _spawn(
        self, command: Command, stdin: Stream, stdout: Stream, stderr: Stream
    ) -> subprocess.Popen[bytes]:
        is_me = self.account.uid == os.getuid()
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=self.folder,
            env=self.environment(),
            start_new_session=True,
            user=None if is_me else self.account.uid,
            group=None if is_me else self.account.gid,
            extra_groups=None if is_me else [],
        )


@contextmanager
def own_place(account: Account) -> Iterator[Place]:
    """Make a folder that ``account`` owns, and remove it with all it holds."""
    with tempfile.TemporaryDirectory(
        prefix="pamfs-test-", ignore_cleanup_errors=True
    ) as text:
        folder = Path(text)
        run = folder / "run"  # as logind would make it
        run.mkdir(mode=0o700)
        for path in (folder, run):
            os.chown(path, account.uid, account.gid)
        yield Place(account, folder)


def show(command: Command) -> str:
    """Return ``command`` as a person would type it, long arguments cut."""
    shown = [
        part.decode(errors="backslashreplace") if isinstance(part, bytes) else str(part)
        for part in command
    ]
    return " ".join(part if len(part) < 200 else part[:200] + "..." for part in shown)


def _tail(*streams: IO[bytes]) -> str:
    said = b""
    for stream in streams:
        stream.seek(0)
        said += stream.read()
    return said[-4000:].decode(errors="backslashreplace")
