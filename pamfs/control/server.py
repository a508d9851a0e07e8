"""The daemon's side of the control socket: answers its own user and root only.

A request is one line of JSON, at most ``LONGEST_REQUEST_BYTES`` and within
``_REQUEST_S``; a client that sends less in that time is closed. A handler takes the
request and returns the reply. A ``StreamHandler`` also gets the ``ControlStream``, on
which questions and notices go out before the reply.

State: the socket file. It is made by ``_listen``, and only the process that made it
removes it: ``_remove`` compares the inode, because a later mount may have made another
one at the same path. A socket file that was removed (tmpreaper, a cleaned ``/run``) is
made again within ``LOOK_S``; connections that are open go on.

Without a free file descriptor a connection is accepted with one of the reserve
(``descriptors.SPARE``), which is lent until the answer was sent.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import trio

from pamfs.control.connection import (
    LONGEST_REQUEST_BYTES,
    Handler,
    NoAnswerError,
    Peer,
    address_of,
    connect,
    make_folder,
    peer_of,
)
from pamfs.descriptors import SHORTAGE, SPARE, no_descriptor
from pamfs.errors import PamfsError, ungrouped
from pamfs.model import json_object

Message = Mapping[str, object]

_SEND_S: Final = 5.0


class ControlStream:
    """The daemon's end of a connection; ``peer`` is the client's process."""

    def __init__(self, stream: trio.SocketStream, peer: Peer) -> None:
        self.peer = peer
        self._stream = stream
        self._rest = b""
        self._sending = trio.Lock()  # questions and notices come from two tasks

    async def send(self, message: Message) -> None:
        """Send one object; raise ``trio.BrokenResourceError`` if it is closed."""
        with trio.move_on_after(_SEND_S) as patience:
            async with self._sending:
                await self._stream.send_all(json.dumps(message).encode() + b"\n")
        if patience.cancelled_caught:
            raise trio.BrokenResourceError

    async def receive(self) -> Message | None:
        """Return the next object; None at the end, or after what is no object."""
        return json_object(await self.read_line())

    async def read_line(self) -> bytes:
        """Return the next line, or what there was of it at the end."""
        while b"\n" not in self._rest and len(self._rest) < LONGEST_REQUEST_BYTES:
            try:
                more = await self._stream.receive_some()
            except trio.BrokenResourceError:
                break
            if not more:
                break
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line


StreamHandler = Callable[[Message, ControlStream], Awaitable[Message]]


log = logging.getLogger(__name__)

_REQUEST_S: Final = 10.0
# A socket that was removed is back in so long; a look costs one lstat.
LOOK_S: Final = 5.0

# How soon a connection is accepted that even the reserve had no descriptor for.
_RETRY_S: Final = 1.0

Handlers = Mapping[str, StreamHandler]
Answer = Callable[[trio.SocketStream], Awaitable[None]]


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
    listener = _listen(path)
    own = _inode_of(path)
    plain = {name: _without_stream(handler) for name, handler in handlers.items()}

    async def answer(stream: trio.SocketStream) -> None:
        await _answer(stream, {**plain, **(stream_handlers or {})})

    try:
        async with trio.open_nursery() as nursery:
            listen = partial(_accept, nursery, answer)
            serving = await nursery.start(_serve_until_cancelled, listen, listener)
            if task_status is not None:
                task_status.started()
            while True:
                await trio.sleep(LOOK_S)
                if (found := _made_anew(path)) is not None:
                    serving.cancel()  # what is under way there goes on
                    listener, own = found
                    serving = await nursery.start(
                        _serve_until_cancelled, listen, listener
                    )
    finally:
        listener.socket.close()
        _remove(path, own)


async def _serve_until_cancelled(
    listen: Callable[[trio.SocketListener], Awaitable[NoReturn]],
    listener: trio.SocketListener,
    task_status: trio.TaskStatus[trio.CancelScope],
) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        async with listener:
            await listen(listener)


async def _accept(
    nursery: trio.Nursery, answer: Answer, listener: trio.SocketListener
) -> NoReturn:
    """Start ``answer`` for each connection, also when no descriptor is free."""
    while True:
        # Without a descriptor accept(2) fails at once, though nobody has connected.
        await trio.lowlevel.wait_readable(listener.socket)
        try:
            nursery.start_soon(answer, await listener.accept())
        except OSError as exc:
            if exc.errno in SHORTAGE:
                no_descriptor(exc.errno)
            else:
                log.warning("control: %s", exc)
            await nursery.start(_accept_with_spare, answer, listener)


async def _accept_with_spare(
    answer: Answer,
    listener: trio.SocketListener,
    task_status: trio.TaskStatus[None],
) -> None:
    with SPARE.lent():
        try:
            stream = await listener.accept()
        except OSError as exc:
            log.debug("control: %s", exc)
            await trio.sleep(_RETRY_S)
            task_status.started()
            return
        task_status.started()
        await answer(stream)


def _made_anew(path: Path) -> tuple[trio.SocketListener, int] | None:
    """Return a new socket if the one at ``path`` was removed, as by tmpreaper."""
    if os.path.lexists(path):
        return None
    try:
        listener = _listen(path)
        log.info("control: %s was removed, and is made anew", path)
        return listener, _inode_of(path)
    except (OSError, PamfsError) as exc:
        log.debug("control: %s: %s", path, exc)
        return None


def _listen(path: Path) -> trio.SocketListener:
    make_folder(path.parent)
    other = connect(path)  # removes a stale one
    if other is not None:
        other.close()
        raise NoAnswerError(f"another daemon serves {path}")
    plain = socket.socket(socket.AF_UNIX)
    try:
        with address_of(path) as address:
            plain.bind(address)
        path.chmod(0o600)
        plain.listen()
        return trio.SocketListener(trio.socket.from_stdlib_socket(plain))
    except BaseException:
        plain.close()
        raise


def _inode_of(path: Path) -> int:
    return path.lstat().st_ino


def _remove(path: Path, own: int) -> None:
    with suppress(OSError):
        if _inode_of(path) == own:  # not that of a later mount
            path.unlink()


async def _answer(stream: trio.SocketStream, handlers: Handlers) -> None:
    async with stream:
        peer = peer_of(stream.socket)
        if peer.uid not in {0, os.geteuid()}:
            log.warning("control: refused a command of uid %d", peer.uid)
            return
        control = ControlStream(stream, peer)
        with trio.move_on_after(_REQUEST_S) as patience:
            line = await control.read_line()
        if patience.cancelled_caught:
            return
        reply = await _reply(line, control, handlers)
        # Shielded: the reply to ``umount`` is sent while the daemon ends.
        with suppress(trio.BrokenResourceError), trio.CancelScope(shield=True):
            await control.send(reply)  # unless the client has closed


async def _reply(
    line: bytes, control: ControlStream, handlers: Handlers
) -> Mapping[str, object]:
    request = json_object(line)
    if request is None:
        return _refused("the request is not a JSON object")
    handler = handlers.get(str(request.get("command")))
    if handler is None:
        return _refused(f"unknown command; known: {', '.join(handlers)}")
    try:
        with ungrouped():
            return await handler(request, control)
    except PamfsError as exc:
        return _refused(str(exc))
    except Exception:
        log.exception("control: %s failed", request.get("command"))
        return _refused("a bug of pamfs: the traceback is in its log")


def _without_stream(handler: Handler) -> StreamHandler:
    async def handle(request: Mapping[str, object], _control: ControlStream) -> Message:
        return await handler(request)

    return handle


def _refused(error: str) -> Mapping[str, object]:
    return {"ok": False, "error": error}
