"""A mount point is judged, and found in the kernel's table, without being touched."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pamfs.mountpoint import (
    MountOptions,
    MountpointError,
    NoFuseError,
    OptionError,
    check_folder,
    check_fuse,
    clean_up,
    find_mount,
    is_dead,
    own_mounts,
    parse_options,
    prepare,
    read_table,
    real_mountpoint,
)
from tests.limits import HANG_S


def test_options_of_ours_are_read() -> None:
    options = parse_options(
        ["allow_other,uid=5,gid=6", "log_level=debug,subtype=pamfs,log=/tmp/x"],
        name="acme",
    )
    assert options == MountOptions(
        allow_other=True,
        subtype="pamfs",
        fsname="pamfs:acme",
        log=Path("/tmp/x"),
        log_level="debug",
        uid=5,
        gid=6,
    )


def test_words_of_fstab_do_no_harm() -> None:
    words = "_netdev,nofail,noauto,user,rw,exec,defaults"
    others = "x-systemd.automount,x-systemd.idle-timeout=60,comment=mine,"
    assert parse_options([words, others]) == MountOptions()


def test_what_the_kernel_knows_goes_to_the_kernel() -> None:
    assert parse_options(["ro,nodev", "nosuid,noexec"]).extra == (
        "ro",
        "nodev",
        "nosuid",
        "noexec",
    )


def test_the_source_always_shows_that_it_is_ours() -> None:
    assert parse_options(["fsname=x"]).fsname == "pamfs:x"
    assert parse_options(["fsname=pamfs:x"]).fsname == "pamfs:x"
    assert parse_options([], name="my config,x").fsname == "pamfs:my_config_x"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("alow_other", "unknown mount option 'alow_other' (did you mean 'allow_other'"),
        ("frobnicate=1", "unknown mount option 'frobnicate=1' (known: allow_other"),
        ("uid", "the mount option 'uid' needs a value"),
        ("uid=", "the mount option 'uid' needs a value"),
        ("uid=-1", "uid='-1': a number"),
        ("uid=\u0661", "uid='\\u0661': a number"),
        ("gid=4294967295", "gid='4294967295': a number"),
        ("subtype=a b", "subtype='a b': letters"),
        ("fsname=a\nb", "fsname='a\\nb': printable"),
        ("log_level=loud", "log_level='loud': known are debug"),
    ],
)
def test_an_option_that_is_wrong_is_named(text: str, problem: str) -> None:
    with pytest.raises(OptionError) as refused:
        parse_options([text])
    assert str(refused.value).startswith(problem)


MOUNTINFO = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:50 / /home/a/p\\040a\\134m rw shared:2 - fuse.sshfs pamfs:acme rw,user_id=1000
41 22 0:51 / /home/a/ssh rw - fuse.sshfs a@b: rw,user_id=1000,group_id=1000
42 22 0:52 / /mnt rw - tmpfs pamfs:not rw
43 22 0:53 / /mnt rw - fuse pamfs: rw,allow_other,user_id=0
nonsense
44 22 - ext4
"""


def test_the_kernels_table_is_read() -> None:
    table = list(read_table(MOUNTINFO))
    assert [(str(e.mountpoint), e.is_ours, e.uid) for e in table] == [
        ("/", False, None),
        ("/home/a/p a\\m", True, 1000),
        ("/home/a/ssh", False, 1000),
        ("/mnt", False, None),
        ("/mnt", True, 0),
    ]


def test_what_is_mounted_is_found_by_its_real_path(tmp_path: Path) -> None:
    entry = find_mount(Path("/proc"))
    assert entry is not None
    assert (entry.fstype, entry.is_ours) == ("proc", False)
    assert find_mount(tmp_path) is None


def test_a_folder_that_is_free_is_accepted(tmp_path: Path) -> None:
    check_folder(tmp_path)


