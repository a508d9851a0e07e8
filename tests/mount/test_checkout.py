"""A mount whose vault lists the targets and hands the credentials out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.mount.harness import Place
from tests.mount.mounts import DEVICE, Lab, Mount, mounted, running_lab
from tests.mount.waiting import wait_until

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
