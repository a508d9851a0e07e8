"""A TCP relay that fails on command, each time in one way that has a name.

    with running_line(port) as line:          # clients connect to line.port
        line.cut(Cut.RESET)                   # now
        line.cut_at(Cut.FINISH, 10 << 20)     # when 10 MiB have been carried
        line.cut_on_answer(Cut.RESET)         # in place of the server's next bytes
            line.rate_bytes_s = 1 << 20           # of each direction
        line.delay_s = 0.01                   # each way

Law: until it is told to fail, every byte arrives, in order. It runs in a thread of its
own; whoever uses it only sends commands, each of which has happened when it returns.
A silent line is one whose connections carry nothing any more while new ones do, as
after a NAT has forgotten them. What a client sends into it fills the buffers, no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeVar

from tests.limits import HANG_S

T = TypeVar("T")

CHUNK_BYTES: Final = 64 << 10
# A line with a rate holds little, or the buffers would be the line.
NARROW_BYTES: Final = 64 << 10
AWAY_S: Final = 1.0
_LINGER_NOT: Final = struct.pack("ii", 1, 0)  # close() sends RST: socket(7)


class Cut(StrEnum):
    """How a line fails."""

    RESET = "RST"
    FINISH = "FIN"
    SILENCE = "silent drop"
    RESTART = "restart of the proxy"
    CORRUPT = "corrupted packet"


@dataclass(eq=False)
class _End:
    """One side of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self.writer.transport.abort()

    def finish(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self.writer.close()


@dataclass(eq=False)
class _Way:
    """One direction of one connection."""

    line: Line
    source: _End
    sink: _End
    is_answer: bool
    flows: asyncio.Event = field(default_factory=asyncio.Event)
    due: float = 0.0

    async def carry(self) -> None:
        self.flows.set()
        while data := await self.source.reader.read(self.line.step_bytes):
            await self.flows.wait()
            if self.line.takes_for_cut(self):
                return
            await self._put(self.line.maybe_corrupted(data))
            await self.line.carried_on(len(data), is_answer=self.is_answer)
        await self.flows.wait()
        with contextlib.suppress(OSError, RuntimeError):
            await asyncio.sleep(self.line.delay_s)
            self.sink.writer.write_eof()

    async def _put(self, data: bytes) -> None:
        if self.line.delay_s:
            loop = asyncio.get_running_loop()
            # Timers of the same moment have no order of their own.
            self.due = max(self.due + 1e-6, loop.time() + self.line.delay_s)
            loop.call_at(self.due, self.sink.writer.write, data)
        else:
            self.sink.writer.write(data)
        await self.sink.writer.drain()


class Line:
    """One relay to one port of this machine; see the head of the file."""

    def __init__(self, to_port: int) -> None:
        self.port = 0
        self.rate_bytes_s = 0
        self.delay_s = 0.0
        self.carried = 0
        self.cuts = 0
        self.connections = 0  # that were ever accepted
        self._to_port = to_port
        self._ways: dict[_Way, None] = {}
        self._plan: list[tuple[int, Cut]] = []
        self._on_answer: Cut | None = None
        self._is_frozen = False
        self._corrupts = 0
        self._free_at = [0.0, 0.0]
        self._server: asyncio.Server | None = None
        # While the proxy is away: its port, taken so that nobody else gets it.
        self._kept_port: socket.socket | None = None
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- commands, from any thread ---------------------------------------------

    def cut(self, kind: Cut, away_s: float = AWAY_S) -> None:
        """Fail now."""
        self._do(lambda: self._cut(kind, away_s))

    def cut_at(self, kind: Cut, carried: int) -> None:
        """Fail as soon as ``carried`` bytes in all have been carried."""
        self._do(lambda: self._planned(kind, carried))

    def cut_after(self, kind: Cut, more: int) -> None:
        """Fail as soon as ``more`` bytes have been carried from now on."""
        self._do(lambda: self._planned(kind, self.carried + more))

    def cut_on_answer(self, kind: Cut) -> None:
        """Fail in place of what the server says next: what it was asked is done."""
        self._do(lambda: setattr(self, "_on_answer", kind))

    def disarm(self) -> None:
        """Forget the failures that are still to come."""
        self._do(self._plan.clear)

    @property
    def is_armed(self) -> bool:
        """Whether a failure is still to come."""
        return self._on_answer is not None or bool(self._plan)

    def freeze(self) -> None:
        """Carry nothing, of what is open and of what comes; a stopped proxy."""
        self._do(self._freeze)

    def thaw(self) -> None:
        """Carry again what was held up by ``freeze``."""
        self._do(self._thaw)

    def come_back(self) -> None:
        """Accept connections again, however long a restart was to take."""
        asyncio.run_coroutine_threadsafe(self.listen(), self._loop).result(HANG_S)

    def _do(self, what: Callable[[], T]) -> T:
        async def done() -> T:
            return what()

        return asyncio.run_coroutine_threadsafe(done(), self._loop).result(HANG_S)

    # -- in the loop -----------------------------------------------------------

    def _planned(self, kind: Cut, carried: int) -> None:
        self._plan.append((carried, kind))
        self._plan.sort()

    def _cut(self, kind: Cut, away_s: float = AWAY_S) -> None:
        self.cuts += 1
        match kind:
            case Cut.RESET:
                self._each(_End.reset)
            case Cut.FINISH:
                self._each(_End.finish)
            case Cut.SILENCE:
                for way in self._ways:
                    way.flows.clear()
            case Cut.RESTART:
                self._each(_End.reset)
                self._refuse(away_s)
            case Cut.CORRUPT:
                self._corrupts = 1

    def _each(self, end: Callable[[_End], None]) -> None:
        for way in list(self._ways):
            way.flows.set()
            end(way.sink)

    def _refuse(self, away_s: float) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            self._kept_port = self._bound()
            self._loop.call_later(away_s, self._end_restart)

    def _end_restart(self) -> None:
        task = self._loop.create_task(self.listen())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _freeze(self) -> None:
        self._is_frozen = True
        for way in self._ways:
            way.flows.clear()

    def _thaw(self) -> None:
        self._is_frozen = False
        for way in self._ways:
            way.flows.set()

    # -- what the ways ask -----------------------------------------------------

    @property
    def step_bytes(self) -> int:
        """Return how much is carried at once."""
        if not self.rate_bytes_s:
            return CHUNK_BYTES
        return max(1024, min(CHUNK_BYTES, self.rate_bytes_s // 50))

    def takes_for_cut(self, way: _Way) -> bool:
        """Whether what ``way`` has is not carried, for the line fails instead."""
        kind = self._on_answer
        if kind is None or not way.is_answer:
            return False
        self._on_answer = None
        self._cut(kind)
        return True

    def maybe_corrupted(self, data: bytes) -> bytes:
        """Return ``data``, or once something like it."""
        if not self._corrupts:
            return data
        self._corrupts -= 1
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 0x55]) + data[middle + 1 :]

    async def carried_on(self, nbytes: int, *, is_answer: bool) -> None:
        """Count what was carried, fail if it is time, wait as long as it takes."""
        self.carried += nbytes
        while self._plan and self._plan[0][0] <= self.carried:
            self._cut(self._plan.pop(0)[1])
        if self.rate_bytes_s:
            now = self._loop.time()
            free_at = max(now, self._free_at[is_answer]) + nbytes / self.rate_bytes_s
            self._free_at[is_answer] = free_at
            await asyncio.sleep(free_at - now)

    # -- connections -----------------------------------------------------------

    async def listen(self) -> None:
        """Accept connections, on the port of the first time, if that is not done."""
        if self._server is not None:
            return
        listener, self._kept_port = self._kept_port or self._bound(), None
        self.port = listener.getsockname()[1]
        self._server = await asyncio.start_server(
            self._joined, sock=listener, backlog=512, limit=NARROW_BYTES
        )

    def _bound(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.rate_bytes_s:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW_BYTES)
        listener.bind(("127.0.0.1", self.port))
        return listener

    async def _joined(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        client = _End(reader, writer)
        try:
            server = _End(*await asyncio.open_connection("127.0.0.1", self._to_port))
        except (OSError, asyncio.CancelledError):
            client.reset()
            return
        ways = [
            _Way(self, client, server, is_answer=False),
            _Way(self, server, client, is_answer=True),
        ]
        self._ways |= dict.fromkeys(ways)
        tasks = [asyncio.ensure_future(self._carried(way)) for way in ways]
        if self._is_frozen:
            self._loop.call_soon(self._freeze)
        try:
            await asyncio.gather(*tasks)
        except asyncio.CancelledError:  # the line stops
            client.reset()
            server.reset()
        else:
            client.finish()
            server.finish()

    async def _carried(self, way: _Way) -> None:
        with contextlib.suppress(OSError):  # either side may hang up at any time
            await way.carry()
        self._ways.pop(way, None)

    # -- life ------------------------------------------------------------------

    def run(self, is_ready: threading.Event) -> None:
        """Serve until ``stop``, in the thread that calls."""
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self.listen())
        is_ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._ended())
        self._loop.close()

    async def _ended(self) -> None:
        """Cancel what still runs, and let each transport close its socket."""
        await _callbacks()  # of connections that were accepted just now
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _callbacks()

    def stop(self) -> None:
        """End the thread that serves, and every connection."""
        self._do(lambda: self._each(_End.reset))
        if self._server is not None:
            self._loop.call_soon_threadsafe(self._server.close)
        if self._kept_port is not None:
            self._loop.call_soon_threadsafe(self._kept_port.close)
        self._loop.call_soon_threadsafe(self._loop.stop)


async def _callbacks() -> None:
    """Run the callbacks that are due, and those that they make due."""
    for _ in range(5):  # accept, transport, protocol, task; one more
        await asyncio.sleep(0)


@contextmanager
def running_line(to_port: int, *, rate_bytes_s: int = 0) -> Iterator[Line]:
    """Run a line to ``to_port`` in a thread; it ends with the body."""
    line, is_ready = Line(to_port), threading.Event()
    line.rate_bytes_s = rate_bytes_s
    thread = threading.Thread(target=line.run, args=(is_ready,), daemon=True)
    thread.start()
    assert is_ready.wait(HANG_S)
    try:
        yield line
    finally:
        line.stop()
        thread.join(HANG_S)
