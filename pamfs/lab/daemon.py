"""A lab as a process of its own: started, found again, stopped.

Law: the process that runs the lab of a folder holds the lock on its
``lab.lock``; so a stale socket or pid never counts, and two never share one.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from pamfs import ourselves
from pamfs.errors import ConfigError
from pamfs.lab import admin
from pamfs.lab.runtime import LabError, running
from pamfs.lab.spec import LabSpec, from_json
from pamfs.lab.tuning import event_loop_policy, keep_memory

_READY: Final = "ready"
_START_S: Final = 30.0
_STOP_S: Final = 20.0


def up(folder: Path, port: int = 0, spec: Path | None = None) -> None:
    """Start the lab of ``folder`` in a new process; return when it is ready.

    Raises ``LabError`` or ``ConfigError`` with one line.
    """
    folder = _prepared(folder)
    if spec is not None:
        read_spec(spec)  # refuse here, where the person is
    if is_running(folder):
        raise LabError(f"a lab is already running in {folder}")
    ours, theirs = os.pipe()
    command = ourselves.command("pamfs.lab", str(folder), str(port), str(theirs))
    with (folder / "lab.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own module
            command + ([str(spec.resolve())] if spec else []),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(theirs,),
            start_new_session=True,
            env=ourselves.environment(),
            cwd="/",
        )
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        said = pipe.readline().strip()
    process.wait(_STOP_S)  # it has long left the lab to itself
    if said != _READY:
        raise LabError(said or f"the lab did not start; see {folder / 'lab.log'}")


def down(folder: Path) -> bool:
    """Stop the lab of ``folder`` and wait; return whether there was one."""
    folder = folder.resolve()
    if not folder.is_dir() or not is_running(folder):
        return False
    pid = _pid_of(folder)
    try:
        admin.ask(folder, "stop")
    except LabError:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while is_running(folder):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.02)
    (folder / admin.SOCKET).unlink(missing_ok=True)
    return True


def is_running(folder: Path) -> bool:
    """Return whether a process runs the lab of ``folder``."""
    try:
        fd = os.open(folder / "lab.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def foreground(
    folder: Path, port: int = 0, spec: Path | None = None, ready_fd: int | None = None
) -> int:
    """Run the lab here until SIGTERM, SIGINT or ``down``; return the exit code.

    ``ready_fd`` gets one line, "ready" or what is wrong, and is closed.
    """
    try:
        folder = _prepared(folder)
        chosen = read_spec(spec) if spec else None
        lock = _lock(folder)
    except (LabError, ConfigError) as exc:
        return _say(ready_fd, str(exc), 1)
    keep_memory()
    asyncio.set_event_loop_policy(event_loop_policy())
    try:
        return asyncio.run(_run(folder, port, chosen, ready_fd))
    except (LabError, ConfigError) as exc:
        return _say(ready_fd, str(exc), 1)
    finally:
        os.close(lock)


async def _run(
    folder: Path, port: int, spec: LabSpec | None, ready_fd: int | None
) -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with running(folder, spec, port) as lab, admin.serving(lab, stopped.set):
        _say(ready_fd, _READY, 0)
        await stopped.wait()
    return 0


def read_spec(path: Path) -> LabSpec:
    """Return the lab in the JSON file ``path``; raise ``ConfigError``."""
    try:
        return from_json(path.read_text(), str(path))
    except OSError as exc:
        raise ConfigError(str(path), exc.strerror or str(exc)) from exc


def _prepared(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise LabError(f"{folder}: {exc.strerror or exc}") from exc
    return folder.resolve()


def _lock(folder: Path) -> int:
    path = folder / "lab.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise LabError(f"a lab is already running in {folder}") from None
    os.truncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def _pid_of(folder: Path) -> int:
    return int((folder / "lab.lock").read_text() or 0)


def _say(ready_fd: int | None, line: str, code: int) -> int:
    if ready_fd is None:
        stream = sys.stderr if code else sys.stdout
        stream.write(f"pamfs lab: {line}\n")
        stream.flush()
    else:
        os.write(ready_fd, f"{line}\n".encode())
        os.close(ready_fd)
    return code
