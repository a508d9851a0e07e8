"""The daemon is killed (SIGKILL) in the middle of logins and writes, again and again.

What must hold after each: the next mount gives back the leases that were held, no
one-time code is sent twice, and a file that was being copied is a prefix of its source.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Final

from pamfs.lab.spec import DeviceSpec, LabSpec, to_json
from tests.limits import HANG_S, PROGRAM_S
from tests.mount.harness import Place
from tests.mount.mounts import Lab, Mount, is_alive, mounted, running_lab
from tests.mount.waiting import wait_until
from tests.reliability.programs import noise
from tests.reliability.sites import lab_spec

TARGET: Final = b"root@web01"
MIB: Final = 1 << 20
COPY_MIB: Final = 64
# Where in a login, or in the copy behind it, the daemon is killed.
MOMENTS: Final = ("checked out", "logged in", "writing", "connected", "mounted")


def tenant_of(number: int) -> str:
    """Return the tenant whose login is killed ``number``th."""
    return f"acme{number}"


def accounts(count: int) -> LabSpec:
    """Return as many tenants, each with an account of its own.

    An account whose logins end unknown twice has to rest (``account.ledger``).
    """
    device = DeviceSpec(name="web01")
    found = []
    for number in range(count):
        (acme,) = lab_spec([device], needs_code=True).tenants
        found.append(dataclasses.replace(acme, name=tenant_of(number)))
    return LabSpec(tenants=tuple(found), devices=(device,))


class Kills:
    """A lab with checkouts and codes, and a mount whose daemon is killed."""

    def __init__(self, place: Place, lab: Lab, mount: Mount, seed: int) -> None:
        self._place = place
        self._lab = lab
        self._mount = mount
        self._random = random.Random(seed)
        self._source = noise(place.folder / "source", COPY_MIB * MIB)
        self._device = lab.device_folder("web01")
        self.counts: Counter[str] = Counter()

    def once(self, number: int) -> None:
        """Have a program copy into the mount, kill the daemon, and mount again."""
        moment = MOMENTS[number % len(MOMENTS)]
        name = f"copy{number}"
        before = Counter(str(entry["event"]) for entry in self._lab.audit())
        (pid,) = self._mount.daemons()
        path = self._mount.path(tenant_of(number).encode(), TARGET, name.encode())
        copy = self._place.open(["cp", self._source, path])
        try:
            wait_until(lambda: self._is_there(moment, before, number), moment)
            if moment in {"mounted", "writing"}:
                self._pause()
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not is_alive(pid), "the daemon ends")
        finally:
            copy.kill()
            copy.communicate(timeout=HANG_S)
        self.counts["leases held"] += len(self.custody())
        self._check_prefix(self._device / name)
        self._mounts_again()
        self._logs_in(number)

    def _pause(self) -> None:
        until = self._random.uniform(0.0, 0.3)
        with self._place.open(["sleep", f"{until:.3f}"]) as pausing:
            pausing.communicate(timeout=HANG_S)

    def _is_there(self, moment: str, before: Counter[str], number: int) -> bool:
        if moment == "mounted":
            return True
        if moment == "checked out":
            return any(
                row.startswith(tenant_of(number) + "/") for row in self.custody()
            )
        if moment == "writing":
            written = self._device / f"copy{number}"
            return written.exists() and written.stat().st_size > 0
        event = "connection" if moment == "connected" else "auth_ok"
        return any(
            entry["event"] == event for entry in self._lab.audit()[before.total() :]
        )

    def _check_prefix(self, written: Path) -> None:
        if not written.exists():
            return
        part = written.read_bytes()
        assert self._source.read_bytes().startswith(part), "no prefix of the source"
        self.counts["partly written"] += 0 < len(part) < COPY_MIB * MIB
        written.unlink()

    def _mounts_again(self) -> None:
        again = self._place.pamfs(
            "mount",
            "--config",
            self._lab.folder / "config-vault.toml",
            self._mount.point,
        )
        assert again.code == 0, again.text
        wait_until(lambda: not self.custody(), "the lease is given back")

    def _logs_in(self, number: int) -> None:
        """Log in with the account whose login, or session, was killed."""
        folder = self._mount.path(tenant_of(number).encode(), TARGET)
        done = self._place.start(["ls", folder], timeout_s=PROGRAM_S)
        assert done.code == 0, done.text
        wrong = self._lab.events("auth_failed")
        assert not wrong, wrong

    def custody(self) -> list[str]:
        """Return which credentials are checked out of the vault."""
        rows = json.loads(self._lab.admin("custody").out)
        return [f"{row['tenant']}/{row['target']}" for row in rows]


def killed(place: Place, times: int, seed: int = 0) -> str:
    """Kill the daemon ``times`` times; return what was seen, or raise."""
    spec = place.folder / "spec.json"
    spec.write_text(to_json(accounts(times)))
    with running_lab(place, "lab", "--spec", str(spec)) as lab:
        with mounted(place, lab.folder / "config-vault.toml") as mount:
            kills = Kills(place, lab, mount, seed)
            for number in range(times):
                kills.once(number)
        assert kills.custody() == []
        journals = place.folder / "state/pamfs/leases"
        assert list(journals.iterdir()) == []
        logins = len(lab.events("connection"))
    held, partly = kills.counts["leases held"], kills.counts["partly written"]
    return (
        f"{times} kills, {held} with a lease held, {partly} in a copy, {logins} "
        "connections: no lease left, no code sent twice, each copy a prefix"
    )
