"""Where the kernel has habits: forgetting, listing in bulk, killing, O_DIRECT."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.limits import HANG_S
from tests.mount.conftest import World
from tests.mount.waiting import wait_until

pytestmark = pytest.mark.parametrize(
    "world",
    ["lab root", "openssh ordinary"],
    indirect=True,
    scope="module",
    ids=lambda world: world.replace(" ", "-"),
)

STATISTIC = """
import os, sys
print(os.getxattr(os.fsencode(sys.argv[1]), "user.pamfs." + sys.argv[2]).decode())
"""

MANY = 5000


def statistic(world: World, name: str) -> int:
    """Return one of the numbers that the mount tells of itself."""
    return int(world.place.python(STATISTIC, world.mount.point, name))


def fill(world: World, name: str, count: int) -> bytes:
    """Have the device hold ``count`` files; return their folder on the mount."""
    folder = Path(os.fsdecode(world.on_device(name)))
    folder.mkdir()
    for n in range(count):
        (folder / f"file {n:05}").write_bytes(b"x" * (n % 10))
    folder.chmod(0o755)
    return world.sees(name)


LIST_AND_STAT = """
import os, sys
folder = os.fsencode(sys.argv[1])
seen = {}
with os.scandir(folder) as entries:
    for entry in entries:
        assert entry.name not in seen
        seen[entry.name] = entry.stat().st_size
assert sorted(seen) == [b"file %05d" % n for n in range(len(seen))]
assert all(size == int(name[5:]) % 10 for name, size in seen.items())
print(len(seen))
"""


def test_five_thousand_entries_are_listed_with_their_attributes(world: World) -> None:
    folder = fill(world, "many", MANY)
    assert int(world.place.python(LIST_AND_STAT, folder)) == MANY


ASK_FOR_LABELS = """
import errno, os, sys
path = os.fsencode(sys.argv[1])
for name in ("security.selinux", "system.posix_acl_access", "user.foo"):
    try:
        os.getxattr(path, name)
    except OSError as exc:
        print(errno.errorcode[exc.errno])
"""


def test_labels_and_access_lists_are_said_not_to_be(world: World) -> None:
    """``ls -l`` asks for them once for all then, and not for each file."""
    folder = fill(world, "labels", 3)
    said = world.place.python(ASK_FOR_LABELS, folder + b"/file 00000")
    assert said.split() == [b"ENOTSUP", b"ENOTSUP", b"ENODATA"]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to drop the kernel's caches")
def test_what_the_kernel_forgets_is_forgotten(world: World) -> None:
    folder = fill(world, "forgotten", 2000)
    world.place.python(LIST_AND_STAT, folder)
    held = statistic(world, "inodes")
    assert held > 2000

    def is_forgotten() -> bool:
        Path("/proc/sys/vm/drop_caches").write_text("2")
        return statistic(world, "inodes") < held - 1900

    wait_until(is_forgotten, "the inode table shrinks")
    assert int(world.place.python(LIST_AND_STAT, folder)) == 2000


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to drop the kernel's caches")
def test_an_inode_number_is_the_same_after_it_was_forgotten(world: World) -> None:
    folder = fill(world, "numbers", 50)
    numbers = world.place.run(["ls", "-i", folder])
    Path("/proc/sys/vm/drop_caches").write_text("2")
    assert world.place.run(["ls", "-i", folder]) == numbers


OPEN_BY_HANDLE = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
folder, name = map(os.fsencode, os.path.split(sys.argv[1]))
handle, mount = (ctypes.c_uint * 40)(128), ctypes.c_int()
args = ctypes.byref(handle), ctypes.byref(mount)
assert libc.name_to_handle_at(-100, folder + b"/" + name, *args, 0) == 0
above = os.open(folder, os.O_RDONLY)
error = errno.EAGAIN
for turn in range(200):
    fd = libc.open_by_handle_at(above, args[0], os.O_RDONLY)
    if fd < 0:
        error = ctypes.get_errno()
        break
    os.close(fd)
    for _ in range(5):  # a dentry that was just used is spared once
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")  # an inode that has pages is never forgotten: drop them too
print(turn > 0, errno.errorcode[error])
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to drop the kernel's caches")
def test_a_file_handle_ends_with_what_the_kernel_remembers(world: World) -> None:
    if world.place.account.uid != 0:
        pytest.skip("opening by a file handle is root's")
    file = Path(os.fsdecode(world.on_device("by handle")))
    file.write_bytes(b"content")
    said = world.place.python(OPEN_BY_HANDLE, world.sees("by handle"))
    assert said.split() == [b"True", b"ESTALE"]


READ_ON = """
import sys
with open(sys.argv[1], "rb", buffering=0) as file:
    while True:
        file.seek(0)
        while file.read(1 << 16):
            print("read", flush=True)
