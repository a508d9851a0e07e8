"""Looking is not entering; whoever enters, enters once."""

from __future__ import annotations

import errno
import subprocess

from tests.limits import HANG_S
from tests.mount.conftest import Fresh
from tests.mount.mounts import DEVICE

MOTD = b"etc/motd"
NO_TARGETS = (
    b".git",
    b".hidden",
    b"autorun.inf",
    b".Trash-1000",
    b"no-at-sign",
    b"root%acme[x@y]@web01",
    b"root]@web01",
    b"@web01",
    b"root@",
    b"root@web01{ssh.99999}",
    b"root@web01\n",
    b"caf\xe9@web01",
)


def test_looking_at_the_top_levels_opens_no_connection(fresh: Fresh) -> None:
    run, mount = fresh.place.run, fresh.mount
    assert run(["ls", mount.point]) == b"acme\nglobex\n"
    assert DEVICE in run(["ls", "-l", mount.path(b"acme")])
    assert b"directory" in run(["stat", mount.path(b"acme", DEVICE)])
    assert run(["df", mount.point]) != b""
    run(["ls", "-la", mount.point])
    run(["test", "-d", mount.path(b"acme", DEVICE)])
    run(["test", "-x", mount.path(b"acme", DEVICE)])
    run(["find", mount.point, "-maxdepth", "2"])
    assert fresh.lab.audit() == []


def test_the_first_read_opens_exactly_one_session(fresh: Fresh) -> None:
    motd = fresh.mount.path(b"acme", DEVICE, MOTD)
    on_device = fresh.lab.device_folder("web01") / MOTD.decode()
    assert fresh.place.run(["cat", motd]) == on_device.read_bytes()
    assert len(fresh.lab.events("connection")) == 1
    assert len(fresh.lab.events("auth_ok")) == 1
    fresh.place.run(["ls", "-lR", fresh.mount.path(b"acme", DEVICE)])
    assert len(fresh.lab.events("connection")) == 1


def test_twenty_programs_at_once_open_exactly_one_session(fresh: Fresh) -> None:
    motd = fresh.mount.path(b"acme", DEVICE, MOTD)
    programs = [fresh.place.open(["cat", motd]) for _ in range(20)]
    try:
        said = [program.communicate(timeout=HANG_S)[0] for program in programs]
    finally:
        for program in programs:
            program.kill()
            program.wait(HANG_S)
    assert len(said[0]) > 0
    assert said == [said[0]] * 20
    assert [program.returncode for program in programs] == [0] * 20
    assert len(fresh.lab.events("connection")) == 1
    assert len(fresh.lab.events("auth_ok")) == 1


def test_a_name_that_is_no_target_is_enoent_and_never_on_the_wire(
    fresh: Fresh,
) -> None:
    code = (
        "import os, sys\n"
        "for name in sys.argv[1:]:\n"
        "    try: os.stat(os.fsencode(name)); print(0)\n"
        "    except OSError as error: print(error.errno)"
    )
    paths = [fresh.mount.path(b"acme", name) for name in NO_TARGETS]
    said = fresh.place.python(code, *paths).split()
    assert said == [b"%d" % errno.ENOENT] * len(NO_TARGETS)
    assert fresh.lab.audit() == []


def test_an_unlisted_target_can_be_entered_by_its_name(fresh: Fresh) -> None:
    listed = fresh.place.run(["ls", fresh.mount.path(b"acme")]).split()
    unlisted = b"key\\nobody@web01"
    assert unlisted not in listed
    fresh.place.run(["stat", fresh.mount.path(b"acme", unlisted)])
    assert fresh.lab.audit() == []


def test_an_idle_reader_does_not_keep_the_top_level_waiting(fresh: Fresh) -> None:
    motd = fresh.mount.path(b"acme", DEVICE, MOTD)
    reader = fresh.place.open(["sh", "-c", 'exec 3<"$0"; echo open; read x', motd])
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"open\n"
        fresh.place.run(["ls", "-l", fresh.mount.path(b"acme")], timeout_s=HANG_S)
    finally:
        reader.kill()
        try:
            reader.communicate(timeout=HANG_S)
        except subprocess.TimeoutExpired as exc:
            raise AssertionError("a killed reader does not go away") from exc
