"""What is open when the connection is lost, and another file takes its name."""

from __future__ import annotations

import errno
from contextlib import ExitStack
from pathlib import Path

from tests.mount.accounts import Account
from tests.mount.harness import own_place
from tests.mount.mounts import DEVICE, Lab, mounted, running_lab
from tests.mount.waiting import wait_until

# Reads the beginning of a file, waits for a line, and reads the rest as programs do.
READER = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
first = os.read(fd, 1000)
print(len(first), flush=True)
sys.stdin.readline()
for name, call in {
    "read": lambda: len(os.read(fd, 1000)),
    "fstat": lambda: os.fstat(fd).st_size,
    "fchmod": lambda: os.fchmod(fd, 0o600),
}.items():
    try:
        print(name, call(), flush=True)
    except OSError as exc:
        print(name, -exc.errno, flush=True)
with open(sys.argv[1], "rb") as again:
    print("again", len(again.read()), flush=True)
"""


def lose_connections(lab: Lab) -> None:
    done = lab.admin("kill-session", DEVICE.decode())
    assert done.code == 0, done.text


REPLACED_BY = {"empty": b"", "short": b"short", "gone": None}


def test_a_reader_is_told_that_its_file_is_gone(ordinary: Account) -> None:
    with (
        own_place(ordinary) as place,
        running_lab(place) as lab,
        mounted(place, lab.config) as mount,
        ExitStack() as stack,
    ):
        device = lab.device_folder("web01")
        for name in REPLACED_BY:
            (device / name).write_bytes(b"x" * 3000)
            (device / name).chmod(0o644)
        readers = {}
        for name in REPLACED_BY:
            path = mount.path(b"acme", DEVICE, name.encode())
            reader = place.open([place.account.python, "-c", READER, path])
            stack.callback(reader.kill)
            readers[name] = reader
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"1000\n"
        lose_connections(lab)
        wait_until(lambda: not is_ready(mount.status()), "the session is over")
        for name, content in REPLACED_BY.items():
            replace(device / name, content)
        for name, content in REPLACED_BY.items():
            said, _ = readers[name].communicate(b"\n", timeout=120)
            check(said, content)
            if content is not None:
                assert (device / name).stat().st_mode & 0o777 == 0o644


def check(said: bytes, content: bytes | None) -> None:
    stale = b"%d" % -errno.ESTALE
    lines = said.splitlines()
    assert lines[:3] == [b"read " + stale, b"fstat " + stale, b"fchmod " + stale]
    if content is None:
        assert b"FileNotFoundError" in said
    else:
        assert lines[3] == b"again %d" % len(content)


def replace(file: Path, content: bytes | None) -> None:
    file.unlink()
    if content is not None:
        file.write_bytes(content)
        file.chmod(0o644)


def is_ready(status: dict[str, object]) -> bool:
    targets = status["targets"]
    assert isinstance(targets, list)
    return any(target["state"] == "ready" for target in targets)