"""


def test_a_reader_that_is_killed_leaves_nothing_behind(world: World) -> None:
    Path(os.fsdecode(world.on_device("read by the killed"))).write_bytes(b"x" * 1000000)
    path = world.sees("read by the killed")
    reader = world.place.open([world.place.account.python, "-c", READ_ON, path])
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"read\n"
        assert statistic(world, "open_files") == 1
        os.kill(reader.pid, signal.SIGKILL)
        assert reader.wait(HANG_S) == -signal.SIGKILL
    finally:
        reader.kill()
        reader.communicate(timeout=HANG_S)
    wait_until(lambda: statistic(world, "open_files") == 0, "the file is released")


PARALLEL = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
folder = os.fsencode(sys.argv[1])
def look(n):
    found = os.stat(folder + b"/file %05d" % (n % 200))
    assert found.st_size == n % 200 % 10
    try:
        os.stat(folder + b"/missing %d" % n)
    except FileNotFoundError:
        return 1
    return 0
with ThreadPoolExecutor(50) as pool:
    print(sum(pool.map(look, range(400))))
"""


def test_fifty_threads_may_stat_at_once(world: World) -> None:
    folder = fill(world, "parallel", 200)
    assert int(world.place.python(PARALLEL, folder)) == 400


DIRECT = """
import mmap, os, sys
path = os.fsencode(sys.argv[1])
buffer = mmap.mmap(-1, 1 << 20)
buffer[:] = bytes(range(256)) * 4096
fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
assert os.pwritev(fd, [buffer], 0) == 1 << 20
back = mmap.mmap(-1, 1 << 20)
assert os.preadv(fd, [back], 0) == 1 << 20
assert back[:] == buffer[:]
assert os.preadv(fd, [back], 1 << 20) == 0
os.close(fd)
with open(path, "rb") as file:
    assert file.read() == buffer[:]
"""


def test_direct_io_reads_and_writes(world: World) -> None:
    world.place.python(DIRECT, world.on_mount("direct"))
    written = Path(os.fsdecode(world.on_device("direct"))).read_bytes()
    assert written == bytes(range(256)) * 4096


GROW = """
import os, sys
with open(sys.argv[1], "ab", buffering=0) as file:
    for line in sys.stdin.buffer:
        file.write(line)
        os.fsync(file)
        print("done", flush=True)
"""


def test_an_append_goes_behind_what_the_device_has_written(world: World) -> None:
    path, there = world.on_mount("log"), Path(os.fsdecode(world.on_device("log")))
    writer = world.place.open([world.place.account.python, "-c", GROW, path])
    assert writer.stdin is not None
    assert writer.stdout is not None
    try:
        write_line(writer, b"one\n")
        with there.open("ab") as file:
            file.write(b"from the device\n" * 100)
        write_line(writer, b"two\n")
    finally:
        writer.stdin.close()
        writer.wait(HANG_S)
        writer.stdout.close()
    assert there.read_bytes() == b"one\n" + b"from the device\n" * 100 + b"two\n"


