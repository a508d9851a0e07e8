"""How other commands talk to a running mount: a socket, a line of JSON each way.

``{"command": "status"}`` out, one JSON object back, then the end; ``unlock`` and
``agent`` have questions in between (docs/prompts.md). Only the mount's own user
and root are answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pamfs.control.connection import (
    Daemon,
    Handler,
    NoAnswerError,
    find_daemon,
    socket_path,
)

if TYPE_CHECKING:
    import trio

    from pamfs.control.server import StreamHandler

__all__ = ["Daemon", "Handler", "NoAnswerError", "find_daemon", "serve_control"]
__all__ += ["socket_path"]


async def serve_control(
    path: Path,
    handlers: Mapping[str, Handler],
    stream_handlers: Mapping[str, StreamHandler] | None = None,
    task_status: trio.TaskStatus[None] | None = None,
) -> None:
    """Answer commands at ``path`` until cancelled; then the socket is gone.

    ``stream_handlers`` are the commands whose connection stays for more than one line.
    Raises ``NoAnswerError`` if another daemon serves there.
    """
    # Only a daemon pays for trio; umount and status start without it.
    from pamfs.control.server import serve

    await serve(path, handlers, stream_handlers or {}, task_status)
