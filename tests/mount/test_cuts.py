"""Programs on a line that is cut: what was said to be stored is stored, or told of.

A suite-sized form of docs/reliability.md; ``make reliability`` has the large one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from pamfs.lab import daemon as lab_daemon
from pamfs.lab.spec import DeviceSpec
from tests.limits import HANG_S
from tests.mount.accounts import Account
from tests.mount.harness import Place, own_place
from tests.mount.waiting import wait_until
from tests.reliability.line import Cut
from tests.reliability.programs import (
    CHANGES,
    READS,
    WRITES,
    blocks_of,
    digest,
    listed,
    noise,
    ran,
    talk,
)
from tests.reliability.sites import (
    Mounted,
    Site,
    behind_site,
    by_pamfs,
    lab_site,
    openssh_site,
)

MIB = 1 << 20
KINDS = (Cut.RESET, Cut.FINISH, Cut.RESTART, Cut.CORRUPT)
SITES: dict[str, Callable[[Place], AbstractContextManager[Site]]] = {
    "lab": lab_site,
    "openssh": openssh_site,
    "behind": behind_site,
}


@contextmanager
def cut_site(account: Account, over: str = "lab") -> Iterator[Mounted]:
    with (
        own_place(account) as place,
        SITES[over](place) as site,
        by_pamfs(site) as mount,
    ):
        assert ran(place, ["ls", mount.folder]).code == 0
        yield mount


def cp_in_and_out(mount: Mounted, nbytes: int) -> None:
    """Copy a file in and out again; both must be equal."""
    place = mount.place
    source, copy = noise(place.folder / "source", nbytes), place.folder / "copy"
    done = ran(place, ["cp", source, mount.there("f")])
    assert done.code == 0, done
    assert digest(mount.device / "f") == digest(source)
    again = noise(mount.device / "g", nbytes, 1)
    done = ran(place, ["cp", mount.there("g"), copy])
    assert done.code == 0, done
    assert digest(copy) == digest(again)


@pytest.mark.parametrize(
    ("over", "kind"),
    [
        ("lab", Cut.RESTART),
        ("openssh", Cut.RESET),
        ("openssh", Cut.CORRUPT),
        ("behind", Cut.FINISH),
    ],
)
def test_a_copy_goes_on_after_one_cut(ordinary: Account, over: str, kind: Cut) -> None:
    with cut_site(ordinary, over) as mount:
        mount.site.line.cut_after(kind, 5 * MIB)
        cp_in_and_out(mount, 16 * MIB)
        assert mount.site.line.cuts == 1


def test_a_copy_each_way_goes_on_after_five_cuts(ordinary: Account) -> None:
    with cut_site(ordinary) as mount:
        for number in range(5):
            kind = KINDS[number % len(KINDS)]
            mount.site.line.cut_after(kind, (number + 1) * 10 * MIB)
        cp_in_and_out(mount, 32 * MIB)
        assert mount.site.line.cuts == 5


def test_a_killed_session_is_no_end_of_a_copy(ordinary: Account) -> None:
    with cut_site(ordinary) as mount:
        site, began = mount.site, mount.site.line.carried
        source = noise(mount.place.folder / "source", 64 * MIB)
        copy = mount.place.open(["cp", source, mount.there("f")])
        wait_until(lambda: site.line.carried > began + 5 * MIB, "it is under way")
        assert site.lab is not None
        lab_daemon.ask(site.lab.folder, "kill-session", target="root@web01")
        said, _ = copy.communicate(timeout=HANG_S)
        assert copy.returncode == 0, said
        assert digest(mount.device / "f") == digest(source)


@pytest.mark.parametrize("over", ["lab", "openssh"])
@pytest.mark.parametrize(("flags", "every"), [(0, 50), (os.O_APPEND, 0)])
def test_a_handle_writes_on_after_a_cut(
    ordinary: Account, over: str, flags: int, every: int
) -> None:
    blocks, size = 300, 8192
    with cut_site(ordinary, over) as mount:
        plan = json.dumps([os.fsdecode(mount.there("f")), flags, blocks, size, every])
        with talk(mount.place, WRITES, plan) as writer:
            assert writer.hear() == "half"
            mount.site.line.cut(Cut.RESET)
            writer.go_on()
            told, written, _ = json.loads(writer.rest()[-1])
        assert (told, written) == ({}, blocks)
        assert blocks_of(mount.device / "f", size) == list(range(blocks))


WHAT = ("mkdir", "rename", "unlink", "symlink", "chmod", "exclusive create", "rmdir")


@pytest.mark.parametrize("over", ["lab", "openssh"])
def test_changes_whose_answers_were_lost_are_done_once(
    ordinary: Account, over: str
) -> None:
    with cut_site(ordinary, over) as mount:
        for number, what in enumerate(WHAT):
            old, new = (mount.device / f"{word}{number}" for word in ("old", "new"))
            prepare(old, what)
            assert ran(mount.place, ["ls", "-l", mount.folder]).code == 0
            paths = mount.there(old.name), mount.there(new.name)
            with talk(mount.place, CHANGES, what, *paths) as program:
                assert program.hear() == "ready"
                mount.site.line.cut_on_answer(Cut.RESET)
                program.go_on()
                said, _ = json.loads(program.rest()[-1])
            assert (what, said) == (what, None)
            check_changed(old, new, what)


def prepare(old: Path, what: str) -> None:
    if what in {"rename", "unlink", "chmod"}:
        old.write_bytes(b"content")
        old.chmod(0o666)
    if what == "rmdir":
        old.mkdir(mode=0o755)
    if os.getuid() == 0 and old.exists():
        os.chown(old, old.parent.stat().st_uid, old.parent.stat().st_gid)


def check_changed(old: Path, new: Path, what: str) -> None:
    match what:
        case "mkdir":
            assert old.is_dir()
        case "rmdir" | "unlink":
            assert not old.exists()
        case "rename":
            assert not old.exists()
            assert new.read_bytes() == b"content"
        case "symlink":
            assert os.readlink(old) == "said"
        case "chmod":
            assert old.stat().st_mode & 0o777 == 0o640
        case _:
            assert old.read_bytes() == b""


def test_readers_wait_for_a_proxy_that_is_away(ordinary: Account) -> None:
    with cut_site(ordinary) as mount, ExitStack() as stack:
        files = [noise(mount.device / f"f{n}", 4 * MIB, n) for n in range(4)]
        readers = [
            stack.enter_context(talk(mount.place, READS, mount.there(file.name)))
            for file in files
        ]
        for reader in readers:
            assert reader.hear() == "open"
        mount.site.line.cut(Cut.RESTART, 8.0)
        for reader in readers:
            reader.go_on()
        for reader, file in zip(readers, files, strict=True):
            said, found, _ = json.loads(reader.rest()[-1])
            assert (said, found) == (None, digest(file))


def test_one_program_reads_on_over_two_targets(ordinary: Account) -> None:
    devices = tuple(DeviceSpec(name=f"d{n}") for n in range(2))
    with (
        own_place(ordinary) as place,
        lab_site(place, devices) as site,
        by_pamfs(site) as mount,
    ):
        for target, device in site.devices.items():
            noise(device / "f", 6 * MIB)
            assert ran(place, ["ls", mount.folders[target]]).code == 0
        paths = [mount.there("f", target) for target in site.devices]
        with talk(place, READS, listed(place, paths)) as reader:
            assert reader.hear() == "open"
            site.line.cut(Cut.RESET)
            reader.go_on()
            said = [json.loads(line)[0] for line in reader.rest()]
        assert said == [None, None]


def test_a_lost_write_is_no_end_of_the_file(ordinary: Account) -> None:
    """What cannot be stored is an error to a read as well, never a shorter file."""
    with cut_site(ordinary) as mount:
        with talk(mount.place, READS_WHAT_IT_WROTE, mount.there("f")) as program:
            assert program.hear() == "written"
            assert mount.site.lab is not None
            lab_daemon.ask(mount.site.lab.folder, "lock", operator="alice")
            mount.site.line.cut(Cut.RESET)
            program.go_on()
            said = json.loads(program.rest()[-1])
        assert said in ("EIO", "EACCES", "ESTALE"), said


READS_WHAT_IT_WROTE = """
import errno, json, os, sys
fd = os.open(os.fsencode(sys.argv[1]), os.O_RDWR | os.O_CREAT)
os.pwrite(fd, b"a" * (4 << 20), 0)
print("written", flush=True)
sys.stdin.readline()
said = "nothing was wrong"
try:
    for at in range(0, 16 << 20, 1 << 20):
        os.pwrite(fd, b"b" * (1 << 20), at)
except OSError:
    pass
try:
    os.stat(sys.argv[1])
except OSError:
    pass
try:
    found = os.pread(fd, 1 << 20, 15 << 20)
    said = f"{len(found)} bytes" if len(found) < 1 << 20 else "all"
except OSError as exc:
    said = errno.errorcode[exc.errno]
print(json.dumps(said), flush=True)
"""
