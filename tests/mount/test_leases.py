"""The end of a lease, as programs feel it: what was cached is gone, data is told of."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.limits import HANG_S
from tests.mount.harness import Place
from tests.mount.mounts import (
    Lab,
    Mount,
    foreground_mount,
    is_alive,
    make_folder,
    mounted,
    running_lab,
)
from tests.mount.waiting import wait_until

# Credentials that need no code: a second login need not wait for the next one.
BACKUP = b"backup@web01"
THREE = (BACKUP, b"root@db01", b"rw@files01")

# Grants for a number of seconds; one file for each credential that is held.
HELPER = """
import json, sys, time
from pathlib import Path
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
asked = json.load(sys.stdin)
path = folder / asked["target"]["name"].replace("/", ":")
if asked["action"] == "acquire":
    path.touch()
    answer = {"status": "granted", "id": path.name, "renewable": False,
              "expires_at": time.time() + seconds}
elif asked["action"] == "release":
    path.unlink(missing_ok=True)
    answer = {"status": "released"}
else:
    answer = {"status": "denied", "why": "once is enough"}
json.dump(answer, sys.stdout)
"""

# Holds a file three ways and a directory; after a line on stdin it tries each.
HOLDER = """
import errno, mmap, os, sys
path = os.fsencode(sys.argv[1])
fd = os.open(path, os.O_RDONLY)
folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
size = os.fstat(fd).st_size
mapped = mmap.mmap(fd, size, prot=mmap.PROT_READ)
assert os.pread(fd, size, 0) == mapped[:] and os.listdir(folder)
print("held", flush=True)
sys.stdin.readline()
def told(do):
    try:
        do()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "fine"
