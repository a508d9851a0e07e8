"""OpenSSH with few descriptors: what is read ahead costs no program a file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.relay import running_relay
from tests.fakes.openssh import SFTP_SERVER
from tests.mount.accounts import Account
from tests.mount.harness import Place, own_place
from tests.mount.mounts import mounted, plain_sshd

# Standard input, output and error of sftp-server.
OWN_DESCRIPTORS = 3
FOLDERS, FILES = 16, 10
# At once a device would have answered what is read ahead before a program asks.
RTT_MS = 10


@dataclass(frozen=True)
class Few:
    """A mounted target whose server has few handles, and its files on the disk."""

    place: Place
    target: bytes
    device: Path


@contextmanager
def few_handles(place: Place, most: int, options: str) -> Iterator[Few]:
    """Mount a real sftp-server that may open ``most`` files and folders."""
    script = place.folder / "few"
    script.write_text(
        f"#!/bin/sh\nulimit -n {most + OWN_DESCRIPTORS}\nexec {SFTP_SERVER} {options}\n"
    )
    script.chmod(0o755)
    with (
        plain_sshd(place, str(script)) as config,
        far(config),
        mounted(place, config) as mount,
    ):
        name = os.fsencode(place.account.name) + b"@web01"
        yield Few(place, mount.path(b"acme", name), place.folder / "device")


@contextmanager
def far(config: Path) -> Iterator[None]:
    """Put a way of ``RTT_MS`` between the mount of ``config`` and its server."""
    text = config.read_text()
    (port,) = re.findall(r"127\.0\.0\.1:(\d+)", text)
    with running_relay(int(port), RTT_MS) as relayed:
        for path in (config, config.parent / "known_hosts"):
            path.write_text(path.read_text().replace(port, str(relayed)))
        yield


def make_files(folder: Path) -> None:
    for outer in range(FOLDERS):
        inner = folder / f"{outer}" / "inner"
        inner.mkdir(parents=True)
        for number in range(FILES):
            path = inner.parent if number % 2 else inner
            (path / f"file{number}").write_text(f"{outer} {number}\n" * 40)


TOLD, SILENT = "", "-P limits"


@pytest.mark.parametrize(
    ("most", "options"),
    [(4, SILENT), (8, TOLD), (32, SILENT)],
)
def test_no_file_is_lost(ordinary: Account, most: int, options: str) -> None:
    with own_place(ordinary) as place, few_handles(place, most, options) as few:
        make_files(few.device / "tree")
        tree, device = few.target + b"/tree", few.device / "tree"
        found = place.run(["find", tree, "-type", "f"]).splitlines()
        assert len(found) == FOLDERS * FILES
        place.run(["cp", "-r", tree, "copied"])
        place.run(["rsync", "-a", tree + b"/", "synced"])
        for copy in ("copied", "synced"):
            place.run(["diff", "-r", device, copy])
        place.run(["cp", "-r", "copied", few.target + b"/back"])
        place.run(["rsync", "-a", tree + b"/", few.target + b"/again"])
        for copy in ("back", "again"):
            place.run(["diff", "-r", device, few.device / copy])
