"""A lab as a process of its own: started, found again, asked, stopped.

Law: the process that runs the lab of a folder holds the lock on its ``lab.lock``. So a
stale socket or pid never counts, and two processes never serve one folder.

The admin's commands are one JSON request and one JSON answer per connection. The socket
lies in the lab's folder, mode 0600. It is opened through a descriptor of the folder,
because the address of a socket may not exceed 107 bytes.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pamfs.errors import ConfigError
from pamfs.lab.devices import event_loop_policy
from pamfs.lab.runtime import Lab, LabError, running
from pamfs.lab.spec import LabSpec, from_json
from pamfs.processes import keep_buffers, self_command, self_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

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
    command = self_command("pamfs.lab", str(folder), str(port), str(theirs))
    with (folder / "lab.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own module
            command + ([str(spec.resolve())] if spec else []),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(theirs,),
            start_new_session=True,
            env=self_environment(),
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
        ask(folder, "stop")
    except LabError:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while is_running(folder):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.02)
    (folder / SOCKET).unlink(missing_ok=True)
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
    keep_buffers()
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
    async with running(folder, spec, port) as lab, serving(lab, stopped.set):
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


SOCKET: Final = "admin.sock"
_TIMEOUT_S: Final = 10.0


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)


def ask(folder: Path, act: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON
    """Have the lab in ``folder`` do ``act``; return its answer.

    Raises ``LabError`` when there is no lab, or when it cannot do it.
    """
    try:
        with _short(folder) as path, socket.socket(socket.AF_UNIX) as conn:
            conn.settimeout(_TIMEOUT_S)
            conn.connect(path)
            conn.sendall(json.dumps({"act": act, **arguments}).encode() + b"\n")
            with conn.makefile("rb") as lines:
                answer = json.loads(lines.readline() or b"{}")
    except (OSError, ValueError) as exc:
        raise LabError(f"no lab is running in {folder}") from exc
    if "error" in answer:
        raise LabError(answer["error"])
    return answer.get("answer")


@asynccontextmanager
async def serving(lab: Lab, stop: Callable[[], None]) -> AsyncIterator[None]:
    """Answer the admin while the body runs; ``stop`` is what "stop" calls."""

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            request = json.loads(await reader.readline())
            reply: dict[str, object] = {"answer": _act(lab, stop, request)}
        except (LabError, KeyError, TypeError, ValueError) as exc:
            reply = {"error": str(exc)}
        writer.write(json.dumps(reply).encode() + b"\n")
        writer.close()

    (lab.folder / SOCKET).unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX)
    with _short(lab.folder) as path:
        sock.bind(path)
        (lab.folder / SOCKET).chmod(0o600)  # before listen(): no one could connect
    server = await asyncio.start_unix_server(answer, sock=sock)
    try:
        yield
    finally:
        server.close()
        (lab.folder / SOCKET).unlink(missing_ok=True)


def _act(lab: Lab, stop: Callable[[], None], request: dict[str, Any]) -> object:
    """Return the answer to one request: what to do, and on what."""
    act = request["act"]
    if act == "stop":
        stop()
        return None
    if act in _ON_LAB:
        return _ON_LAB[act](lab)
    if act in _ON_ONE:
        key, do = _ON_ONE[act]
        return do(lab, request[key])
    raise LabError(f"{act!r} is no act of the admin")


_ON_LAB: Final[dict[str, Callable[[Lab], object]]] = {
    "sessions": Lab.sessions,
    "custody": Lab.custody,
    "rotate-host-key": Lab.rotate_host_key,
}
_ON_ONE: Final[dict[str, tuple[str, Callable[[Lab, str], object]]]] = {
    "kill-session": ("target", Lab.kill_sessions),
    "approve": ("target", Lab.approve),
    "hold": ("target", Lab.hold),
    "let-go": ("target", Lab.let_go),
    "expire": ("operator", Lab.expire),
    "lock": ("operator", Lab.lock),
    "unlock": ("operator", Lab.unlock),
}
