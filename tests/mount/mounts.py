"""Labs, mounts and plain SSH servers as processes, always cleaned up."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.limits import HANG_S
from tests.mount.harness import Done, Place
from tests.mount.waiting import wait_until

DEVICE = b"root@web01"


@dataclass(frozen=True)
class Lab:
    """A running lab, and what its ``lab.json`` says."""

    place: Place
    folder: Path
    facts: Mapping[str, object]

    @property
    def config(self) -> Path:
        """Return the configuration that logs in unattended."""
        return self.folder / "config.toml"

    def device_folder(self, name: str) -> Path:
        """Return where a device's files lie on the local disk."""
        devices = self.facts["devices"]
        assert isinstance(devices, dict)
        return Path(str(devices[name]["folder"]))

    def audit(self) -> list[dict[str, object]]:
        """Return what the proxy has written down, in order."""
        path = Path(str(self.facts["audit_log"]))
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines()]

    def events(self, name: str) -> list[dict[str, object]]:
        """Return the audited events called ``name``."""
        return [entry for entry in self.audit() if entry["event"] == name]

    def admin(self, *arguments: str) -> Done:
        """Cause what a PAM causes: lock, expire, kill a session ..."""
        command, *rest = arguments
        return self.place.pamfs("lab", command, "--dir", self.folder, *rest)


@contextmanager
def running_lab(place: Place, name: str = "lab", *options: str) -> Iterator[Lab]:
    """Start a lab in a folder of ``place``, and stop it whatever happens."""
    folder = place.folder / name
    try:
        done = place.pamfs("lab", "up", "--dir", folder, *options)
        assert done.code == 0, done.text
        facts = json.loads((folder / "lab.json").read_text())
        yield Lab(place, folder, facts)
    finally:
        place.pamfs("lab", "down", "--dir", folder)
        kill_all(processes_naming(folder))


@dataclass(frozen=True)
class Mount:
    """A mounted folder; touch it through ``place`` only."""

    place: Place
    point: Path

    def path(self, *parts: bytes) -> bytes:
        """Return the path of something on the mount."""
        return b"/".join([os.fsencode(self.point), *parts])

    def status(self) -> dict[str, object]:
        """Return what ``pamfs status --json`` says of this mount."""
        done = self.place.pamfs("status", self.point, "--json")
        assert done.code == 0, done.text
        (found,) = json.loads(done.out)["mounts"]
        assert isinstance(found, dict)
        return found

    @property
    def is_mounted(self) -> bool:
        """Whether the kernel has a mount here, alive or dead."""
        return is_mounted(self.point)

    def daemons(self) -> set[int]:
        """Return the pids of the processes that serve it."""
        return processes_naming(self.point)

    def umount(self) -> None:
        """Unmount as a user would."""
        done = self.place.pamfs("umount", self.point)
        assert done.code == 0, done.text


@contextmanager
def mounted(
    place: Place, config: Path, *options: str, name: str = "mnt"
) -> Iterator[Mount]:
    """Mount ``config`` on a new folder of ``place``, and unmount it again.

    The unmount itself must succeed, unless the mount is gone by then.
    """
    point = make_folder(place, name)
    mount = Mount(place, point)
    try:
        done = place.pamfs("mount", "--config", config, *dashed(options), point)
        assert done.code == 0, done.text
        yield mount
        if mount.is_mounted and mount.daemons():
            mount.umount()
            assert not is_mounted(point)
            wait_until(lambda: not mount.daemons(), "the daemon ends")
    finally:
        force_off(mount)


@contextmanager
def foreground_mount(
    place: Place, config: Path, *options: str, name: str = "mnt"
) -> Iterator[tuple[Mount, Path]]:
    """Mount in the foreground; yield the mount and the file that its log goes to."""
    mount = Mount(place, make_folder(place, name))
    log = place.folder / f"{name}.log"
    mount_to_log = f'exec "$0" -m pamfs mount --foreground "$@" >{log.name} 2>&1'
    daemon = place.open(
        [
            "sh",
            "-c",
            mount_to_log,
            place.account.python,
            "--config",
            config,
            *dashed(options),
            mount.point,
        ]
    )
    try:
        wait_until(lambda: mount.is_mounted or daemon.poll() is not None, "it mounts")
        assert daemon.poll() is None, log.read_text()
        yield mount, log
        mount.umount()
        assert daemon.wait(HANG_S) == 0, log.read_text()
    finally:
        force_off(mount)
        daemon.communicate(timeout=HANG_S)


