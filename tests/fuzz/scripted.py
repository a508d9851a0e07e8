"""An SFTP server that answers with what a fuzzer gives it, without a connection.

Every request is answered at once with the next reply of the script; behind the last
one the session is lost. So nothing waits, and a whole tree can be asked in trio while
asyncio runs for just as long as each answer takes.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Coroutine
from typing import Any, Final, Protocol, TypeVar, cast

import asyncssh
from asyncssh.constants import (
    FX_FAILURE,
    FXP_EXTENDED,
    FXP_EXTENDED_REPLY,
    FXP_STATUS,
    FXP_VERSION,
)
from asyncssh.logging import SSHLogger, logger
from asyncssh.packet import Byte, String, UInt32, UInt64

from pamfs.transport.bridge import Make, Send
from pamfs.transport.sftp.server import start_client

V = TypeVar("V")

# Stand in for the kind of a reply: what comes is no answer to this very request.
RAW: Final = 0xFE  # bytes as they are, and then the end: silence would be waited for
WRONG_ID: Final = 0xFF  # a status for a request that was never sent


class Script:
    """Replies out of ``data``: kind, length in two bytes, content; again and again."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.is_over = False

    def next(self, number: int) -> bytes | None:
        """Return the answer to request ``number``, or None at the end."""
        if len(self._data) < 3:
            return None
        kind, size = self._data[0], int.from_bytes(self._data[1:3], "big")
        body, self._data = self._data[3 : 3 + size], self._data[3 + size :]
        if kind == RAW:
            self._data = b""
            self.is_over = True
            return body
        if kind == WRONG_ID:
            kind, number = 101, number + 1
        return String(Byte(kind) + UInt32(number) + body)


class Channel:
    """What is asked of a channel."""

    def __init__(self) -> None:
        self.logger: SSHLogger = logger
        self.is_closed = False

    def is_closing(self) -> bool:
        return self.is_closed

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default


class Reader(asyncssh.SSHReader[bytes]):
    """Reads what the script says."""

    def __init__(self, channel: Channel, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(cast("Any", None), cast("Any", channel))
        self.stream = asyncio.StreamReader(loop=loop)

    async def readexactly(self, n: int) -> bytes:
        return await self.stream.readexactly(n)


class Writer:
    """Takes requests, and has each answered with the next turn of the loop."""

    def __init__(
        self,
        channel: Channel,
        script: Script,
        reader: Reader,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.channel = channel
        self._script = script
        self._stream = reader.stream
        self._loop = loop
        self.is_over = False
        self.is_starting = True

    def write(self, data: bytes) -> None:
        number = int.from_bytes(data[5:9], "big")
        if not self.is_starting:
            self._loop.call_soon(self._answer, number)
        elif data[4] == FXP_EXTENDED:
            limits = b"".join(map(UInt64, (256 << 10, 255 << 10, 255 << 10, 100)))
            self._feed(FXP_EXTENDED_REPLY, number, limits)
        else:
            self._feed(FXP_STATUS, number, UInt32(FX_FAILURE) + String("") + String(""))

    def _feed(self, kind: int, number: int, body: bytes) -> None:
        self._stream.feed_data(String(Byte(kind) + UInt32(number) + body))

    def _answer(self, number: int) -> None:
        answer = self._script.next(number)
        if self.is_over:
            return
        self.is_over = answer is None
        if answer is None:
            self._stream.feed_eof()
        else:
            self._stream.feed_data(answer)
            if self._script.is_over:
                self.end()

    def end(self) -> None:
        """Send nothing more."""
        if not self.is_over:
            self.is_over = True
            self._stream.feed_eof()

    def close(self) -> None:
        self.channel.is_closed = True


class Connection(Protocol):
    """What ``start_sftp_client`` needs of a connection."""

    def create_task(
        self, work: Coroutine[Any, Any, None], log: SSHLogger
    ) -> object: ...


class Server:
    """A session with the scripted server; ``client`` is there once ``start`` ran."""

    def __init__(self, data: bytes, version: bytes | None = None) -> None:
        self.loop = loop()
        channel = Channel()
        self._reader = Reader(channel, self.loop)
        self.writer = Writer(channel, Script(data), self._reader, self.loop)
        self._tasks: list[asyncio.Task[None]] = []
        hello = UInt32(3) if version is None else version
        self._reader.stream.feed_data(String(Byte(FXP_VERSION) + hello))
        self.writer._script = Script(b"")  # for INIT, which the hello answers
        self.writer.write = self._init  # type: ignore[method-assign] # once
        self._data = data

    def _init(self, data: bytes) -> None:
        del self.writer.__dict__["write"]
        self.writer._script = Script(self._data)

    def create_task(self, work: Coroutine[Any, Any, None], log: SSHLogger) -> object:
        task = self.loop.create_task(work)
        self._tasks.append(task)
        return task

    def start(self) -> asyncssh.SFTPClient:
        """Return the client, or raise what starting one raises.

        What is asked while it starts is answered as plainly as can be, or refused, so
        that the script is for the rest.
        """
        client = self.run(
            start_client(
                cast("asyncssh.SSHClientConnection", self),
                self._reader,
                cast("asyncssh.SSHWriter[bytes]", self.writer),
            )
        )
        self.writer.is_starting = False
        return client

    def run(self, work: Coroutine[Any, Any, V]) -> V:
        return self.loop.run_until_complete(work)

    def end(self) -> None:
        """Lose the session, and wait for what runs."""
        self.writer.end()
        for task in self._tasks:
            self.loop.run_until_complete(task)


@functools.cache
def loop() -> asyncio.AbstractEventLoop:
    """Return the asyncio side, one for the process."""
    return asyncio.new_event_loop()


class ScriptedBridge:
    """From trio into asyncio, which runs until there is an answer."""

    def __init__(self, on: asyncio.AbstractEventLoop) -> None:
        self._loop = on

    async def call(self, make: Make[V]) -> V:
        return self._loop.run_until_complete(make())

    async def wait_future(self, send: Send[V]) -> V:
        async def begin() -> V:
            return await send()

        return self._loop.run_until_complete(begin())

    def post(self, callback: Any) -> None:
        callback()
