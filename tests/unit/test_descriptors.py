"""A mount without file descriptors serves, answers commands, and blames nobody."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pamfs.app.systemd import goes_through
from pamfs.control.connection import socket_path
from pamfs.control.server import serve_control
from pamfs.descriptors import check_free, shortage_of
from pamfs.errors import (
    CannotAskError,
    HostKeyError,
    LoginRefusedError,
    NoDescriptorError,
)
from pamfs.fuse.kernel import detach, raise_limits
from pamfs.processes import belongs_to, terminal_of
from pamfs.sessions.account.policy import is_waited_out
from pamfs.sessions.process_table import ProcTable, read_memory_file
from pamfs.transport.ssh.dial import scan
from pamfs.transport.ssh.host_keys import HostKeyVerifier
from tests.conftest import LogLedger
from tests.fakes.descriptors import no_descriptor_free
from tests.fakes.dialer import FakeDialer
from tests.fakes.logins import steps
from tests.fakes.pools import borrow, pool_of, reborrow, status_of
from tests.fakes.tenants import tenant
from tests.unit.test_control import HANDLERS

LEFT = "no file descriptor left"
in_thread = trio.to_thread.run_sync


def said_on(client: socket.socket, path: Path, command: str) -> object:
    client.settimeout(10)
    client.connect(str(path))
    client.sendall(json.dumps({"command": command}).encode() + b"\n")
    return json.loads(client.recv(1 << 16))["ok"]


async def test_commands_are_answered_without_a_free_descriptor(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, expect_log: LogLedger
) -> None:
    expect_log(LEFT)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pamfs-"))
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        path = socket_path(Path(folder) / "mnt")
        await nursery.start(serve_control, path, HANDLERS)
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(4)]
        with no_descriptor_free():
            for client in clients[:3]:
                assert await in_thread(said_on, client, path, "echo") is True
            await wait_all_tasks_blocked()  # and nothing runs in circles
        assert await in_thread(said_on, clients[3], path, "echo") is True
    assert expect_log.count(LEFT) == 1


async def test_a_login_without_descriptors_is_no_refusal(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log(LEFT)
    dialer = FakeDialer(takes_s=0)
    async with pool_of(steps(dialer), acme=tenant(cooldown_s=300)) as pool:
        with no_descriptor_free():
            for _ in range(3):
                with pytest.raises(NoDescriptorError) as caught:
                    await borrow(pool)
                assert caught.value.code == errno.EMFILE
                await wait_all_tasks_blocked()
            assert status_of(pool).state == "absent"
        assert dialer.dials == 0
        await borrow(pool)  # at once
        assert dialer.dials == 1
    assert expect_log.count(LEFT) == 1


async def test_descriptors_that_run_out_in_a_login_are_no_refusal_either(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log(LEFT)
    error = CannotAskError("the password: cat: Too many open files")
    error.__context__ = OSError(errno.ENFILE, "of the machine")
    dialer = FakeDialer(takes_s=0, failures=[error])
    async with pool_of(steps(dialer), acme=tenant(cooldown_s=300)) as pool:
        with no_descriptor_free():
            pass
        with pytest.raises(NoDescriptorError) as caught:
            await borrow(pool)
        assert caught.value.code == errno.ENFILE
        await wait_all_tasks_blocked()
        await borrow(pool)


async def test_open_files_wait_for_descriptors(
    autojump_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log(LEFT)
    expect_log("the session was lost")
    dialer = FakeDialer(takes_s=0)
    async with pool_of(steps(dialer), acme=tenant()) as pool:
        await borrow(pool)
        dialer.links[0].lose()
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            with no_descriptor_free():
                nursery.start_soon(reborrow, pool)
                await wait_all_tasks_blocked()
        assert dialer.dials == 2


def test_a_refusal_stays_one() -> None:
    refused = LoginRefusedError("wrong password")
    refused.__context__ = OSError(errno.EMFILE, "in what came after it")
    assert shortage_of(refused) is None
    assert shortage_of(HostKeyError("changed")) is None
    assert is_waited_out(NoDescriptorError("none"))


@pytest.mark.parametrize(
    "look",
    [
        lambda: ProcTable().find(os.getpid()),
        lambda: belongs_to(os.getpid(), os.getuid()),
        lambda: terminal_of(os.getpid()),
        lambda: HostKeyVerifier(tenant(known_hosts=Path("/etc/passwd")).proxy).read(),
        check_free,
    ],
    ids=["find", "belongs", "terminal", "known_hosts", "login"],
)
def test_a_look_that_fails_for_a_descriptor_says_so(
    look: Callable[[], object], expect_log: LogLedger
) -> None:
    """None of them says that a program, a terminal or a key is not there."""
    expect_log(LEFT)
    with no_descriptor_free(), pytest.raises(NoDescriptorError):
        look()


async def test_a_command_line_that_cannot_be_read_for_a_descriptor_says_so(
    expect_log: LogLedger,
) -> None:
    expect_log(LEFT)
    with no_descriptor_free(), pytest.raises(NoDescriptorError):
        await read_memory_file(os.getpid(), "cmdline")


def test_a_dial_without_a_descriptor_is_no_unreachable_proxy(
    expect_log: LogLedger,
) -> None:
    expect_log(LEFT)

    async def look() -> None:
        with no_descriptor_free(), pytest.raises(NoDescriptorError):
            await scan("127.0.0.1", 1)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(look())
    loop.close()


async def test_the_mount_is_watched_and_unmounted_with_the_reserve(
    tmp_path: Path, expect_log: LogLedger
) -> None:
    expect_log(LEFT)
    with no_descriptor_free():
        with pytest.raises(NoDescriptorError):
            check_free(1)
        assert not await goes_through(tmp_path, 10)  # it is no mount: that was seen
        raise_limits(tmp_path)
        said = await detach(tmp_path, is_lazy=False)
    assert said is not None
    assert "Too many" not in said
