"""A program that cannot be looked into is unknown, and holds up nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from pamfs.processes import place_in
from pamfs.sessions import process_table
from pamfs.sessions.process_table import read_memory_file

STUCK = 20  # more than there are threads for it


@asynccontextmanager
async def stuck_programs(proc: Path) -> AsyncIterator[None]:
    """Make files that nobody ever finishes opening, as of a locked memory."""
    files = [proc / str(pid) / "environ" for pid in range(1, STUCK + 1)]
    for file in files:
        file.parent.mkdir()
        os.mkfifo(file)
    try:
        yield
    finally:
        await end_threads(files)


async def end_threads(files: Sequence[Path]) -> None:
    """Let each thread end that opens one of ``files``, whenever it comes to that."""
    limiter = process_table._threads()
    while limiter.borrowed_tokens:
        for file in files:
            os.close(os.open(file, os.O_RDWR))  # an open that hangs there ends
        await trio.lowlevel.checkpoint()


@contextmanager
def a_program(**environment: str) -> Iterator[int]:
    with subprocess.Popen(
        [sys.executable, "-c", "print('here', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as program:
        assert program.stdout is not None
        program.stdout.readline()
        yield program.pid
        program.communicate(b"\n")


async def test_the_environment_of_a_program_is_read() -> None:
    with a_program(DISPLAY=":7", TOKEN="x") as pid:
        raw = await read_memory_file(pid, "environ")
    assert b"TOKEN=x" in raw
    assert place_in(raw) == {"DISPLAY": ":7"}


async def test_of_who_is_gone_nothing_is_known() -> None:
    assert await read_memory_file(2**22 + 1, "environ") == b""


async def test_stuck_programs_are_unknown_and_take_no_thread_from_others(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    del autojump_clock
    monkeypatch.setattr(process_table, "PROC", tmp_path)
    found: list[bytes] = []

    async def look(pid: int) -> None:
        found.append(await read_memory_file(pid, "environ"))

    others = trio.to_thread.current_default_thread_limiter()
    async with stuck_programs(tmp_path):
        async with trio.open_nursery() as nursery:
            for pid in range(1, STUCK + 1):
                nursery.start_soon(look, pid)
        assert others.borrowed_tokens == 0
    assert found == [b""] * STUCK
