"""The end of a mount: asked for, signalled, or sudden."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.limits import HANG_S
from tests.mount.conftest import Fresh
from tests.mount.harness import Place
from tests.mount.mounts import (
    DEVICE,
    Mount,
    dashed,
    force_off,
    is_alive,
    is_mounted,
    make_folder,
    running_lab,
)
from tests.mount.waiting import wait_until

HALF_WAY = """
import sys
file = open(sys.argv[1], "wb", buffering=0)
file.write(bytes(range(256)) * 12000)
print("written", flush=True)
sys.stdin.read()
"""
NOT_CONNECTED = "Transport endpoint is not connected"
WRITTEN = bytes(range(256)) * 12000


def look(fresh: Fresh) -> str:
    """Return how ``ls`` of the mount point fails."""
    dead = fresh.place.start(["ls", fresh.mount.point])
    assert dead.code != 0
    return dead.text


def test_sigterm_stores_what_was_written_and_unmounts(fresh: Fresh) -> None:
    path = fresh.mount.path(b"acme", DEVICE, b"half-way")
    (pid,) = fresh.mount.daemons()
    writer = fresh.place.open([fresh.place.account.python, "-c", HALF_WAY, path])
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not fresh.mount.is_mounted, "the mount goes")
        wait_until(lambda: not is_alive(pid), "the daemon ends")
    finally:
        writer.kill()
        writer.communicate(timeout=HANG_S)
    assert (fresh.lab.device_folder("web01") / "half-way").read_bytes() == WRITTEN


def test_umount_waits_until_everything_is_stored_and_closed(fresh: Fresh) -> None:
    path = fresh.mount.path(b"acme", DEVICE, b"stored")
    fresh.place.run(["sh", "-c", 'head -c 5000000 /dev/zero >"$0"', path])
    fresh.mount.umount()
    assert not is_mounted(fresh.mount.point)
    assert (fresh.lab.device_folder("web01") / "stored").stat().st_size == 5_000_000
    assert len(fresh.lab.events("session_closed")) == 1
    again = fresh.place.pamfs("umount", fresh.mount.point)
    assert again.code != 0
    assert len(again.text.strip().splitlines()) == 1


def test_a_killed_daemon_leaves_a_mount_that_says_so_and_mount_clears_it(
    fresh: Fresh,
) -> None:
    # A credential without a code: a new daemon does not know which were used.
    motd = fresh.mount.path(b"acme", b"backup@web01", b"etc/motd")
    fresh.place.run(["cat", motd])
    (pid,) = fresh.mount.daemons()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "the daemon ends")
    # While the kernel takes its side down it says ECONNABORTED, then ENOTCONN.
    wait_until(lambda: NOT_CONNECTED in look(fresh), "the mount says that it is dead")
    status = fresh.place.pamfs("status", fresh.mount.point)
    assert status.code != 0
    assert len(status.text.strip().splitlines()) == 1
    again = fresh.place.pamfs(
        "mount", "--config", fresh.lab.config, *dashed(fresh.options), fresh.mount.point
    )
    assert again.code == 0, again.text
    fresh.place.run(["cat", motd])


def test_a_dead_mount_can_be_unmounted(fresh: Fresh) -> None:
    (pid,) = fresh.mount.daemons()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "the daemon ends")
    fresh.place.pamfs("umount", fresh.mount.point)
    assert not is_mounted(fresh.mount.point)


def test_mount_returns_to_a_script_that_reads_its_output(fresh: Fresh) -> None:
    """A daemon that kept the pipe open would hold up ``$(pamfs mount ...)``."""
    point = fresh.place.folder / "second"
    fresh.place.run(["mkdir", point])
    python = fresh.place.account.python
    starter = fresh.place.open(
        [python, "-m", "pamfs", "mount", "--config", fresh.lab.config, point]
    )
    try:
        said, _ = starter.communicate(timeout=HANG_S)
    except subprocess.TimeoutExpired as exc:
        raise AssertionError("pamfs mount keeps its output open") from exc
    finally:
        starter.kill()
        fresh.place.pamfs("umount", point)
    assert starter.returncode == 0, said
    assert not is_mounted(point)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")
def test_the_folder_that_a_mount_is_started_in_has_no_part_in_it(place: Place) -> None:
    with running_lab(place) as lab:
        here = make_folder(place, "here")
        point = make_folder(place, "here/mnt")
        mount, ran = Mount(place, point), here / "ran"
        (here / "pamfs").mkdir()
        for name in ("__init__.py", "__main__.py"):
            (here / "pamfs" / name).write_text(f"open({str(ran)!r}, 'w')")
        config = shutil.copy(lab.config, here / "config.toml")
        Path(config).chmod(0o644)
        try:
            start = 'cd "$0" && exec "$@" -P -m pamfs mount --config config.toml mnt'
            place.run(["sh", "-c", start, here, place.account.python])
            assert not ran.exists()
            (pid,) = mount.daemons()
            assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
            mount.umount()
        finally:
            force_off(mount)


def test_another_user_sees_a_mount_only_with_allow_other(fresh: Fresh) -> None:
    fresh.place.folder.chmod(0o755)
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "ls", str(fresh.mount.point)],
        capture_output=True,
        timeout=HANG_S,
        check=False,
    )
    assert (done.returncode == 0) is ("allow_other" in fresh.options)


@pytest.mark.parametrize("fresh", ["ordinary"], indirect=True)
def test_a_mount_made_again_at_once_sends_no_used_code(fresh: Fresh) -> None:
    motd = fresh.mount.path(b"acme", DEVICE, b"etc/motd")
    # Both logins shall fall into one time step of 30 s.
    wait_until(lambda: datetime.now(UTC).timestamp() % 30 < 15, "a step begins")
    fresh.place.run(["cat", motd])
    fresh.mount.umount()
    again = fresh.place.pamfs("mount", "--config", fresh.lab.config, fresh.mount.point)
    assert again.code == 0, again.text
    fresh.place.start(["cat", motd])
    assert fresh.lab.events("auth_failed") == []
