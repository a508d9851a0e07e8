"""Nobody's crawler causes a login: real programs, a real mount, the lab's audit log."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.accounts import Account
from tests.mount.conftest import Fresh
from tests.mount.harness import Done, own_place
from tests.mount.mounts import DEVICE, Lab, Mount, mounted, running_lab
from tests.mount.terminals import a_seat

MOTD = b"etc/motd"
OTHER = b"root@db01"

PROBES = """
import ctypes, os, sys
target = os.fsencode(sys.argv[1])
os.statvfs(target), os.stat(target), os.lstat(target), os.listxattr(target)
os.access(target, os.R_OK | os.X_OK)
for name in (
    ".hidden", ".Trash", ".Trash/1000", ".Trash-1000", ".Trash-1000/files",
    ".directory", ".xdg-volume-info", "autorun.inf", ".autorun", "autorun.sh",
    "BDMV", "VIDEO_TS", ".DS_Store", "desktop.ini", ".git", ".git/HEAD", ".envrc",
):
    try:
        os.lstat(os.path.join(target, os.fsencode(name)))
        print("there:", name)
    except FileNotFoundError:
        pass
"""
# A program that calls itself otherwise than its file: prctl(2), PR_SET_NAME.
RENAMED = """
import ctypes, sys
ctypes.CDLL(None).prctl(15, sys.argv[2].encode(), 0, 0, 0)
print(open(sys.argv[1], "rb").read())
"""
LS_EACH = ("-exec", "ls", "{}", ";")
WALK = """
import os, sys
for folder, _, _ in os.walk(sys.argv[1]): print(folder)
"""
# A folder is shown, a person looks at it, and opens what they see.
BROWSE = """
import os, sys, time
for tenant, target in (sys.argv[1:3], sys.argv[3:5]):
    os.listdir(tenant)
    time.sleep(1.5)
    print(os.listdir(os.path.join(tenant, target)))
    time.sleep(3)
"""


@pytest.fixture
def fresh(ordinary: Account) -> Iterator[Fresh]:
    with (
        own_place(ordinary) as place,
        running_lab(place) as lab,
        mounted(place, lab.config) as mount,
    ):
        yield Fresh(place, lab, mount, ())


@pytest.fixture(scope="module")
def shared(ordinary: Account) -> Iterator[Fresh]:
    """Yield a mount that no test logs in through."""
    with (
        own_place(ordinary) as place,
        running_lab(place) as lab,
        mounted(place, lab.config) as mount,
    ):
        yield Fresh(place, lab, mount, ())


def refusals(mount: Mount) -> list[dict[str, object]]:
    found = mount.status()["refusals"]
    assert isinstance(found, list)
    return found


def times_refused(mount: Mount) -> int:
    return sum(int(str(row["times"])) for row in refusals(mount))


def refused_programs(mount: Mount) -> set[object]:
    return {row["program"] for row in refusals(mount)}


def read_motd(fresh: Fresh, target: bytes = DEVICE) -> bytes:
    return fresh.place.run(["cat", fresh.mount.path(b"acme", target, MOTD)])


def crawl(fresh: Fresh) -> None:
    """Do what crawlers, desktops and walks do; it is nobody's wish to log in."""
    place, mount = fresh.place, fresh.mount
    target = mount.path(b"acme", OTHER)
    place.start(["find", mount.point, "-maxdepth", "3"])
    assert place.python(PROBES, target) == b""
    assert place.run(["df", target]) != b""
    assert thumbnail(fresh, OTHER).code != 0
    assert place.start(["git", "-C", target, "rev-parse"]).code != 0


def thumbnail(fresh: Fresh, target: bytes) -> Done:
    """Read a file with a program that is called as a desktop's thumbnailer is."""
    program = fresh.place.folder / "tumblerd"
    if not program.exists():
        shutil.copy("/bin/cat", program)
    return fresh.place.start([program, fresh.mount.path(b"acme", target, MOTD)])


def test_crawlers_log_in_nowhere_before_and_after_a_target_is_open(
    fresh: Fresh,
) -> None:
    crawl(fresh)
    assert fresh.lab.audit() == []
    assert {"find", "tumblerd"} <= refused_programs(fresh.mount)
    assert read_motd(fresh)
    assert len(fresh.lab.events("connection")) == 1
    crawl(fresh)
    assert len(fresh.lab.events("connection")) == 1
    # What is open is served to everybody.
    assert thumbnail(fresh, DEVICE).code == 0
    found = fresh.place.start(["find", fresh.mount.point, "-maxdepth", "3"])
    assert DEVICE + b"/etc" in found.out
    assert OTHER + b"/etc" not in found.out
    assert len(fresh.lab.events("connection")) == 1


WALKS: dict[str, list[str]] = {
    "find": ["find", "MNT"],
    "find -exec": [*("find", "MNT", "-mindepth", "2", "-maxdepth", "2"), *LS_EACH],
    "find to xargs": ["sh", "-c", 'find "$0" -mindepth 2 -print0 | xargs -0 ls', "MNT"],
    "du": ["du", "-s", "MNT"],
    "grep": ["grep", "-r", "Welcome", "MNT"],
    "ls": ["ls", "-R", "MNT"],
    "cp": ["cp", "-r", "MNT", "copied"],
    "rsync": ["rsync", "-a", "MNT/", "synced"],
    "tar": ["tar", "-cf", "all.tar", "MNT"],
    "os.walk": ["python3", "-c", WALK, "MNT"],
    "a script's loop": ["bash", "-c", 'for d in "$0"/acme/*; do ls "$d"; done', "MNT"],
    "a script's pattern": ["bash", "-c", 'cat "$0"/acme/*/etc/motd', "MNT"],
}


