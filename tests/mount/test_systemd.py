"""pamfs with nobody to ask: units, systemd's notices, credentials, mount(8) and fstab.

No systemd runs here: the units are judged by ``systemd-analyze``, and what systemd
would give a service (its socket, its credentials, its sandbox) is given by the test.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.limits import HANG_S
from tests.mount.accounts import ROOT, Account
from tests.mount.harness import Command, Place, own_place
from tests.mount.mounts import (
    DEVICE,
    Lab,
    Mount,
    force_off,
    is_mounted,
    make_folder,
    mounted,
    running_lab,
)
from tests.mount.waiting import wait_until

SYSTEM = ROOT / "systemd/system/pamfs@.service"
USER = ROOT / "systemd/user/pamfs.service"
HELPER = Path("/sbin/mount.pamfs")
WITHIN_S = 30.0
# Each of them gives a service a mount name space of its own (systemd.exec(5)).
PRIVATE = re.compile(
    "^(ProtectHome|ProtectSystem|Private(Tmp|Mounts|Devices|Users|Network)|ProtectProc"
    "|ProtectKernel(Tunables|Modules|Logs)|ProtectControlGroups|DynamicUser|Root.*"
    "|(ReadOnly|ReadWrite|Inaccessible|Bind|BindReadOnly|Temporary).*)=",
    re.MULTILINE,
)


@pytest.fixture
def place(root: Account) -> Iterator[Place]:
    with own_place(root) as made:
        yield made


@pytest.fixture
def lab(place: Place) -> Iterator[Lab]:
    with running_lab(place) as running:
        yield running


def analyze(place: Place, *words: str | Path) -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze: the units are not judged")
    return place.run([program, *words]).decode()


def installed(place: Place, unit: Path) -> Path:
    """Return a copy of ``unit`` for a machine on which pamfs is installed."""
    copy = place.folder / unit.name
    copy.write_text(unit.read_text().replace("/usr/bin/pamfs", "/usr/bin/true"))
    return copy


class TestTheUnits:
    @pytest.mark.parametrize("unit", [SYSTEM, USER], ids=["system", "user"])
    def test_systemd_finds_nothing_wrong(self, place: Place, unit: Path) -> None:
        whose = "--user" if unit is USER else "--system"
        file = installed(place, unit)
        assert analyze(place, "verify", whose, "--man=no", file) == ""

    def test_the_service_is_as_closed_as_a_mount_can_be(self, place: Place) -> None:
        words = ["security", "--offline=true", "--no-pager", "--threshold=45"]
        assert "OK" in analyze(place, *words, installed(place, SYSTEM))

    @pytest.mark.parametrize("unit", [SYSTEM, USER], ids=["system", "user"])
    def test_no_setting_hides_the_mount(self, unit: Path) -> None:
        assert PRIVATE.findall(unit.read_text()) == []

    def test_a_persons_unit_lets_fusermount3_mount(self) -> None:
        assert not re.search("^(NoNew|Restrict|System)", USER.read_text(), re.MULTILINE)


class Systemd:
    """The one end of the notice socket that systemd would hold."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(os.fspath(path))
        self._socket.settimeout(WITHIN_S)

    def wait_for(self, word: str) -> str:
        """Return the first notice with ``word`` in it."""
        while word not in (notice := self._socket.recv(1 << 16).decode()):
            pass
        return notice

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()


SANDBOX = [
    "setpriv",
    "--bounding-set=-all,+sys_admin",
    "--inh-caps=-all",
    "--no-new-privs",
]


@contextmanager
def service(place: Place, config: Path) -> Iterator[tuple[Mount, Systemd, int]]:
    """Run what ``ExecStart=`` runs, with the rights that the unit leaves it."""
    mount = Mount(place, make_folder(place, "mnt"))
    systemd = Systemd(place.folder / "notify")
    place.extra_env["NOTIFY_SOCKET"] = str(place.folder / "notify")
    place.extra_env["WATCHDOG_USEC"] = "1500000"
    pamfs = [place.account.python, "-m", "pamfs", "mount", "--foreground"]
    daemon = place.open([*SANDBOX, *pamfs, "--config", config, mount.point])
    try:
        yield mount, systemd, daemon.pid
    finally:
        force_off(mount)
        systemd.close()
        with suppress(subprocess.TimeoutExpired):
            daemon.communicate(timeout=HANG_S)


def with_credentials(place: Place, lab: Lab) -> Path:
    """Return a configuration whose secrets systemd hands over."""
    files = re.compile(r'\{ file = "([^"]*)/([^"/]*\.(?:password|seed))" \}')
    text = lab.config.read_text()
    folder = files.search(text)
    assert folder is not None
    place.extra_env["CREDENTIALS_DIRECTORY"] = folder[1]
    lab.config.write_text(files.sub(r'{ credential = "\2" }', text))
    return lab.config