def write_line(writer: subprocess.Popen[bytes], line: bytes) -> None:
    """Have ``writer`` write ``line`` and wait until it says so."""
    assert writer.stdin is not None
    assert writer.stdout is not None
    writer.stdin.write(line)
    writer.stdin.flush()
    assert writer.stdout.readline() == b"done\n"


def test_a_change_on_the_device_is_seen_within_the_lifetime(world: World) -> None:
    there = Path(os.fsdecode(world.on_device("news")))
    there.write_bytes(b"old")
    there.chmod(0o644)
    path = world.sees("news")
    assert world.place.run(["cat", path]) == b"old"
    there.write_bytes(b"newer")
    wait_until(lambda: world.place.run(["cat", path]) == b"newer", "it is seen")
    there.unlink()
    wait_until(lambda: world.place.start(["cat", path]).code == 1, "it is gone")


def test_hard_links_of_the_device_look_like_two_files(world: World) -> None:
    folder = Path(os.fsdecode(world.on_device("linked")))
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "a").write_bytes(b"shared")
    (folder / "a").chmod(0o644)
    (folder / "b").hardlink_to(folder / "a")
    path = world.sees("linked")
    found = world.place.run(["stat", "-c", "%h %i", path + b"/a", path + b"/b"])
    (links_a, ino_a), (links_b, ino_b) = (row.split() for row in found.splitlines())
    assert links_a == links_b == b"1"
    assert ino_a != ino_b
    assert world.place.run(["cat", path + b"/b"]) == b"shared"


READ_LATER = """
import os, sys
fd = os.open(os.fsencode(sys.argv[1]), os.O_RDONLY)
print("open", flush=True)
sys.stdin.readline()
print(os.read(fd, 1 << 20) == b"old" * 100_000, os.fstat(fd).st_size, flush=True)
"""


def test_a_file_replaced_on_the_device_stays_what_it_was_for_who_has_it_open(
    world: World,
) -> None:
    there = Path(os.fsdecode(world.on_device("page")))
    there.write_bytes(b"old" * 100_000)
    there.chmod(0o644)
    path = world.sees("page")
    reader = world.place.open([world.place.account.python, "-c", READ_LATER, path])
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"open\n"
        there.with_name("page~").write_bytes(b"new" * 100_001)
        there.with_name("page~").chmod(0o644)
        there.with_name("page~").rename(there)
        wait_until(
            lambda: world.place.run(["cat", path]) == b"new" * 100_001, "it is seen"
        )
        said, _ = reader.communicate(b"\n", timeout=HANG_S)
    finally:
        reader.kill()
        reader.wait(HANG_S)
    assert said == b"True 300000\n"


REWIND = """
import os, sys
folder, device = map(os.fsencode, sys.argv[1:])
fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
assert os.listdir(fd) == ["file 00000"], os.listdir(fd)
os.unlink(device + b"/file 00000")
open(device + b"/new", "w").close()
print(os.listdir(fd))
os.close(fd)
"""


def test_a_rewind_shows_what_the_device_changed(world: World) -> None:
    folder = fill(world, "rewound", 1)
    device = Path(os.fsdecode(world.on_device("rewound")))
    device.chmod(0o777)
    said = world.place.python(REWIND, folder, os.fsencode(device))
    assert said.split() == [b"['new']"]


FRESH = """
import os, sys
folder, device = map(os.fsencode, sys.argv[1:])
os.mkdir(folder)
os.chmod(device, 0o777)
os.listdir(folder)
for turn in range(5):
    with open(device + b"/%d" % turn, "w") as file:
        file.write("x")
    with open(folder + b"/%d" % turn) as file:
        print(file.read())
"""


def test_a_name_just_made_on_the_device_is_found_at_once(world: World) -> None:
    folder = world.on_mount("just made")
    said = world.place.python(FRESH, folder, world.on_device("just made"))
    assert said.split() == [b"x"] * 5
