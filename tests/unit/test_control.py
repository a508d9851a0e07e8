"""A mount answers its own user on a socket, and nobody else."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
import trio

from pamfs.control.connection import (
    ControlError,
    NoAnswerError,
    find_daemon,
    make_folder,
    socket_name,
    socket_path,
)
from pamfs.control.server import serve_control
from pamfs.errors import SessionLostError
from tests.conftest import LogLedger
from tests.limits import HANG_S
from tests.mount.waiting import wait_until

Answer = Mapping[str, object]


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # The path of a socket has at most 107 bytes: pytest's own folder may be too deep.
    with tempfile.TemporaryDirectory(prefix="pamfs-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder) / "pamfs"


@pytest.fixture
def point(tmp_path: Path) -> Path:
    return tmp_path / "mnt"


async def echo(request: Answer) -> Answer:
    await trio.lowlevel.checkpoint()
    return {"ok": True, "request": dict(request)}


async def lose(request: Answer) -> Answer:
    await trio.lowlevel.checkpoint()
    raise SessionLostError(f"{request['command']}: gone")


async def err(request: Answer) -> Answer:
    await trio.lowlevel.checkpoint()
    raise KeyError(request["command"])


HANDLERS = {"echo": echo, "lose": lose, "err": err}


def ask(point: Path, command: str) -> Answer:
    daemon = find_daemon(point)
    assert daemon is not None
    with daemon:
        assert daemon.pid == os.getpid()
        return daemon.ask(command, 10)


def say(path: Path, raw: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as plain:
        plain.settimeout(10)
        plain.connect(str(path))
        plain.sendall(raw)
        plain.shutdown(socket.SHUT_WR)
        with plain.makefile("rb") as answer:
            return answer.read()


in_thread = trio.to_thread.run_sync


async def test_a_command_is_answered(nursery: trio.Nursery, point: Path) -> None:
    await nursery.start(serve_control, socket_path(point), HANDLERS)
    answer = await in_thread(ask, point, "echo")
    assert answer == {"ok": True, "request": {"command": "echo"}}


async def test_a_failure_is_an_answer_too(
    nursery: trio.Nursery, point: Path, expect_log: LogLedger
) -> None:
    expect_log("control: err failed")
    await nursery.start(serve_control, socket_path(point), HANDLERS)
    answer = await in_thread(ask, point, "lose")
    assert answer == {"ok": False, "error": "lose: gone"}
    answer = await in_thread(ask, point, "err")
    assert answer["ok"] is False
    answer = await in_thread(ask, point, "rm")
    assert answer["error"] == "unknown command; known: echo, lose, err"
    assert (await in_thread(ask, point, "echo"))["ok"] is True


@pytest.mark.parametrize("raw", [b"", b"\n", b"[]\n", b"{\n", b"\xff\n", b"x" * 70000])
async def test_an_invalid_request_is_refused_and_others_go_on(
    nursery: trio.Nursery, point: Path, raw: bytes
) -> None:
    path = socket_path(point)
    await nursery.start(serve_control, path, HANDLERS)
    # The rest of what is too long may be cut off together with the answer.
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        said = await in_thread(say, path, raw)
        assert json.loads(said)["ok"] is False
    assert (await in_thread(ask, point, "echo"))["ok"] is True


async def test_the_socket_is_private_and_goes_with_its_server(
    nursery: trio.Nursery, point: Path, runtime: Path
) -> None:
    path = socket_path(point)
    assert path.parent == runtime
    async with trio.open_nursery() as serving:
        await serving.start(serve_control, path, HANDLERS)
        found = os.lstat(path), os.lstat(runtime)
        assert [one.st_mode & 0o777 for one in found] == [0o600, 0o700]
        serving.cancel_scope.cancel()
    assert list(Path(runtime).iterdir()) == []  # noqa: ASYNC240 - nobody waits
    assert find_daemon(point) is None


@pytest.mark.parametrize("is_folder_removed", [True, False])
async def test_a_socket_that_was_removed_is_made_anew(
    nursery: trio.Nursery,
    point: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_folder_removed: bool,
) -> None:
    monkeypatch.setattr("pamfs.control.server.LOOK_S", 0.01)
    path = socket_path(point)
    async with trio.open_nursery() as serving:
        await serving.start(serve_control, path, HANDLERS)
        for _ in range(2):
            path.unlink()
            if is_folder_removed:
                path.parent.rmdir()
            await in_thread(wait_until, path.is_socket, "the socket is back")
            assert (await in_thread(ask, point, "echo"))["ok"] is True
            assert path.parent.stat().st_mode & 0o777 == 0o700
        serving.cancel_scope.cancel()
    assert not path.is_socket()


async def test_the_socket_of_another_is_left_alone(
    nursery: trio.Nursery, point: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pamfs.control.server.LOOK_S", 0.01)
    path = socket_path(point)
    await nursery.start(serve_control, path, HANDLERS)
    path.unlink()
    path.touch()
    await trio.sleep(0.05)
    assert path.is_file()


async def test_a_second_server_is_refused(nursery: trio.Nursery, point: Path) -> None:
    path = socket_path(point)
    await nursery.start(serve_control, path, HANDLERS)
    with pytest.raises(NoAnswerError, match="another daemon serves"):
        await serve_control(path, HANDLERS)
    assert (await in_thread(ask, point, "echo"))["ok"] is True


async def test_a_stale_socket_is_replaced(nursery: trio.Nursery, point: Path) -> None:
    path = socket_path(point)
    leave_stale_socket(path)
    await nursery.start(serve_control, path, HANDLERS)
    assert (await in_thread(ask, point, "echo"))["ok"] is True


def leave_stale_socket(path: Path) -> None:
    make_folder(path.parent)
    with socket.socket(socket.AF_UNIX) as plain:
        plain.bind(str(path))


def test_a_stale_socket_is_removed_by_the_client(point: Path) -> None:
    path = socket_path(point)
    leave_stale_socket(path)
    assert find_daemon(point) is None
    assert not path.exists()


async def test_a_long_runtime_folder_is_no_obstacle(
    nursery: trio.Nursery,
    point: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    await nursery.start(serve_control, socket_path(point), HANDLERS)
    assert (await in_thread(ask, point, "echo"))["ok"] is True


@contextlib.contextmanager
def listening(point: Path) -> Iterator[socket.socket]:
    """Listen where the daemon of ``point`` would, without a daemon."""
    path = socket_path(point)
    make_folder(path.parent)
    with socket.socket(socket.AF_UNIX) as plain:
        plain.bind(str(path))
        plain.listen()
        yield plain


def test_a_daemon_that_ends_without_an_answer_is_said_so(point: Path) -> None:
    with listening(point) as plain:
        daemon = find_daemon(point)
        assert daemon is not None
        with daemon:
            plain.accept()[0].close()
            with pytest.raises(NoAnswerError, match=r"ended without|reset|Broken"):
                daemon.ask("status", 10)


def test_a_daemon_that_is_silent_is_given_up(point: Path) -> None:
    with listening(point):
        daemon = find_daemon(point)
        assert daemon is not None
        with daemon, pytest.raises(NoAnswerError, match="timed out"):
            daemon.ask("status", 0.05)


def test_a_daemon_that_sends_a_byte_now_and_then_is_given_up(point: Path) -> None:
    with listening(point) as plain:
        daemon = find_daemon(point)
        assert daemon is not None
        served, _ = plain.accept()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while True:
                    served.sendall(b" ")

        dripping = threading.Thread(target=drip, daemon=True)
        dripping.start()
        with daemon, pytest.raises(NoAnswerError, match="timed out"):
            daemon.ask("status", 0.2)
        served.close()
        dripping.join(HANG_S)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o750])
def test_a_socket_in_a_folder_that_others_enter_is_not_asked(
    point: Path, mode: int
) -> None:
    with listening(point) as plain:
        socket_path(point).parent.chmod(mode)
        assert find_daemon(point) is None
        plain.settimeout(0)
        with pytest.raises(BlockingIOError):
            plain.accept()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_a_folder_that_somebody_else_made_is_not_looked_into(point: Path) -> None:
    with listening(point) as plain:
        os.chown(socket_path(point).parent, 65534, -1)
        assert find_daemon(point) is None
        plain.settimeout(0)
        with pytest.raises(BlockingIOError):
            plain.accept()


LISTEN = """\
import socket, sys
plain = socket.socket(socket.AF_UNIX)
plain.bind(sys.argv[1])
plain.listen()
print("listening", flush=True)
sys.stdin.read()
"""


def test_the_end_of_the_daemons_process_is_seen(point: Path) -> None:
    path = socket_path(point)
    make_folder(path.parent)
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        daemon = find_daemon(point)
        assert daemon is not None
        with daemon:
            assert daemon.pid == process.pid
            assert not daemon.wait_gone(0.01)
            process.stdin.close()
            assert daemon.wait_gone(30)


CONNECT = """\
import os, socket, sys
os.setuid(65534)
plain = socket.socket(socket.AF_UNIX)
plain.settimeout(10)
plain.connect(sys.argv[1])
try:
    plain.sendall(b'{"command": "echo"}\\n')
    answer = plain.recv(100)
