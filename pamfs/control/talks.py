"""A connection that stays: one JSON object a line, both ways, until one side ends."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import trio

from pamfs.control.sockets import LONGEST_REQUEST_BYTES, Peer
from pamfs.model import json_object

Message = Mapping[str, object]

_SEND_S: Final = 5.0


class Talk:
    """The daemon's end of such a connection; ``peer`` is who the kernel says it is."""

    def __init__(self, stream: trio.SocketStream, peer: Peer) -> None:
        self.peer = peer
        self._stream = stream
        self._rest = b""
        self._sending = trio.Lock()  # questions and notices come from two tasks

    async def send(self, message: Message) -> None:
        """Send one object; raise ``trio.BrokenResourceError`` if nobody hears it."""
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


TalkHandler = Callable[[Message, Talk], Awaitable[Message]]
