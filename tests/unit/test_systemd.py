"""The messages to systemd and its settings: sd_notify(3) and the watchdog."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from pamfs.app.systemd import Notifier, Service, feed, goes_through
from pamfs.config.environment import Supervision, read_supervision
from tests.conftest import LogLedger

SOON_S = 10.0


class Hearing:
    """A notice socket, and what arrived on it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._socket.settimeout(SOON_S)

    def next(self) -> list[str]:
        return self._socket.recv(1 << 16).decode().splitlines()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Hearing]:
    heard = Hearing(str(tmp_path / "notify"))
    yield heard
    heard.close()


@pytest.fixture(autouse=True)
def no_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)


def test_ready_and_stopping_are_sent(systemd: Hearing) -> None:
    notifier = Notifier(Supervision(systemd.path))
    notifier.ready("on /mnt")
    notifier.stopping()
    assert systemd.next() == ["READY=1", "STATUS=on /mnt"]
    assert systemd.next()[0] == "STOPPING=1"


def test_a_status_is_one_line_and_adds_no_notice(systemd: Hearing) -> None:
    Notifier(Supervision(systemd.path)).alive("on /mnt\nMAINPID=1")
    assert systemd.next() == ["WATCHDOG=1", "STATUS=on /mnt MAINPID=1"]


def test_an_abstract_socket_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"pamfs-test-{os.getpid()}"
    heard = Hearing(f"\0{name}")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    Notifier(read_supervision()).status("here")
    assert heard.next() == ["STATUS=here"]
    heard.close()


def test_without_systemd_nothing_is_sent() -> None:
    Notifier(read_supervision()).ready("on /mnt")


def test_a_systemd_that_is_gone_stops_nothing(
    tmp_path: Path, expect_log: LogLedger
) -> None:
    expect_log("cannot notify systemd")
    Notifier(Supervision(str(tmp_path / "gone"))).ready("on /mnt")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("60000000", None, 60.0),
        ("500000", str(os.getpid()), 0.5),
        ("60000000", "1", None),  # it is another process that is watched
        ("", None, None),
        ("0", None, None),
        ("soon", None, None),
    ],
    ids=["for-any", "for-us", "for-another", "empty", "zero", "no-number"],
)
def test_how_often_systemd_wants_to_hear(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str | None, seconds: float | None
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    assert read_supervision().watchdog_s == seconds


async def test_a_folder_that_is_no_mount_is_not_alive(tmp_path: Path) -> None:
    assert not await goes_through(tmp_path, SOON_S)


async def test_the_watchdog_starves_and_says_so(
    tmp_path: Path, systemd: Hearing, expect_log: LogLedger
) -> None:
    expect_log("no answer within")
    notifier = Notifier(Supervision(systemd.path))
    with trio.move_on_after(1):
        await feed(tmp_path, SOON_S, notifier, lambda: "on /mnt")
    notifier.status("after")
    assert systemd.next() == ["STATUS=after"]


async def test_a_service_is_ready_once_and_stops_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, systemd: Hearing
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.path)
    service, ready = Service(tmp_path), trio.Event()
    await service.run(ready.set, lambda: "on /mnt")
    assert ready.is_set()
    service.stopping()
    service.stopping()
    Notifier(Supervision(systemd.path)).status("after")
    told = [systemd.next()[0] for _ in range(3)]
    assert told == ["READY=1", "STOPPING=1", "STATUS=after"]