except (ConnectionResetError, BrokenPipeError):
    answer = b""
sys.exit(f"was answered: {answer}" if answer else 0)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
async def test_another_user_is_not_answered_even_with_the_folder_open(
    nursery: trio.Nursery, expect_log: LogLedger
) -> None:
    expect_log("control: refused a command of uid 65534")
    # Not pytest's folder, which keeps everybody else out.
    with tempfile.TemporaryDirectory(dir="/tmp") as outer:
        path = Path(outer, "pamfs", "a.sock")
        await nursery.start(serve_control, path, HANDLERS)
        for opened in (path, path.parent, Path(outer)):
            opened.chmod(0o777)
        command = [sys.executable, "-c", CONNECT, str(path)]
        await in_thread(partial(subprocess.run, command, check=True, timeout=HANG_S))
        nursery.cancel_scope.cancel()


def test_a_folder_of_another_user_is_not_used(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    shared.chmod(0o755)
    with pytest.raises(ControlError, match="mode 0700"):
        make_folder(shared)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ControlError, match="mode 0700"):
        make_folder(tmp_path / "link")
    with pytest.raises(ControlError, match="No such file"):
        make_folder(tmp_path / "missing" / "folder")


def test_every_spelling_of_a_mount_point_has_one_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = tmp_path / "mnt"
    point.mkdir()
    (tmp_path / "link").symlink_to("mnt")
    (tmp_path / "up").symlink_to(tmp_path)
    monkeypatch.chdir(point)
    names = {
        socket_name(Path(spelling))
        for spelling in (
            str(point),
            f"{point}/",
            ".",
            "../mnt",
            f"{tmp_path}/link",
            f"{tmp_path}/up/mnt",
            f"{tmp_path}/up/link/",
        )
    }
    assert len(names) == 1
    assert socket_name(tmp_path / "other") not in names
