"""How pyfuse3's coroutines run: in callbacks of the host loop, not as tasks of trio.

The problem. pyfuse3 reads the kernel's requests with a few coroutines, its workers. One
waits until the descriptor can be read, reads one request, calls the handler, answers,
and waits again; the others wait for a lock until the first has read. As tasks of trio
each request costs two turns of trio's scheduler, one for the worker that reads and one
for the worker that takes over the lock: 50 to 90 us, though most requests are answered
from memory in 20 us and wait for nothing.

The mechanism. ``Workers`` stands in for what pyfuse3 uses of trio: nursery, lock and
``wait_readable``. A worker yields a ``_Wait`` wherever it would have waited in trio,
and ``Workers`` resumes it when that is over (``_resume``, with ``send`` or ``throw``,
as any scheduler of coroutines does). trio is the guest of a host loop in the same
thread, so that loop watches the descriptor (``_readable``) and the worker runs in its
callback. Each callback reads one request, so neither loop starves.

Handlers that have to wait use trio: ``in_trio`` runs them in a task of trio, with the
deadline, the cancel scope and the EINTR watch of ``fuse.replies.reply``, and resumes
the worker with the result. Tasks are kept for the next request; see ``_IDLE``. Handlers
that do not wait may use trio's synchronous functions (``current_time``, ``start_soon``,
``Event.set``), which trio allows to its host loop between turns, but no cancel scope:
there is no current task.

The end. ``open_nursery`` returns when all workers have returned: after an unmount or
``pyfuse3.terminate``, and after the requests in flight. It raises what a worker raised.
If it is cancelled, the tasks of the requests in flight are cancelled too, and their
workers are closed without an answer to the kernel; pyfuse3's own nursery did the same.

How it gets in. pyfuse3 takes trio from its module attribute ``trio``, which its own
``pyfuse3.asyncio`` replaces. How it uses that attribute is compiled and cannot be
looked at, so it is replaced only in versions that were tried; with any other,
``serve_with`` returns False and pyfuse3 runs its workers in trio.

Invariant: at most one worker waits for the descriptor: it holds ``_DescriptorLock``.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Final, Protocol, TypeVar, cast

import pyfuse3
import trio

from pamfs.private_names import Names, is_within, missing

log = logging.getLogger(__name__)

V = TypeVar("V")
# The first version of pyfuse3 that this was tried with, and the one after the last.
TRIED: Final = ((3, 4), (3, 6))
NAMES: Final = (Names("pyfuse3", ("trio",)),)
# How many tasks of trio are kept for the next request, of which starting one costs a
# fifth.
_IDLE: Final = 8


class HostLoop(Protocol):
    """What is needed of the loop that trio is a guest of."""

    def add_reader(self, fd: int, callback: Callable[[], None]) -> object:
        """Call ``callback`` whenever ``fd`` can be read."""
        ...

    def remove_reader(self, fd: int) -> object:
        """Stop watching ``fd``."""
        ...


@dataclass(slots=True, eq=False)
class _Wait:
    """What a worker yields; ``begin`` is called when the worker is suspended."""

    begin: Callable[[Worker], object]

    def __await__(self) -> Generator[_Wait, object, object]:
        return (yield self)


# A coroutine of pyfuse3's: it waits for the kernel, then answers a request.
Worker = Coroutine[_Wait, object, None]
# A handler that waits, and resumes a worker until it yields again.
_Handler = Callable[[], Awaitable[object]]
_Step = Callable[[], _Wait]


@dataclass(slots=True, eq=False)
class _DescriptorLock:
    """The right to wait for the descriptor: stands in for pyfuse3's ``trio.Lock``."""

    line: deque[Worker] = field(default_factory=deque)
    is_taken: bool = False

    async def __aenter__(self) -> None:
        if self.is_taken:
            await _Wait(self.line.append)  # ``pass_on`` has taken it for this worker
        self.is_taken = True

    async def __aexit__(self, *_: object) -> None:
        self.is_taken = False  # ``Workers`` passes it on after this step

    def pass_on(self) -> Worker | None:
        """Give it to the first in line, if it is free."""
        if self.is_taken or not self.line:
            return None
        self.is_taken = True
        return self.line.popleft()


