"""Bad input, and what it gets: an errno, one attempt, and a line that says why."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.limits import HANG_S
from tests.mount.accounts import myself
from tests.mount.conftest import NEEDS_ROOT
from tests.mount.harness import Done, Place
from tests.mount.mounts import (
    DEVICE,
    Lab,
    Mount,
    foreground_mount,
    free_port,
    make_folder,
    mounted,
    running_lab,
)

MOTD = b"etc/motd"


@pytest.fixture
def lab(place: Place) -> Iterator[Lab]:
    with running_lab(place) as running:
        yield running


def variant(lab: Lab, old: str, new: str, *, count: int = 1) -> Path:
    """Return a copy of the lab's configuration with ``old`` (a pattern) as ``new``."""
    text, changed = re.subn(old, new, lab.config.read_text(), count=count)
    assert changed, f"{old} is not in the configuration"
    path = lab.folder / "variant.toml"
    path.write_text(text)
    path.chmod(0o600)
    os.chown(path, lab.place.account.uid, lab.place.account.gid)
    return path


def cat(mount: Mount, tenant: bytes = b"acme") -> Done:
    return mount.place.start(["cat", mount.path(tenant, DEVICE, MOTD)])


def target_status(mount: Mount, tenant: str = "acme") -> dict[str, object]:
    targets = mount.status()["targets"]
    assert isinstance(targets, list)
    (found,) = [
        row
        for row in targets
        if (row["tenant"], row["target"]) == (tenant, DEVICE.decode())
    ]
    assert isinstance(found, dict)
    return found


def test_a_wrong_password_is_tried_once_and_then_cools_down(lab: Lab) -> None:
    wrong = lab.folder / "wrong"
    wrong.write_text("not-the-password\n")
    wrong.chmod(0o600)
    os.chown(wrong, lab.place.account.uid, lab.place.account.gid)
    config = variant(
        lab, r"password *= *\{[^}]*\}", f'password = {{ file = "{wrong}" }}'
    )
    with mounted(lab.place, config) as mount:
        for _ in range(3):
            refused = cat(mount)
            assert refused.code != 0
            assert "Permission denied" in refused.text
        # The shell looks into every target for its "*", and the account is one.
        everywhere = mount.path(b"acme", b"*", b"etc", b"motd")
        done = lab.place.start([b"sh", b"-c", b"cat " + everywhere])
        assert done.code != 0
        assert len(lab.events("auth_failed")) == 1
        assert len(lab.events("connection")) == 1
        assert lab.events("locked") == []
        status = target_status(mount)
        assert status["state"] == "cooling"
        assert status["last_error"]


def test_a_proxy_that_is_down_is_unreachable_and_harms_no_other_tenant(
    lab: Lab,
) -> None:
    config = two_tenants(lab, f"127.0.0.1:{free_port()}")
    with mounted(lab.place, config) as mount:
        down = cat(mount, b"down")
        assert down.code != 0
        assert "No route to host" in down.text
        assert cat(mount).code == 0
        assert target_status(mount, "down")["last_error"]


def test_a_proxy_that_never_speaks_is_given_up_and_holds_up_no_other_tenant(
    lab: Lab,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        config = two_tenants(lab, address, "connect_timeout = 8")
        with mounted(lab.place, config) as mount:
            stuck = lab.place.open(["cat", mount.path(b"down", DEVICE, MOTD)])
            try:
                assert mount.place.run(["cat", mount.path(b"acme", DEVICE, MOTD)])
                assert stuck.poll() is None
                said, _ = stuck.communicate(timeout=HANG_S)
            finally:
                stuck.kill()
                stuck.communicate(timeout=HANG_S)
            assert stuck.returncode != 0
            assert b"No route to host" in said


def two_tenants(lab: Lab, proxy: str, more: str = "") -> Path:
    """Return a configuration with a second tenant, ``down``, behind ``proxy``."""
    text = lab.config.read_text()
    tenants = text[text.index("[tenant.acme") :]
    # Of the lab's tenants, acme is written first; the others are not needed twice.
    acme = re.split(r"(?m)^\[tenant\.(?!acme)", tenants)[0]
    # Without codes: two tenants with one seed would wait for each other's.
    acme = re.sub(r"(?m)^otp.*\n", "", acme)
    down = re.sub(r"(?m)^proxy *=.*$", f'proxy = "{proxy}"\n{more}', acme)
    path = lab.folder / "two.toml"
    path.write_text(f"{text}\n{down.replace('tenant.acme', 'tenant.down')}")
    path.chmod(0o600)
    os.chown(path, lab.place.account.uid, lab.place.account.gid)
    return path


def test_a_changed_host_key_is_refused_with_both_fingerprints(lab: Lab) -> None:
    place = lab.place
    other = lab.folder / "other"
    place.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other])
    known = known_hosts_of(lab)
    host = known.read_text().split()[0]
    changed = lab.folder / "changed_hosts"
    changed.write_text(f"{host} {Path(f'{other}.pub').read_text()}")
    changed.chmod(0o644)
    config = variant(lab, r"known_hosts *=.*", f'known_hosts = "{changed}"')
    with foreground_mount(place, config) as (mount, log):
        refused = cat(mount)
        assert refused.code != 0
        assert "Permission denied" in refused.text
        assert lab.events("auth_ok") == []
        said = log.read_text()
    shown = place.run(["ssh-keygen", "-l", "-f", changed]).split()[1].decode()
    real = place.run(["ssh-keygen", "-l", "-f", known]).split()[1].decode()
    assert shown != real
    assert shown in said
    assert real in said