class TestTheService:
    def test_it_says_when_it_is_ready_alive_and_stopping(
        self, place: Place, lab: Lab
    ) -> None:
        with service(place, with_credentials(place, lab)) as (mount, systemd, pid):
            assert str(mount.point) in systemd.wait_for("READY=1")
            assert mount.is_mounted
            target = mount.path(b"acme", DEVICE)
            place.run(["ls", target])
            systemd.wait_for("WATCHDOG=1")
            assert "1 ready" in systemd.wait_for("1 ready")
            place.run(["kill", "-TERM", str(pid)])
            systemd.wait_for("STOPPING=1")
            wait_until(lambda: not mount.daemons(), "the service ends")
            assert not mount.is_mounted

    def test_a_secret_is_in_no_environment(self, place: Place, lab: Lab) -> None:
        config = with_credentials(place, lab)
        with service(place, config) as (mount, systemd, pid):
            systemd.wait_for("READY=1")
            place.run(["ls", mount.path(b"acme", DEVICE)])
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        folder = Path(place.extra_env["CREDENTIALS_DIRECTORY"])
        for file in folder.glob("*.password"):
            assert file.read_bytes().strip() not in environment

    def test_a_mount_that_does_not_answer_is_not_alive(
        self, place: Place, lab: Lab
    ) -> None:
        look = """if True:
            import sys, trio
            from pathlib import Path
            from pamfs.app.systemd import goes_through
            print(trio.run(goes_through, Path(sys.argv[1]), float(sys.argv[2])))
            """
        with mounted(place, lab.config) as mount:
            assert place.python(look, mount.point, "30") == b"True\n"
            (pid,) = (str(pid) for pid in mount.daemons())
            place.run(["kill", "-STOP", pid])
            try:
                assert place.python(look, mount.point, "0.5") == b"False\n"
            finally:
                place.run(["kill", "-CONT", pid])
        # What lies below is no answer of the mount.
        assert place.python(look, mount.point, "30") == b"False\n"


@pytest.fixture
def helper(place: Place) -> Iterator[Path]:
    """Install the mount helper for the time of one test."""
    with (Path(tempfile.gettempdir()) / "pamfs-test-helper.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the tests beside this one want it too
        if HELPER.exists():
            pytest.skip(f"{HELPER} is there already: it is not ours to replace")
        yield from _installed(place)


def _installed(place: Place) -> Iterator[Path]:
    python = f"PYTHONPATH={place.account.python_path} {place.account.python} -m pamfs"
    text = (ROOT / "systemd/mount.pamfs").read_text()
    HELPER.write_text(text.replace("exec /usr/bin/pamfs", f"{python}"))
    HELPER.chmod(0o755)
    try:
        yield HELPER
    finally:
        HELPER.unlink()


@contextmanager
def unmounting(mount: Mount) -> Iterator[Mount]:
    try:
        yield mount
        mount.umount()
    finally:
        force_off(mount)


@pytest.mark.usefixtures("helper")
class TestMount8:
    def test_mount_t_pamfs_mounts(self, place: Place, lab: Lab) -> None:
        mount = Mount(place, make_folder(place, "mnt"))
        words = "_netdev,nofail,x-systemd.automount,x-gvfs-show,comment=a,ro"
        with unmounting(mount):
            place.run(["mount", "-t", "pamfs", "-o", words, lab.config, mount.point])
            assert DEVICE in place.run(["ls", mount.path(b"acme")])

    def test_a_line_of_fstab_mounts_once(self, place: Place, lab: Lab) -> None:
        mount = Mount(place, make_folder(place, "mnt"))
        fstab = place.folder / "fstab"
        options = "_netdev,nofail,user,x-systemd.idle-timeout=60"
        line = f"pamfs:{lab.config} {mount.point} pamfs {options} 0 0\n"
        fstab.write_text(line)
        with unmounting(mount):
            place.run(["mount", "-T", fstab, mount.point])
            assert mount.is_mounted
            place.run(["mount", "-a", "-T", fstab])
            assert len(mount.daemons()) == 1

    def test_setuid_mounts_as_that_user(self, place: Place, ordinary: Account) -> None:
        with own_place(ordinary) as theirs, running_lab(theirs) as lab:
            HELPER.write_text(
                HELPER.read_text()
                .replace(place.account.python, ordinary.python)
                .replace(str(place.account.python_path), str(ordinary.python_path))
            )
            mount = Mount(theirs, make_folder(theirs, "mnt"))
            options = f"setuid={ordinary.name},log={theirs.folder}/mount.log"
            with unmounting(mount):
                command = ["mount", "-t", "pamfs", "-o", options]
                place.run([*command, lab.config, mount.point])
                assert DEVICE in theirs.run(["ls", mount.path(b"acme")])
                (pid,) = mount.daemons()

                status = Path(f"/proc/{pid}/status").read_text()
                assert f"Uid:\t{ordinary.uid}\t{ordinary.uid}" in status

    def test_a_failure_has_the_code_and_the_words_of_mount(self, place: Place) -> None:
        point = make_folder(place, "mnt")
        none = place.folder / "none.toml"
        done = place.start(["mount", "-t", "pamfs", none, point])
        assert done.code == 32
        assert f"mount.pamfs: {none}: No such file" in done.text
        done = place.start(["mount", "-t", "pamfs", "-o", "bogus", none, point])
        assert done.code == 1
        assert "unknown mount option 'bogus'" in done.text
        assert not is_mounted(point)

    @pytest.mark.parametrize("way", ["by type", "by source"])
    def test_mount_fuse3_starts_pamfs_as_well(
        self, place: Place, lab: Lab, way: str
    ) -> None:
        program = place.folder / "pamfs"
        text = HELPER.read_text().replace("-m pamfs mount-helper", "-m pamfs")
        program.write_text(text)
        program.chmod(0o755)
        # mount(8) sets a PATH of its own, in which pamfs is only when installed.
        place.extra_env["PATH"] = f"{place.folder}:{place.environment()['PATH']}"
        mount = Mount(place, make_folder(place, "mnt"))
        by_type: Command = ["/sbin/mount.fuse3", lab.config, mount.point, "-t"]
        by_source: Command = ["mount", "-t", "fuse", f"{program}#{lab.config}"]
        with unmounting(mount):
            if way == "by type":
                place.run([*by_type, "fuse.pamfs"])
            else:
                place.run([*by_source, mount.point])
            assert DEVICE in place.run(["ls", mount.path(b"acme")])
