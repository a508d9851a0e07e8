"""What the guard reads of real processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pamfs.sessions.guard import is_interactive_shell, matches_any
from pamfs.sessions.process_table import (
    Process,
    ProcTable,
    all_names,
    ancestors,
)

TABLE = ProcTable()


@contextmanager
def sleeping(program: Path) -> Iterator[int]:
    """Run a program by that name, and yield its number."""
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as child:
        try:
            yield child.pid
        finally:
            child.kill()


def test_this_process_is_found_with_its_parent_job_and_session() -> None:
    me = TABLE.find(os.getpid())
    assert (me.pid, me.parent) == (os.getpid(), os.getppid())
    assert (me.job, me.session) == (os.getpgrp(), os.getsid(0))
    assert me.started > 0
    assert me.names[-1].startswith("python")


def test_a_thread_is_its_process() -> None:
    found: list[Process] = []

    def look() -> None:
        assert threading.get_native_id() != os.getpid()
        found.append(TABLE.find(threading.get_native_id()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [TABLE.find(os.getpid())]
    assert found[0].names == TABLE.find(os.getpid()).names


@pytest.mark.parametrize("pid", [0, 2**22 + 1])
async def test_who_cannot_be_seen_has_no_names(pid: int) -> None:
    unseen = TABLE.find(pid)
    assert unseen == Process(pid)
    assert await TABLE.arguments(unseen) == ()
    assert list(ancestors(TABLE, unseen)) == []
    assert unseen.name == "a program that cannot be seen"


def test_the_first_process_ends_the_line_of_ancestors() -> None:
    line = list(ancestors(TABLE, TABLE.find(os.getpid())))
    assert line[0].pid == os.getppid()
    assert line[-1].parent == 0


async def test_a_program_is_known_by_more_than_the_kernels_short_name(
    tmp_path: Path,
) -> None:
    with sleeping(tmp_path / "gvfs-udisks2-volume-monitor") as pid:
        process = TABLE.find(pid)
        arguments = await TABLE.arguments(process)
    assert process.names == ("gvfs-udisks2-vo", "gvfs-udisks2-volume-monitor")
    assert process.name == "gvfs-udisks2-volume-monitor"
    assert arguments[1] == b"60"


def test_a_name_with_brackets_and_blanks_is_read(tmp_path: Path) -> None:
    with sleeping(tmp_path / "a) R 1 (b") as pid:
        process = TABLE.find(pid)
    assert process.parent == os.getpid()
    assert process.names[0] == "a) R 1 (b"


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([b"/usr/bin/du", b"-s"], ["du"]),
        ([b"-bash"], ["bash"]),
        ([b"bash"], ["bash"]),
        ([b"python3.11", b"/opt/walk.py"], ["python3.11", "walk.py"]),
        ([b"python3", b"-c", b"pass"], ["python3"]),
        ([b"sh", b"/usr/bin/updatedb"], ["sh", "updatedb"]),
        ([b"cat", b"/opt/updatedb"], ["cat"]),
        ([b""], []),
        ([], []),
    ],
)
def test_what_runs_a_program_bears_its_name(
    arguments: list[bytes], names: list[str]
) -> None:
    assert list(all_names(Process(1), arguments)) == names


@pytest.mark.parametrize(
    ("name", "pattern", "is_one"),
    [
        ("tumblerd", "tumblerd", True),
        ("tumblerd", "tumbler", False),
        ("tracker-miner-f", "tracker*", True),
        ("gvfs-udisks2-vo", "gvfs-udisks2-volume-monitor", True),
        ("gvfs-udisks2-v", "gvfs-udisks2-volume-monitor", False),
        ("gvfs-udisks2-vo", "gvfs-udisks2-vo", True),
        ("Tumblerd", "tumblerd", False),
    ],
)
def test_a_pattern_means_a_name(name: str, pattern: str, *, is_one: bool) -> None:
    assert matches_any([name], [pattern]) is is_one


def shell(*, terminal: bool = True, leads: bool = True, name: str = "bash") -> Process:
    session = 7 if leads else 6
    return Process(7, session=session, has_terminal=terminal, names=(name,))


@pytest.mark.parametrize(
    ("process", "arguments", "is_one"),
    [
        (shell(), [b"-bash", b""], True),
        (shell(leads=False), [b"bash", b"-i", b""], True),
        (shell(), [b"bash", b"--init-file", b"/etc/vscode.sh"], True),
        (shell(leads=False), [b"bash", b"nightly.sh"], False),
        (shell(leads=False), [b"sh", b"-c", b"x"], False),
        (shell(), [b"bash", b"-c", b"x"], False),
        (shell(terminal=False), [b"bash"], False),
        (shell(name="python3"), [b"python3"], False),
    ],
)
def test_a_shell_that_a_person_types_into_is_told_from_a_script(
    process: Process, arguments: list[bytes], *, is_one: bool
) -> None:
    assert is_interactive_shell(process, arguments) is is_one