def known_hosts_of(lab: Lab) -> Path:
    found = re.search(r'known_hosts *= *"([^"]*)"', lab.config.read_text())
    assert found
    return Path(found[1])


def test_a_second_mount_on_the_same_folder_is_refused(lab: Lab) -> None:
    with mounted(lab.place, lab.config) as mount:
        second = lab.place.pamfs("mount", "--config", lab.config, mount.point)
        assert_one_line(second, str(mount.point))
        assert cat(mount).code == 0


def test_a_missing_mount_point_is_refused(lab: Lab) -> None:
    point = lab.place.folder / "missing"
    assert_one_line(lab.place.pamfs("mount", "--config", lab.config, point), str(point))


def test_a_mount_point_with_something_in_it_is_refused(lab: Lab) -> None:
    point = make_folder(lab.place, "full")
    (point / "precious").write_text("x")
    done = lab.place.pamfs("mount", "--config", lab.config, point)
    assert_one_line(done, str(point))
    assert (point / "precious").read_text() == "x"


def test_a_mount_point_that_is_a_file_is_refused(lab: Lab) -> None:
    point = lab.place.folder / "file"
    point.write_text("x")
    done = lab.place.pamfs("mount", "--config", lab.config, point)
    assert_one_line(done, str(point))


def test_a_missing_configuration_is_refused_by_name(lab: Lab) -> None:
    point = make_folder(lab.place, "mnt")
    done = lab.place.pamfs("mount", "--config", lab.folder / "none.toml", point)
    assert_one_line(done, "none.toml")


def test_a_wrong_key_in_the_configuration_is_refused_by_name(lab: Lab) -> None:
    config = variant(lab, r"(?m)^operator", "opperator")
    point = make_folder(lab.place, "mnt")
    for command in (
        ("mount", "--config", config, point),
        ("check", "--config", config),
    ):
        done = lab.place.pamfs(*command)
        assert done.code != 0
        assert "opperator" in done.text
        assert "operator" in done.text.replace("opperator", "")
        assert "Traceback" not in done.text


@pytest.mark.skipif(os.getuid() != 0, reason=NEEDS_ROOT)
def test_a_machine_without_dev_fuse_is_told_so(lab: Lab) -> None:
    point = make_folder(lab.place, "mnt")
    hide = (
        "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 &&"
        " mknod -m 666 /dev/urandom c 1 9 && mknod -m 666 /dev/random c 1 8 &&"
        ' exec "$@"'
    )
    account = lab.place.account
    done = Place(myself(), lab.place.folder, lab.place.environment()).start(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            hide,
            "sh",
            "setpriv",
            f"--reuid={account.uid}",
            f"--regid={account.gid}",
            "--clear-groups",
            account.python,
            "-m",
            "pamfs",
            "mount",
            "--config",
            lab.config,
            point,
        ]
    )
    assert_one_line(done, "/dev/fuse")


def assert_one_line(done: Done, named: str) -> None:
    """The command failed, and said in one line what is wrong with ``named``."""
    assert done.code != 0
    (line,) = done.text.strip().splitlines()
    assert named in line