@pytest.mark.parametrize("walk", WALKS.values(), ids=WALKS.keys())
def test_a_walk_logs_in_nowhere(shared: Fresh, walk: list[str]) -> None:
    before = times_refused(shared.mount)
    point = str(shared.mount.point)
    shared.place.start([word.replace("MNT", point).encode() for word in walk])
    assert shared.lab.audit() == []
    assert times_refused(shared.mount) > before


def test_a_program_that_calls_itself_a_thumbnailer_is_one(shared: Fresh) -> None:
    path = shared.mount.path(b"acme", DEVICE, MOTD)
    python = shared.place.account.python
    done = shared.place.start([python, "-c", RENAMED, path, "tumblerd"])
    assert "PermissionError" in done.text
    assert shared.lab.audit() == []
    assert "tumblerd" in refused_programs(shared.mount)


def test_the_status_says_who_was_refused_and_what_to_do(shared: Fresh) -> None:
    point = shared.mount.point
    shared.place.start(["du", "-s", point])
    said = shared.place.pamfs("status", point).text
    assert "refused by the guard:" in said
    assert ": it walks through the targets of acme" in said
    assert f"pamfs unlock {point}/acme/" in said
    assert 'traversal = ["du"]' in said
    (row,) = [
        row
        for row in refusals(shared.mount)
        if row["program"] == "du" and str(row["target"]).startswith("acme/")
    ][-1:]
    assert row["uid"] == shared.place.account.uid
    assert int(str(row["times"])) >= len(
        shared.place.run(["ls", point / "acme"]).splitlines()
    )
    assert shared.mount.status()["targets"] == []


def test_a_person_enters_by_name(fresh: Fresh) -> None:
    enter_and_list = 'cd "$0" && ls && cd root@web01/etc && ls && cat motd'
    run, acme = fresh.place.run, fresh.mount.path(b"acme")
    assert b"motd" in run(["ls", fresh.mount.path(b"acme", DEVICE, b"etc/")])
    assert len(fresh.lab.events("auth_ok")) == 1
    assert b"motd" in run(["sh", "-c", enter_and_list, acme])
    assert b"motd" in run(["find", fresh.mount.path(b"acme", DEVICE)])
    assert refusals(fresh.mount) == []


def test_a_script_that_looks_first_enters(fresh: Fresh) -> None:
    look_and_enter = 'cd "$0" && ls && cd root@web01/etc && cat motd'
    assert b"root@db01" in fresh.place.run(
        ["sh", "-c", look_and_enter, fresh.mount.path(b"acme")]
    )
    assert refusals(fresh.mount) == []


def test_who_looks_before_entering_enters(fresh: Fresh) -> None:
    acme, globex = fresh.mount.path(b"acme"), fresh.mount.path(b"globex")
    said = fresh.place.python(BROWSE, acme, DEVICE, globex, b"root@app01")
    assert said.count(b"'etc'") == 2
    assert refusals(fresh.mount) == []
    assert len(fresh.lab.events("auth_ok")) == 2


def test_a_copy_goes_from_target_to_target(fresh: Fresh) -> None:
    source = fresh.mount.path(b"acme", DEVICE, MOTD)
    target = fresh.mount.path(b"globex", b"root@app01", b"copied")
    fresh.place.run(["cp", source, target])
    assert refusals(fresh.mount) == []
    assert len(fresh.lab.events("auth_ok")) == 2


def test_a_shell_completes_and_enters(fresh: Fresh) -> None:
    with a_seat(fresh.place) as seat:
        seat.start(["bash", "--norc", "--noprofile", "-i"])
        seat.type(f"cd {fresh.mount.point}/acme; echo be''gun\n")
        seat.read_until(b"begun")
        seat.type("cat ba\tetc/motd; echo do''ne\n")
        seat.read_until(b"Every session is recorded")
        seat.read_until(b"done")
    assert refusals(fresh.mount) == []
    assert len(fresh.lab.events("auth_ok")) == 1


def test_a_walk_can_be_allowed(ordinary: Account) -> None:
    with own_place(ordinary) as place, running_lab(place) as lab:
        config = allowing(lab, 'traversal = ["find"]')
        with mounted(place, config) as mount:
            two = [mount.path(tenant) for tenant in (b"acme", b"globex")]
            place.start(["timeout", "5", "find", *two, "-maxdepth", "2"])
            assert lab.events("connection")
            assert refusals(mount) == []
            place.start(["du", "-s", mount.point])
            assert refused_programs(mount) == {"du"}


def allowing(lab: Lab, line: str) -> Path:
    """Return the lab's configuration with ``line`` in its table ``[guard]``."""
    path = lab.folder / "allowing.toml"
    path.write_text(f"{lab.config.read_text()}\n[guard]\n{line}\n")
    path.chmod(0o600)
    os.chown(path, lab.place.account.uid, lab.place.account.gid)
    return path
