"""A mount in the background: the process that serves, and the one that waits.

The two share a pipe, on which the first says one line: that the mount is
usable, or which exit code and which words its starter is to end with.
"""

from __future__ import annotations

import hashlib
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from pamfs import ourselves
from pamfs.appending import open_to_append
from pamfs.cli.exits import Exit
from pamfs.cli.parsers import plain
from pamfs.config import log_folder
from pamfs.mountpoint import MountOptions, OptionError

# Nothing is dialled before the mount is usable: this is imports and one mount(2).
_READY_S: Final = 60.0
_READY: Final = b"ready\n"
_END_S: Final = 10.0


class Report:
    """The serving side: says one line, once."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def ready(self) -> None:
        """Say that the mount is usable."""
        self._say(_READY)

    def failed(self, code: Exit, problem: str) -> None:
        """Say why the mount is not, or no longer, usable."""
        line = problem.replace("\n", " ")
        self._say(f"failed {code.value} {line}\n".encode(errors="backslashreplace"))

    def _say(self, line: bytes) -> None:
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            os.write(fd, line)
        except BrokenPipeError:
            pass  # the starter was interrupted
        finally:
            os.close(fd)


def start(point: Path, options: MountOptions, words: Sequence[str]) -> int:
    """Start the serving process; return when the mount is usable, or an exit code.

    ``words`` are the arguments of ``pamfs mount``, its paths absolute. Raises
    ``OptionError`` if the log cannot be written.
    """
    log = options.log or default_log(point)
    log_fd = open_log(log)
    began = os.lseek(log_fd, 0, os.SEEK_END)
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603 - ourselves
            ourselves.command("pamfs", "mount", f"--ready-fd={writing}", *words),
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            pass_fds=[writing],
            start_new_session=True,
            env=ourselves.environment(),
            cwd="/",
        )
    finally:
        os.close(writing)
        os.close(log_fd)
    try:
        line = _wait_line(reading)
    except KeyboardInterrupt:
        process.terminate()
        _end(process)
        raise
    finally:
        os.close(reading)
    if line == _READY:
        return Exit.OK
    code = _end(process)
    return _explain(line, code, log, began)


def default_log(point: Path) -> Path:
    """Return the log of the mount on ``point``: the same at each mount."""
    plain_name = re.sub(r"[^A-Za-z0-9._-]", "_", point.name)
    digest = hashlib.sha256(os.fsencode(point)).hexdigest()[:8]
    return log_folder() / f"{plain_name}-{digest}.log"


def open_log(path: Path) -> int:
    """Return a descriptor for the log; raise ``OptionError`` if there is none."""
    try:
        return open_to_append(path)
    except OSError as exc:
        problem = f"the log {path} cannot be written: {exc.strerror}"
        raise OptionError(f"{problem} (-o log=FILE)") from None


def _wait_line(fd: int) -> bytes:
    line = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while not line.endswith(b"\n"):
        if not poll.poll(_READY_S * 1000):
            return b""
        more = os.read(fd, 4096)
        if not more:
            return line
        line += more
    return line


def _end(process: subprocess.Popen[bytes]) -> int:
    """End a process that did not become ready; return its exit code."""
    for number in (0, signal.SIGTERM, signal.SIGKILL):  # 0: it ends by itself
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_END_S)
    return Exit.FAILED


def _explain(line: bytes, code: int, log: Path, began: int) -> int:
    said = re.fullmatch(rb"failed (\d+) (.*)\n", line, re.DOTALL)
    if said:
        code, problem = int(said[1]), said[2].decode()
    else:
        problem = f"it ended (exit code {code}) before it was usable"
    why = _last_words(log, began)
    hint = f"{why}; log: {log}" if why else f"log: {log}"
    print(f"pamfs mount: {plain(problem)} ({plain(hint)})", file=sys.stderr)
    return code if code > 0 else Exit.MOUNT_FAILED


def _last_words(log: Path, began: int) -> str:
    """Return the last thing that fusermount3 or libfuse said, if any."""
    try:
        with log.open("rb") as file:
            file.seek(began)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    fuse = [line for line in lines if line.startswith("fuse")]
    return fuse[-1] if fuse else ""
