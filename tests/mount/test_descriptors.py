"""A mount that runs out of file descriptors serves, answers, and recovers."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from pamfs.lab.spec import DeviceSpec
from tests.mount.accounts import Account
from tests.mount.harness import own_place
from tests.reliability.programs import noise, ran
from tests.reliability.sites import Mounted, by_pamfs, lab_site

TWO = tuple(DeviceSpec(name=f"d{n}") for n in range(2))


@contextmanager
def out_of_descriptors(pid: int) -> Iterator[None]:
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def pamfs(mount: Mounted, command: str) -> int | None:
    python = mount.place.account.python
    done = ran(mount.place, [python, "-m", "pamfs", command, mount.point], 30)
    return done.code


def test_open_sessions_and_commands_go_on_without_descriptors(
    root: Account,
) -> None:
    with (
        own_place(root) as place,
        lab_site(place, TWO) as site,
        by_pamfs(site) as mount,
    ):
        first, second = site.devices
        noise(site.devices[first] / "f", 1 << 16)
        noise(site.devices[first] / "g", 1 << 16)
        assert ran(place, ["cat", mount.there("f", first)]).code == 0
        with out_of_descriptors(mount.daemon()):
            assert ran(place, ["cat", mount.there("g", first)]).code == 0
            assert pamfs(mount, "status") == 0
            for _ in range(3):
                done = ran(place, ["ls", mount.folders[second]])
                assert done.reason == "Too many open files", done
            assert pamfs(mount, "status") == 0
        assert ran(place, ["ls", mount.folders[second]]).code == 0
        log = mount.log.read_text()
        assert len(re.findall("no file descriptor left", log)) == 1
        assert "Traceback" not in log


def test_a_mount_without_descriptors_is_unmounted_in_order(root: Account) -> None:
    with own_place(root) as place, lab_site(place) as site, by_pamfs(site) as mount:
        assert ran(place, ["ls", mount.folder]).code == 0
        source = noise(place.folder / "source", 1 << 20)
        assert ran(place, ["cp", source, mount.there("f")]).code == 0
        with out_of_descriptors(mount.daemon()):
            assert pamfs(mount, "umount") == 0
        assert (mount.device / "f").read_bytes() == source.read_bytes()