print(told(lambda: os.pread(fd, size, 0)))
print(told(lambda: os.fstat(fd)))
child = os.fork()
if child == 0:
    os._exit(mapped[0] and 0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
sys.stdin.readline()
print(told(lambda: os.close(os.open(path, os.O_RDONLY))), flush=True)
"""

# Writes numbered blocks until it is refused; says how many were accepted, and why.
WRITER = """
import errno, os, sys, threading
fd = os.open(os.fsencode(sys.argv[1]), os.O_WRONLY | os.O_CREAT, 0o600)
print("open", flush=True)
count, synced, said, told = 0, 0, "", []
def hear():
    told.append(sys.stdin.readline())
threading.Thread(target=hear, daemon=True).start()
while not said and not any(told):
    try:
        os.write(fd, b"%07d\\n" % count * 512)
        count += 1
        if count % 64 == 0:
            os.fsync(fd)
            synced = count
    except OSError as error:
        said = errno.errorcode[error.errno]
try:
    os.close(fd)
    closed = "fine"
except OSError as error:
    closed = errno.errorcode[error.errno]
print(count, synced, said or "fine", closed, flush=True)
"""
BLOCK = 8 * 512


def write_config(place: Place, lab: Lab, row: str = "") -> Path:
    """Return the lab's configuration with ``row``, and without codes.

    The same seed gives one code in 30 s, and these credentials need none.
    """
    lines = lab.config.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("otp")]
    text = "\n".join(kept).replace("[tenant.acme]", f"[tenant.acme]\n{row}")
    config = place.folder / "config-leases.toml"
    config.write_text(text)
    config.chmod(0o644)
    return config


def helper_config(place: Place, lab: Lab, lease_s: float) -> tuple[Path, Path]:
    """Return a configuration with a helper, and the folder of what is held."""
    program, held = place.folder / "helper.py", make_folder(place, "held")
    program.write_text(HELPER)
    program.chmod(0o644)
    command = f"{place.account.python} {program} {held} {lease_s:g}"
    row = f'checkout = {{ provider = "helper", command = "{command}" }}'
    return write_config(place, lab, row), held


@contextmanager
def listening(mount: Mount) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``pamfs agent`` without a terminal: it still shows what is said."""
    python = mount.place.account.python
    agent = mount.place.open([python, "-m", "pamfs", "agent", mount.point])
    try:
        assert agent.stdout is not None
        assert b"answering for" in agent.stdout.readline()
        yield agent
    finally:
        agent.kill()
        agent.communicate()


@contextmanager
def talking(place: Place, code: str, path: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that says a line when it is ready; end it whatever happens."""
    program = place.open([place.account.python, "-c", code, path])
    try:
        assert program.stdout is not None
        first = program.stdout.readline()
        assert first in {b"held\n", b"open\n"}, first + program.stdout.read()
        yield program
    finally:
        program.kill()
        program.communicate(timeout=HANG_S)


def tell(program: subprocess.Popen[bytes], lines: int) -> list[str]:
    """Send a line; return the next ``lines`` of what is said."""
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(b"\n")
    program.stdin.flush()
    return [program.stdout.readline().decode().strip() for _ in range(lines)]


def check_gone(program: subprocess.Popen[bytes]) -> None:
    """Check that a holder reads nothing of what was cached: mmap gives SIGBUS."""
    assert tell(program, 3) == ["ESTALE", "ESTALE", str(-signal.SIGBUS)]


def state_of(mount: Mount, target: bytes) -> object:
    """Return the state that ``pamfs status`` says a target is in."""
    rows = mount.status()["targets"]
    assert isinstance(rows, list)
    states = {row["target"]: row["state"] for row in rows}
    return states.get(target.decode())


def test_after_a_lock_nothing_that_was_cached_can_be_read(place: Place) -> None:
    with (
        running_lab(place) as lab,
        mounted(place, write_config(place, lab)) as mount,
    ):
        path = mount.path(b"acme", BACKUP, b"etc/motd")
        with talking(place, HOLDER, path) as holder:
            locked = place.pamfs("lock", mount.point / "acme" / os.fsdecode(BACKUP))
            assert locked.code == 0, locked.text
            check_gone(holder)
            # None of that opened a session; coming by name does.
            assert len(lab.events("connection")) == 1
            assert tell(holder, 1) == ["fine"]
            assert len(lab.events("connection")) == 2


def test_after_an_idle_end_pages_are_read_from_the_device_again(place: Place) -> None:
    with running_lab(place) as lab:
        config = write_config(place, lab, 'idle_close = "1s"')
        with mounted(place, config) as mount:
            path = mount.path(b"acme", BACKUP, b"etc/motd")
            place.run(["cat", path])
            wait_until(lambda: state_of(mount, BACKUP) == "absent", "it idles out")
            place.run(["cat", path])
            assert len(lab.events("connection")) == 2


def test_a_lease_of_known_end_is_warned_of_read_only_and_over(place: Place) -> None:
    with running_lab(place) as lab:
        config, held = helper_config(place, lab, 8)
        with foreground_mount(place, config) as (mount, log):
            target = mount.path(b"acme", BACKUP)
            with (
                listening(mount) as agent,
                talking(place, HOLDER, target + b"/etc/motd") as holder,
                talking(place, WRITER, target + b"/long-copy") as writer,
            ):
                name = "user.pamfs.lease_expires_at"
                ends = place.run(["getfattr", "--only-values", "-n", name, target])
                assert float(ends) > 1e9
                assert [path.name for path in held.iterdir()]
                assert writer.stdout is not None
                count, synced, said, closed = writer.stdout.readline().decode().split()
                assert (said, closed) == ("EROFS", "EROFS")
                assert int(synced) > 0
                stored = lab.device_folder("web01") / "long-copy"
                check_blocks(stored, int(count))
                wait_until(lambda: state_of(mount, BACKUP) == "absent", "it is over")
                check_gone(holder)
                assert list(held.iterdir()) == []
                assert len(lab.events("connection")) == 1
                agent.terminate()
                assert agent.stdout is not None
                heard = agent.stdout.read().decode()
        text = log.read_text()
        warning = r"acme/backup@web01: the lease ends at \d\d:\d\d:\d\d"
        assert re.search(warning, text)
        assert re.search(warning, heard)
        assert "acme/backup@web01/long-copy: data was not stored: " in text


def check_blocks(path: Path, count: int) -> None:
    """Check that at least ``count`` blocks of a writer are stored, and right."""
    content = path.read_bytes()
    assert len(content) >= count * BLOCK
    for number in range(count):
        block = content[number * BLOCK : (number + 1) * BLOCK]
        assert block == b"%07d\n" % number * 512


def test_a_proxy_that_cuts_without_warning_ends_no_copy(place: Place) -> None:
    with running_lab(place):
        pass  # it writes down what it consists of
    spec = place.folder / "lab/spec.json"
    facts = json.loads(spec.read_text())
    for credential in facts["tenants"][0]["credentials"]:
        credential["lease_s"] = 4.0
    spec.write_text(json.dumps(facts))
    with (
        running_lab(place) as lab,
        foreground_mount(place, write_config(place, lab)) as (mount, log),
    ):
        path = mount.path(b"acme", BACKUP, b"long-copy")
        with talking(place, WRITER, path) as writer:
            wait_until(lambda: len(lab.events("connection")) > 2, "it was cut twice")
            said, _ = writer.communicate(b"\n", timeout=HANG_S)
        count, _, *ends = said.decode().split()
        assert ends == ["fine", "fine"]
        stored = lab.device_folder("web01") / "long-copy"
        check_blocks(stored, int(count))
        assert stored.stat().st_size == int(count) * BLOCK
        assert "data was not stored" not in log.read_text()


def test_leases_of_a_killed_daemon_are_given_back_at_the_next_start(
    place: Place,
) -> None:
    with running_lab(place) as lab:
        config, held = helper_config(place, lab, 3600)
        with mounted(place, config) as mount:
            for target in THREE:
                place.run(["ls", mount.path(b"acme", target)])
            assert len(list(held.iterdir())) == 3
            (pid,) = mount.daemons()
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not is_alive(pid), "the daemon ends")
            assert len(list(held.iterdir())) == 3
            again = place.pamfs("mount", "--config", config, mount.point)
            assert again.code == 0, again.text
            wait_until(lambda: not list(held.iterdir()), "all three are given back")
            place.run(["ls", mount.path(b"acme", BACKUP)])
            assert len(list(held.iterdir())) == 1
        assert list(held.iterdir()) == []
        journals = place.folder / "state/pamfs/leases"
        assert list(journals.iterdir()) == []


def test_sigterm_checks_in(place: Place) -> None:
    with running_lab(place) as lab:
        config, held = helper_config(place, lab, 3600)
        with mounted(place, config) as mount:
            place.run(["ls", mount.path(b"acme", BACKUP)])
            (pid,) = mount.daemons()
            assert list(held.iterdir())
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not is_alive(pid), "the daemon ends")
            assert list(held.iterdir()) == []


def test_after_a_sigterm_what_a_program_holds_open_cannot_be_read(place: Place) -> None:
    with (
        running_lab(place) as lab,
        mounted(place, write_config(place, lab)) as mount,
    ):
        path = mount.path(b"acme", BACKUP, b"etc/motd")
        with talking(place, HOLDER, path) as holder:
            (pid,) = mount.daemons()
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not is_alive(pid), "the daemon ends")
            told = tell(holder, 3)
            assert "fine" not in told
            assert told[2] == str(-signal.SIGBUS)
