"""A mount whose vault lists the targets and hands the credentials out."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from tests.limits import HANG_S, PROGRAM_S
from tests.mount.harness import Place
from tests.mount.mounts import DEVICE, Lab, Mount, free_port, mounted, running_lab
from tests.mount.waiting import wait_until

HANGING = """
import json, sys, time
print(json.load(sys.stdin)["action"], file=open(sys.argv[1], "a"), flush=True)
time.sleep(1000)
"""
EXAMPLE = Path(__file__).parents[2] / "docs/examples/pamfs-helper-files"


def listed(mount: Mount) -> set[bytes]:
    return set(mount.place.run(["ls", mount.path(b"acme")]).splitlines())


def custody(lab: Lab) -> list[str]:
    rows = json.loads(lab.admin("custody").out)
    return [str(row["target"]) for row in rows]


def test_the_vault_fills_the_tenant_and_has_its_credential_back_at_the_end(
    place: Place,
) -> None:
    with running_lab(place) as lab:
        with mounted(place, lab.folder / "config-vault.toml") as mount:
            wait_until(lambda: DEVICE in listed(mount), "the vault's list is shown")
            assert rb"corp\svc-backup@fs02{ssh.2222}" in listed(mount)
            assert lab.events("connection") == []
            place.run(["cat", mount.path(b"acme", DEVICE, b"etc/motd")])
            assert custody(lab) == [DEVICE.decode()]
            targets = mount.status()["targets"]
            assert isinstance(targets, list)
            assert targets[0]["lease_expires_at"] is not None
            text = place.pamfs("status", mount.point).text
            assert "vault of acme: " in text
            assert "stale" not in text
        assert custody(lab) == []
        assert len(lab.events("vault_release")) == 1


def test_a_vault_that_was_never_reached_is_an_error_and_not_an_empty_folder(
    place: Place,
) -> None:
    with running_lab(place) as lab:
        text = (lab.folder / "config-vault.toml").read_text()
        # "localhost" has two addresses, and nobody listens on either.
        url = f'url = "https://localhost:{free_port()}"'
        config = place.folder / "config-away.toml"
        config.write_text(re.sub(r"url *= *.*", url, text))
        config.chmod(0o644)
        with mounted(place, config) as mount:
            done = place.start(["ls", mount.path(b"acme")])
            assert (done.code, done.out) == (2, b"")
            assert b"No route to host" in done.err
            said = place.pamfs("status", mount.point).text
            assert "stale" in said
            assert "exception" not in said
            # A target whose name is known is entered without the list.
            done = place.start(["ls", "-d", mount.path(b"acme", DEVICE)])
            assert done.code == 0, done.text


def test_a_helper_program_checks_out_and_in(place: Place) -> None:
    with running_lab(place) as lab:
        program, leases = place.folder / "helper", place.folder / "leases"
        program.write_bytes(EXAMPLE.read_bytes())
        program.chmod(0o755)
        leases.mkdir()
        leases.chmod(0o777)
        config = place.folder / "config-helper.toml"
        command = f"{sys.executable} {program} {leases}"
        text = lab.config.read_text().replace(
            "[tenant.acme]",
            "[tenant.acme]\n"
            f'checkout = {{ provider = "helper", command = "{command}" }}',
        )
        config.write_text(text)
        config.chmod(0o644)
        lease = leases / "lease-acme:root@web01"
        with mounted(place, config) as mount:
            place.run(["cat", mount.path(b"acme", DEVICE, b"etc/motd")])
            assert lease.exists()
        assert not lease.exists()


def test_a_helper_that_hangs_does_not_hold_up_the_unmount(place: Place) -> None:
    with running_lab(place) as lab:
        program, asked = place.folder / "helper", place.folder / "asked"
        program.write_text(HANGING)
        checkout = (
            f'checkout = {{ provider = "helper", timeout = 300,'
            f' command = "{place.account.python} {program} {asked}" }}'
        )
        config = place.folder / "config-helper.toml"
        text = lab.config.read_text()
        config.write_text(text.replace("[tenant.acme]", f"[tenant.acme]\n{checkout}"))
        config.chmod(0o644)
        with mounted(place, config) as mount:
            motd = mount.path(b"acme", DEVICE, b"etc/motd")
            cat = place.open(["cat", motd])
            try:
                wait_until(asked.exists, "the helper is asked")
            finally:
                cat.kill()
                cat.communicate(timeout=HANG_S)
            # Far less than the helper's own time.
            done = place.pamfs("umount", mount.point, timeout_s=PROGRAM_S)
            assert done.code == 0, done.text
            assert "leases are given back ..." in done.text
            assert "not given back: acme/root@web01: a lease that was" in done.text
            wait_until(lambda: not mount.daemons(), "the daemon ends")
