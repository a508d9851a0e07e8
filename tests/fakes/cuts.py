"""Sessions that are cut: before a request, behind it, in the middle of it, or silent.

A ``CutTree`` works on requests one after the other, as a server does on those of one
connection, whether or not the caller still waits. A ``Plan`` says at which request the
session is lost, and what becomes of the others that are on their way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Any, Protocol

import outcome
import trio

from pamfs.errors import SessionLostError
from pamfs.model import AttrChange, Attrs, Data, Entry, RemotePath, Space
from pamfs.transport.base import OpenMode, RemoteFile
from tests.fakes.memory import MemoryFs, Node
from tests.fakes.remote import Device, FakeFile, FakeTree

# A silent line is noticed after this long (``keepalive``).
NOTICED_AFTER_S = 30.0

Work = Callable[[], Coroutine[Any, Any, Any]]


class Fault(Enum):
    """What becomes of a request as its session is lost."""

    BEFORE = auto()  # it does not reach the device
    AFTER = auto()  # it is done, and the answer is lost
    HALF = auto()  # half of a write is stored
    LATE = auto()  # it reaches the device a moment after the session was lost
    SILENCE = auto()  # it is not done, and for a while nothing is noticed


@dataclass
class Request:
    """One request on its way. ``half``: what of a write may be stored alone.

    ``may_be_late``: it changes a name, so done late it undoes no data.
    """

    name: str
    work: Work
    half: Work | None = None
    may_be_late: bool = False
    at: float = 0.0
    is_awaited: bool = True
    answer: outcome.Value[Any] | outcome.Error | None = None
    answered: trio.Event = field(default_factory=trio.Event)

    def give(self, answer: outcome.Value[Any] | outcome.Error) -> None:
        self.answer = answer
        self.answered.set()


class Plan(Protocol):
    """When sessions are lost, and how."""

    def fault(self, request: Request) -> Fault | None:
        """Return how the session ends at ``request``, which is due now; or None."""
        ...

    def done_of(self, waiting: int) -> int:
        """Return how many of the requests behind it are done all the same."""
        ...

    def late_s(self) -> float:
        """Return how long after the loss a request is done that comes late."""
        ...

    def was_cut(self, request: Request) -> None:
        """Note that the session is lost at ``request``."""
        ...


def done_now(work: Work) -> outcome.Value[Any] | outcome.Error:
    """Return what comes of ``work``, which waits for nothing."""
    try:
        work().send(None)
    except StopIteration as end:
        return outcome.Value(end.value)
    except Exception as exc:  # noqa: BLE001 - it is the answer
        return outcome.Error(exc)
    raise AssertionError("a fake device waits for nothing")


class CutTree(FakeTree):
    """The files of one session, until ``plan`` has it lost."""

    def __init__(
        self,
        fs: MemoryFs,
        device: Device,
        plan: Plan,
        nursery: trio.Nursery,
    ) -> None:
        super().__init__(fs, device)
        self.on_lost: Callable[[], object] = lambda: None
        self._plan = plan
        self._nursery = nursery
        self._waiting: deque[Request] = deque()
        self._wake = trio.Event()
        self._last_at = 0.0
        nursery.start_soon(self._serve)

    async def round_trip(self, name: str) -> None:
        """Count it; the way and the time are those of ``sent``."""
        self.calls[name] += 1

    def end(self) -> None:
        """Lose the session from this side: it is hung up."""
        self._lost(())

    async def sent(self, request: Request) -> Any:
        """Return the answer to ``request``; it is done even if the caller leaves."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self.check_alive()
        # One after the other, in the order of the wire.
        due = trio.current_time() + self.device.latency_s
        self._last_at = request.at = max(due, self._last_at + 1e-6)
        self._waiting.append(request)
        self._wake.set()
        try:
            await request.answered.wait()
        except trio.Cancelled:
            request.is_awaited = False
            raise
        assert request.answer is not None
        return request.answer.unwrap()

    async def _serve(self) -> None:
        while not self.is_lost:
            while not self._waiting and not self.is_lost:
                self._wake = trio.Event()
                await self._wake.wait()
            if self._waiting:
                await trio.sleep_until(self._waiting[0].at)
            if self._waiting and not self.is_lost:
                await self._answer(self._waiting.popleft())

    async def _answer(self, request: Request) -> None:
        fault = self._plan.fault(request)
        if fault is None:
            self._do(request)
            return
        if fault is Fault.SILENCE:
            with trio.move_on_after(NOTICED_AFTER_S):
                while not self.is_lost:
                    self._wake = trio.Event()
                    await self._wake.wait()
        self._plan.was_cut(request)
        behind, self._waiting = list(self._waiting), deque()
        done = 0 if fault is Fault.SILENCE else self._plan.done_of(len(behind))
        if fault is Fault.AFTER:
            done_now(request.work)
        elif fault is Fault.HALF:
            done_now(request.half or request.work)
        for other in behind[:done]:
            done_now(other.work)
        if fault is Fault.LATE:
            late = [other for other in (request, *behind[done:]) if other.may_be_late]
            self._nursery.start_soon(self._do_late, late)
        self._lost((request, *behind))

    def _do(self, request: Request) -> None:
        answer = done_now(request.work)
        if request.name == "open" and not request.is_awaited:
            self.open_files -= isinstance(answer, outcome.Value)
        request.give(answer)

    async def _do_late(self, requests: list[Request]) -> None:
        await trio.sleep(self._plan.late_s())
        for request in requests:
            done_now(request.work)

    def _lost(self, requests: tuple[Request, ...]) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        for request in (*requests, *self._waiting):
            request.give(outcome.Error(SessionLostError("the session was cut")))
        self._waiting.clear()
        self._wake.set()
        self.on_lost()

    # -- the requests ------------------------------------------------------------

    async def real_path(self, path: RemotePath) -> RemotePath:
        work = partial(super().real_path, path)
        found: RemotePath = await self.sent(Request("real_path", work))
        return found

    async def lstat(self, path: RemotePath) -> Attrs:
        work = partial(super().lstat, path)
        found: Attrs = await self.sent(Request("lstat", work))
        return found

    async def list_dir(self, path: RemotePath) -> list[Entry]:
        work = partial(super().list_dir, path)
        found: list[Entry] = await self.sent(Request("list_dir", work))
        return found

    async def open(
        self, path: RemotePath, mode: OpenMode, permissions: int | None = None
    ) -> tuple[RemoteFile, Attrs]:
        work = partial(super().open, path, mode, permissions)
        may_be_late = OpenMode.EXCLUSIVE in mode
        file, attrs = await self.sent(Request("open", work, may_be_late=may_be_late))
        return CutFile(self, file.node, mode), attrs

    async def mkdir(self, path: RemotePath, permissions: int) -> Attrs:
        work = partial(super().mkdir, path, permissions)
        made: Attrs = await self.sent(Request("mkdir", work, may_be_late=True))
        return made

    async def rmdir(self, path: RemotePath) -> None:
        work = partial(super().rmdir, path)
        await self.sent(Request("rmdir", work, may_be_late=True))

    async def unlink(self, path: RemotePath) -> None:
        work = partial(super().unlink, path)
        await self.sent(Request("unlink", work, may_be_late=True))

    async def rename(self, old: RemotePath, new: RemotePath, *, replace: bool) -> None:
        work = partial(super().rename, old, new, replace=replace)
        await self.sent(Request("rename", work, may_be_late=True))

    async def symlink(self, content: bytes, path: RemotePath) -> Attrs:
        work = partial(super().symlink, content, path)
        made: Attrs = await self.sent(Request("symlink", work, may_be_late=True))
        return made

    async def readlink(self, path: RemotePath) -> bytes:
        work = partial(super().readlink, path)
        found: bytes = await self.sent(Request("readlink", work))
        return found

    async def link(self, old: RemotePath, new: RemotePath) -> Attrs:
        work = partial(super().link, old, new)
        made: Attrs = await self.sent(Request("link", work, may_be_late=True))
        return made

    async def set_attrs(self, path: RemotePath, change: AttrChange) -> Attrs:
        work = partial(super().set_attrs, path, change)
        found: Attrs = await self.sent(Request("set_attrs", work))
        return found

    async def space(self, path: RemotePath) -> Space:
        work = partial(super().space, path)
        found: Space = await self.sent(Request("space", work))
        return found


class CutFile(FakeFile):
    """One open file of a ``CutTree``."""

    tree: CutTree

    def __init__(self, tree: CutTree, node: Node, mode: OpenMode) -> None:
        super().__init__(tree, node, mode)

    async def read_at(self, offset: int, size: int) -> Data:
        work = partial(super().read_at, offset, size)
        data: Data = await self.tree.sent(Request("read_at", work))
        return data

    async def write_at(self, offset: int, data: Data) -> None:
        work = partial(super().write_at, offset, data)
        half = partial(super().write_at, offset, data[: len(data) // 2])
        await self.tree.sent(Request("write_at", work, half))

    async def fsync(self) -> None:
        await self.tree.sent(Request("fsync", super().fsync))

    async def stat(self) -> Attrs:
        found: Attrs = await self.tree.sent(Request("fstat", super().stat))
        return found

    async def set_attrs(self, change: AttrChange) -> Attrs:
        work = partial(super().set_attrs, change)
        found: Attrs = await self.tree.sent(Request("fset_attrs", work))
        return found

    async def close(self) -> None:
        await self.tree.sent(Request("close", super().close))
