"""A program without a terminal is asked on its desktop: Xvfb, a real pinentry."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pyotp

from tests.limits import HANG_S
from tests.mount.harness import Place
from tests.mount.mounts import Mount, is_alive, mounted, running_lab
from tests.mount.terminals import children_of
from tests.mount.waiting import wait_until

# Where the picture of the prompt goes; without it nowhere.
ARTEFACTS = os.environ.get("PAMFS_TEST_ARTEFACTS")


@contextmanager
def xvfb(place: Place) -> Iterator[str]:
    """Run an X server without a screen; yield its DISPLAY."""
    reading, writing = os.pipe()
    is_me = place.account.uid == os.getuid()
    server = subprocess.Popen(
        [
            "Xvfb",
            *("-displayfd", str(writing), "-nolisten", "tcp", "-noreset"),
            *("-screen", "0", "800x600x24", "-fbdir", str(place.folder)),
        ],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
        env=place.environment(),
        user=None if is_me else place.account.uid,
        group=None if is_me else place.account.gid,
        extra_groups=None if is_me else [],
    )
    os.close(writing)
    try:
        assert select.select([reading], [], [], 20)[0], "Xvfb does not start"
        yield f":{os.read(reading, 16).decode().strip()}"
    finally:
        os.close(reading)
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(HANG_S)


def windows(place: Place) -> list[str]:
    """Return the windows of pinentry that can be seen."""
    name = ["--onlyvisible", "--class", "pinentry"]
    return place.start(["xdotool", "search", *name]).out.decode().split()


def type_into(mount: Mount, text: str) -> None:
    """Wait for a prompt, answer it, and wait until its pinentry has ended."""
    place = mount.place
    try:
        wait_until(lambda: windows(place), "a pinentry is on the screen")
    except AssertionError as exc:
        raise AssertionError(f"{exc}: {mount.status()}") from None
    asking = children_of(mount.daemons(), "pinentry-gtk-2")
    (window,) = windows(place)
    keep_picture(place)
    place.run(["xdotool", "windowfocus", "--sync", window])
    focus = ["xdotool", "getwindowfocus"]
    wait_until(lambda: place.run(focus).decode().strip() == window, "it has the focus")
    place.run(["xdotool", "type", "--delay", "20", "--file", "-"], stdin=text.encode())
    place.run(["xdotool", "key", "Return"])
    # The next one may well get the same window number.
    wait_until(lambda: not any(map(is_alive, asking)), "the pinentry has ended")


def keep_picture(place: Place) -> None:
    """Copy the screen (XWD) to where pictures are collected."""
    if ARTEFACTS:
        picture = Path(ARTEFACTS) / "pinentry.xwd"
        picture.write_bytes((place.folder / "Xvfb_screen0").read_bytes())


def test_a_program_without_terminal_is_asked_on_its_desktop(place: Place) -> None:
    with running_lab(place) as lab:
        config = lab.folder / "config-prompt.toml"
        tenants = lab.facts["tenants"]
        assert isinstance(tenants, dict)
        alice = next(iter(tenants["acme"]["operators"].values()))
        with mounted(place, config) as mount, xvfb(place) as display:
            place.extra_env["DISPLAY"] = display
            folder = mount.path(b"acme", b"root@audit01", b"etc")
            ls = place.open(["ls", folder])
            try:
                type_into(mount, alice["password"])
                type_into(mount, pyotp.TOTP(alice["seed"]).at(datetime.now(UTC)))
                type_into(mount, "ticket 4711")
                assert ls.communicate(timeout=HANG_S)[0] == b"hostname\n"
            finally:
                ls.kill()
                ls.communicate(timeout=HANG_S)
            assert ls.returncode == 0
        assert len(lab.events("auth_ok")) == 1
        assert len(lab.events("connection")) == 1


def test_a_killed_program_takes_its_window_along(place: Place) -> None:
    with running_lab(place) as lab:
        config = lab.folder / "config-prompt.toml"
        with mounted(place, config) as mount, xvfb(place) as display:
            place.extra_env["DISPLAY"] = display
            ls = place.open(["ls", mount.path(b"acme", b"root@audit01", b"etc")])
            try:
                wait_until(lambda: windows(place), "a pinentry is on the screen")
            finally:
                ls.kill()
                ls.communicate(timeout=HANG_S)
            wait_until(lambda: not windows(place), "the window closes")
        assert lab.events("connection") == []
