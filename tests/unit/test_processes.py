from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pamfs.processes import (
    Terminal,
    _terminal_path,
    belongs_to,
    is_asked_to_end,
    place_in,
    program_of,
    terminal_of,
    wants_to_end,
)
from tests.fakes.terminals import Desk, a_desk
from tests.limits import HANG_S


def status(pending: int = 0, shared: int = 0, blocked: int = 0) -> str:
    return (
        f"Name:\tcat\nSigPnd:\t{pending:016x}\nShdPnd:\t{shared:016x}\n"
        f"SigBlk:\t{blocked:016x}\nSigIgn:\t0000000000001000\n"
    )


def bit(number: int) -> int:
    return 1 << (number - 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_pending_signal_that_ends_a_program_is_seen(number: int) -> None:
    assert is_asked_to_end(status(pending=bit(number)))
    assert is_asked_to_end(status(shared=bit(number)))


@pytest.mark.parametrize("number", [signal.SIGALRM, signal.SIGCHLD, signal.SIGPROF])
def test_other_signals_do_not_cut_a_request_short(number: int) -> None:
    assert not is_asked_to_end(status(shared=bit(number)))


def test_a_blocked_signal_waits() -> None:
    both = bit(signal.SIGINT)
    assert not is_asked_to_end(status(shared=both, blocked=both))


def test_this_process_wants_to_live() -> None:
    assert not wants_to_end(os.getpid())
    assert program_of(os.getpid())


def test_a_process_that_has_ended_interrupts_no_request() -> None:
    gone = 2**22 + 1  # above the highest pid_max
    assert not wants_to_end(gone)
    assert program_of(gone) == ""


def test_the_kernel_itself_is_not_a_process() -> None:
    assert not wants_to_end(0)


@contextmanager
def on_a_terminal(desk: Desk, **environment: str) -> Iterator[int]:
    """Run a program in front on the terminal of ``desk``; yield its pid."""
    code = (
        "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        " print('here', flush=True); input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=desk.line,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env=environment,
    )
    assert child.stdout is not None
    child.stdout.readline()
    try:
        yield child.pid
    finally:
        desk.type(b"\n")
        child.communicate(timeout=HANG_S)


def test_the_terminal_of_a_program_is_found() -> None:
    with a_desk() as desk, on_a_terminal(desk) as pid:
        assert terminal_of(pid) == Terminal(desk.path, is_in_foreground=True)
        assert belongs_to(pid, os.getuid())
        assert not belongs_to(pid, os.getuid() + 1)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, for mknod")
@pytest.mark.parametrize("is_elsewhere", [True, False])
def test_only_what_is_in_dev_is_looked_at_as_a_terminal(
    is_elsewhere: bool, tmp_path: Path
) -> None:
    """What a program has open may be on this very mount: a look would never end."""
    null = Path(os.devnull)
    device = null.stat().st_rdev
    if is_elsewhere:
        null = tmp_path / "null"
        os.mknod(null, stat.S_IFCHR | 0o600, device)
    fd = os.open(null, os.O_PATH)
    with subprocess.Popen(["sleep", "60"], stdin=fd) as program:
        packed = os.major(device) << 8 | os.minor(device)
        found = _terminal_path(program.pid, packed)
        program.kill()
    os.close(fd)
    assert found == (None if is_elsewhere else null)


def test_the_foreground_job_may_be_another_process_group() -> None:
    with a_desk() as desk, on_a_terminal(desk) as pid:
        assert terminal_of(pid, job=pid) == Terminal(desk.path, is_in_foreground=True)
        other = terminal_of(pid, job=os.getpgrp())
        assert other == Terminal(desk.path, is_in_foreground=False)


def test_a_program_without_a_terminal_has_none() -> None:
    with subprocess.Popen(
        ["cat"], stdin=subprocess.PIPE, start_new_session=True
    ) as cat:
        assert terminal_of(cat.pid) is None
        assert cat.stdin is not None
        cat.stdin.close()


def test_of_an_environment_only_the_place_is_read() -> None:
    assert place_in(b"DISPLAY=:7\0TOKEN=x\0LANG=\0") == {"DISPLAY": ":7"}
    assert place_in(b"") == {}


def test_a_process_that_has_ended_has_no_terminal() -> None:
    gone = 2**22 + 1
    assert terminal_of(gone) is None
    assert not belongs_to(gone, os.getuid())