class Workers:
    """All of pyfuse3's workers: stands in for its ``trio.Nursery``."""

    def __init__(self, loop: HostLoop) -> None:
        self._loop = loop
        self._lock = _DescriptorLock()
        self._workers: set[Worker] = set()
        self._reader: Worker | None = None  # the one that waits for the descriptor
        self._fd = -1
        self._watched: int | None = None
        self._until_readable = _Wait(self._reads)
        self._due: deque[tuple[Worker, _Step]] = deque()
        self._is_stepping = False
        self._nursery: trio.Nursery | None = None
        self._handlers: deque[tuple[_Handler, Worker]] = deque()
        self._idle = trio.lowlevel.ParkingLot()
        self._ended = trio.Event()
        self._failure: BaseException | None = None

    # -- handlers that wait ------------------------------------------------------

    async def in_trio(self, handler: Callable[[], Awaitable[V]]) -> V:
        """Run ``handler`` in a task of trio and return its result; for a worker."""
        return cast("V", await _Wait(partial(self._hand_over, handler)))

    def _hand_over(self, handler: _Handler, worker: Worker) -> None:
        self._handlers.append((handler, worker))
        if self._idle:
            self._idle.unpark()
        else:
            assert self._nursery is not None  # noqa: S101 - workers run inside it
            self._nursery.start_soon(self._run_handlers)

    async def _run_handlers(self) -> None:
        """Run one handler after the other, until enough tasks are idle.

        For each handler in ``_handlers`` one task was started or woken. A handler
        stays in no variable here: it holds the data of a write.
        """
        while True:
            await self._run(*self._handlers.popleft())
            if len(self._idle) >= _IDLE:
                return
            await self._idle.park()

    async def _run(self, handler: _Handler, worker: Worker) -> None:
        try:
            result = await handler()
        except Exception as exc:  # noqa: BLE001 - raised in the worker
            self._resume(worker, partial(worker.throw, exc))
        else:
            self._resume(worker, partial(worker.send, result))

    # -- what pyfuse3 calls ------------------------------------------------------

    @contextlib.asynccontextmanager
    async def open_nursery(self) -> AsyncIterator[Workers]:
        """Run the workers that are started inside, until the last has returned."""
        try:
            async with trio.open_nursery() as self._nursery:
                yield self
                await self._ended.wait()
                if self._failure is not None:
                    raise self._failure
                self._nursery.cancel_scope.cancel()  # the idle tasks
        finally:
            self._watch(None)
            for worker in self._workers:
                worker.close()

    def start_soon(
        self,
        run: Callable[..., Worker],
        *args: object,
        name: str,
    ) -> None:
        """Start one more worker, after the step that is under way."""
        del name
        worker = run(*args)
        self._workers.add(worker)
        self._resume(worker, partial(worker.send, None))

    def lock(self) -> _DescriptorLock:
        """Return the lock that a worker holds while it waits for the descriptor."""
        return self._lock

    async def wait_readable(self, fd: int) -> None:
        """Wait until the kernel has a request; for a worker."""
        self._fd = fd
        await self._until_readable

    def _reads(self, worker: Worker) -> None:
        self._reader = worker
        self._watch(self._fd)

    def notify_closing(self, fd: int) -> None:
        """Raise ``ClosedResourceError`` in the worker that waits for the descriptor."""
        del fd
        reader, self._reader = self._reader, None
        if reader is not None:
            self._resume(reader, partial(reader.throw, trio.ClosedResourceError()))

    # -- steps of the workers ----------------------------------------------------

    def _watch(self, fd: int | None) -> None:
        if self._watched == fd:
            return
        if self._watched is not None:
            self._loop.remove_reader(self._watched)
        self._watched = fd
        if fd is not None:
            self._loop.add_reader(fd, self._readable)

    def _readable(self) -> None:
        reader, self._reader = self._reader, None
        if reader is None:
            self._watch(None)  # all workers are busy; the next ``_reads`` watches again
        else:
            self._resume(reader, partial(reader.send, None))

    def _resume(self, worker: Worker, step: _Step) -> None:
        """Do ``step`` of ``worker``, and every step that becomes due by it.

        A step that becomes due inside another is done after it: pyfuse3 keeps the
        request in a global variable until the worker has awaited its handler.
        """
        self._due.append((worker, step))
        if self._is_stepping:
            return
        self._is_stepping = True
        try:
            while self._due:
                self._do(*self._due.popleft())
                if (following := self._lock.pass_on()) is not None:
                    self._due.append((following, partial(following.send, None)))
        finally:
            self._is_stepping = False

    def _do(self, worker: Worker, step: _Step) -> None:
        try:
            step().begin(worker)
        except StopIteration:
            self._left(worker)
        except BaseException as exc:  # noqa: BLE001 - raised by ``open_nursery``
            self._failure = self._failure or exc
            self._left(worker)
            self._ended.set()

    def _left(self, worker: Worker) -> None:
        self._workers.discard(worker)
        if not self._workers:
            self._ended.set()


def strange() -> str:
    """Return what of this pyfuse3 is not as it is known here; "" if nothing."""
    if not is_within(pyfuse3.__version__, *TRIED):
        return f"version {pyfuse3.__version__} has not been tried"
    lacking = missing(NAMES)
    return f"version {pyfuse3.__version__} has no {lacking[0]}" if lacking else ""


def serve_with(workers: Workers) -> bool:
    """Have pyfuse3 run its coroutines in ``workers``; return whether it does."""
    why = strange()
    if why:
        log.info("pyfuse3 runs as tasks of trio, which is slower: %s", why)
        return False
    lowlevel = SimpleNamespace(
        current_task=lambda: SimpleNamespace(name="worker"),
        current_trio_token=trio.lowlevel.current_trio_token,
        notify_closing=workers.notify_closing,
        wait_readable=workers.wait_readable,
    )
    vars(pyfuse3)["trio"] = SimpleNamespace(
        ClosedResourceError=trio.ClosedResourceError,
        Lock=workers.lock,
        from_thread=trio.from_thread,
        lowlevel=lowlevel,
        open_nursery=workers.open_nursery,
    )
    return True