def test_a_folder_that_cannot_be_mounted_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MountpointError, match="does not exist"):
        check_folder(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(MountpointError, match="is not a folder"):
        check_folder(tmp_path / "file")
    with pytest.raises(MountpointError, match="is not empty"):
        check_folder(tmp_path)
    with pytest.raises(MountpointError, match="is already a mount point: proc"):
        prepare(Path("/proc"), MountOptions())


HAS_FUSE = os.access("/dev/fuse", os.R_OK | os.W_OK) and shutil.which("fusermount3")
needs_fuse = pytest.mark.skipif(not HAS_FUSE, reason="needs /dev/fuse and fusermount3")

# Mounts, is looked at once, and dies without unmounting, as after kill -9. What
# the kernel then knows of the root it would know for another hour.
DIE = """\
import os, stat, sys, pyfuse3, trio

class Root(pyfuse3.Operations):
    async def getattr(self, inode, ctx):
        attr = pyfuse3.EntryAttributes()
        attr.st_ino, attr.st_mode = inode, stat.S_IFDIR | 0o755
        attr.attr_timeout = attr.entry_timeout = 3600
        return attr

async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pyfuse3.main)
        await trio.to_thread.run_sync(os.stat, sys.argv[1])
        os._exit(0)

options = {"fsname=" + sys.argv[2], "subtype=sshfs"}
pyfuse3.init(Root(), sys.argv[1], options)
trio.run(main)
"""


@pytest.fixture
def dead(tmp_path: Path) -> Iterator[Path]:
    """A mount of pamfs whose daemon has died."""
    point = tmp_path / "dead mount"
    point.mkdir()
    die(point, "pamfs:dead")
    yield point
    if find_mount(point):
        clean_up(point)


def die(point: Path, source: str) -> None:
    subprocess.run(
        [sys.executable, "-c", DIE, point, source], check=True, timeout=HANG_S
    )


@needs_fuse
def test_a_dead_mount_of_ours_is_cleaned_away(dead: Path) -> None:
    assert is_dead(dead)
    assert dead in [entry.mountpoint for entry in own_mounts()]
    assert prepare(dead, MountOptions()) is True
    assert find_mount(dead) is None
    assert not is_dead(dead)
    assert prepare(dead, MountOptions()) is False


@needs_fuse
def test_a_dead_mount_of_another_user_is_left_alone(tmp_path: Path) -> None:
    point = tmp_path / "theirs"
    point.mkdir()
    die(point, "theirs:")
    try:
        with pytest.raises(MountpointError, match="is already a mount point: theirs:"):
            prepare(point, MountOptions())
        assert find_mount(point) is not None
    finally:
        clean_up(point)


@needs_fuse
def test_a_path_is_resolved_without_looking_at_the_mount(dead: Path) -> None:
    """Looking at a dead mount fails; at one whose daemon is stuck it never ends."""
    (dead.parent / "link").symlink_to(dead.name)
    assert real_mountpoint(dead.parent / "link") == dead
    assert real_mountpoint(dead / ".") == dead


@needs_fuse
def test_what_is_not_mounted_cannot_be_cleaned(tmp_path: Path) -> None:
    with pytest.raises(MountpointError, match="cannot detach the dead mount"):
        clean_up(tmp_path)


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert real_mountpoint(tmp_path / "a").parent == tmp_path


AS_NOBODY = """\
import os, sys
from pamfs.mountpoint import MountOptions
from pamfs.mountpoint import check_fuse
os.environ["PATH"] = sys.argv[2]
os.setuid(65534)
try:
    check_fuse(MountOptions(allow_other=sys.argv[1] == "others"))
except Exception as exc:
    print(exc)
"""


def as_nobody(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, *words],
        capture_output=True,
        check=True,
        text=True,
        timeout=HANG_S,
        cwd=Path(__file__).parents[2],
    )
    return done.stdout


@needs_fuse
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_a_message_names_what_an_ordinary_user_lacks(tmp_path: Path) -> None:
    mode = stat.S_IMODE(os.stat("/dev/fuse").st_mode)
    if mode & 0o006 != 0o006:
        assert "/dev/fuse cannot be opened: Permission" in as_nobody("", "/usr/bin")
        return
    assert "there is no fusermount3" in as_nobody("", str(tmp_path))
    assert as_nobody("", "/usr/bin:/bin") == ""
    said = as_nobody("others", "/usr/bin:/bin")
    conf = Path("/etc/fuse.conf")
    text = conf.read_text() if conf.exists() else ""
    if re.search(r"(?m)^\s*user_allow_other\s*$", text):
        assert said == ""
    else:
        assert "allow_other is not permitted" in said


@needs_fuse
def test_a_machine_with_fuse_passes() -> None:
    check_fuse(MountOptions())


@pytest.mark.skipif(os.path.exists("/dev/fuse"), reason="there is a /dev/fuse")
def test_a_machine_without_fuse_is_reported() -> None:
    with pytest.raises(NoFuseError, match="there is no /dev/fuse"):
        check_fuse(MountOptions())
