"""A notice on a real session bus, with and without somebody who shows it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from jeepney import HeaderFields, Message, MessageType, message_bus, new_method_return
from jeepney.io.trio import open_dbus_connection

from pamfs.sessions.notices import Desktop, Notice
from tests.fakes.tenants import WEB01
from tests.limits import HANG_S

WARNING = Notice(WEB01, "the lease ends at 10:41:12: save your work")


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[str]:
    """Yield the address of a session bus of the test's own."""
    address = f"unix:path={tmp_path}/bus"
    command = ["dbus-daemon", "--session", "--nofork", f"--address={address}"]
    daemon = subprocess.Popen(
        [*command, "--print-address"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline()
        yield address
    finally:
        daemon.kill()
        daemon.communicate(timeout=HANG_S)


async def be_a_desktop(
    bus: str, shown: list[Message], task_status: trio.TaskStatus[None]
) -> None:
    """Take one notification, and answer it."""
    async with await open_dbus_connection(bus) as connection:
        name = "org.freedesktop.Notifications"
        await connection.send(message_bus.RequestName(name))
        message = await connection.receive()
        while message.header.message_type is not MessageType.method_return:
            message = await connection.receive()
        task_status.started()
        while not shown:
            message = await connection.receive()
            if message.header.fields.get(HeaderFields.member) == "Notify":
                shown.append(message)
                await connection.send(new_method_return(message, "u", (1,)))


async def test_a_desktop_shows_the_target_and_the_line(bus: str) -> None:
    shown: list[Message] = []
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(be_a_desktop, bus, shown)
            Desktop(nursery, bus).show(WARNING)
    program, _, _, title, text, _, hints, _ = shown[0].body
    assert (program, title) == ("pamfs", "pamfs: acme/root@web01")
    assert text == "the lease ends at 10:41:12: save your work"
    assert hints["urgency"] == ("y", 2)


async def test_nobody_on_the_bus_is_no_error(bus: str) -> None:
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            Desktop(nursery, bus).show(WARNING)


@pytest.mark.parametrize("address", [None, "unix:path=/nonexistent", "tcp:host=x"])
async def test_no_bus_is_no_error(address: str | None) -> None:
    with trio.fail_after(HANG_S):
        async with trio.open_nursery() as nursery:
            Desktop(nursery, address).show(WARNING)
