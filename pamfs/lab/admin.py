"""The admin side: one JSON request and one JSON answer per connection.

The socket lies in the lab's folder, mode 0600. Its path goes through a
descriptor of the folder, because a socket's name may not exceed 107 bytes.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

from pamfs.lab.runtime import Lab, LabError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

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
        (lab.folder / SOCKET).chmod(0o600)  # before listen(): nobody was let in
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