def dashed(options: Sequence[str]) -> list[str]:
    """Return mount options as ``-o`` wants them."""
    return ["-o", ",".join(options)] if options else []


def make_folder(place: Place, name: str) -> Path:
    """Make a folder that the account of ``place`` owns."""
    folder = place.folder / name
    folder.mkdir()
    os.chown(folder, place.account.uid, place.account.gid)
    return folder


def force_off(mount: Mount) -> None:
    """Remove whatever is left of a mount: the processes, then the mount itself."""
    if mount.daemons():
        with suppress(AssertionError):
            mount.place.pamfs("umount", mount.point, timeout_s=HANG_S)
    kill_all(mount.daemons())
    if mount.is_mounted:
        mount.place.start(["fusermount3", "-uz", mount.point])
    if mount.is_mounted and os.getuid() == 0:
        subprocess.run(["umount", "-l", mount.point], timeout=HANG_S, check=False)


def is_mounted(point: Path) -> bool:
    """Whether the kernel lists a mount at ``point``; never touches it."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split(" ")[4] == str(point) for line in lines)


def processes_naming(path: Path) -> set[int]:
    """Return the pids of the pamfs processes with ``path`` among their arguments."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            # A zombie has no arguments left, and is its parent's to reap.
            is_ours = {b"pamfs", b"pamfs.lab"}.intersection(arguments)
            if is_ours and os.fsencode(path) in arguments:
                found.add(int(entry.name))
    return found - {os.getpid()}


def processes_below(folder: Path) -> set[int]:
    """Return the pids of the processes that speak of ``folder`` or what is in it."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.fsencode(folder) in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
    return found


def kill_all(pids: set[int]) -> None:
    """Kill what the test started and what did not end by itself."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, pids)), f"{pids} end")


def is_alive(pid: int) -> bool:
    """Whether ``pid`` runs: a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}


def free_port() -> int:
    """Return a loopback port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


SSHD_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/user_key.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
Subsystem sftp {subsystem}
"""

SSHD_TENANT = """\
[tenant.acme]
proxy = "127.0.0.1:{port}"
dialect = "<credential>"
operator = "nobody"
key = {{ file = "{folder}/user_key" }}
host_keys = "strict"
known_hosts = "{folder}/known_hosts"
root = "{root}"

[[tenant.acme.target]]
name = "{user}@web01"
"""


@contextmanager
def plain_sshd(place: Place, subsystem: str = "internal-sftp") -> Iterator[Path]:
    """Run OpenSSH's server as the account; yield a configuration to mount it.

    A template of ``<credential>`` makes a plain server a proxy, so the tenant's
    only target is the account itself; its root is a folder of ``place``.
    """
    folder = make_folder(place, "sshd")
    root = make_folder(place, "device")
    port = free_port()
    for key in ("host_key", "user_key"):
        place.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key])
    host_key = (folder / "host_key.pub").read_text()
    facts = {
        "port": port,
        "folder": folder,
        "root": root,
        "user": place.account.name,
        "subsystem": subsystem,
    }
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    (folder / "sshd_config").write_text(SSHD_CONFIG.format(**facts))
    (folder / "config.toml").write_text(SSHD_TENANT.format(**facts))
    for name in ("known_hosts", "sshd_config", "config.toml"):
        (folder / name).chmod(0o644)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    server = place.open(["/usr/sbin/sshd", "-D", "-e", "-f", folder / "sshd_config"])
    try:
        wait_until(lambda: answers(port), "sshd listens")
        yield folder / "config.toml"
    finally:
        server.kill()
        with suppress(subprocess.TimeoutExpired):
            server.communicate(timeout=HANG_S)


def answers(port: int) -> bool:
    """Whether somebody accepts connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
