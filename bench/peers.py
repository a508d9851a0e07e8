"""The peers: pamfs, sshfs and rclone as mounts, and ssh itself without one.

Each mount is fresh and lies in a folder of its own with the configuration that it
was started with, so that its processes are found by the name of that folder.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from bench.leftovers import clear, mounts_below
from bench.processes import (
    FailedError,
    TookTooLongError,
    Usage,
    processes_naming,
    run,
    usage_of,
    wait_until,
)
from bench.server import DEVICE, Site, user_name

MOUNT_S: Final = 60
UNMOUNT_S: Final = 20
HOST: Final = "bench"

PAMFS_CONFIG: Final = """\
[tenant.acme]
proxy = "127.0.0.1:{port}"
dialect = "segura-sftp"
operator = "alice"
key = {{ file = "{site.key}" }}
host_keys = "strict"
known_hosts = "{folder}/known_hosts"
root = "{site.remote}"

[guard]
traversal = "allow"
"""
PAMFS_TARGET: Final = """
[[tenant.acme.target]]
name = "root@{device}"
"""
# The client refuses braces in a user name on its command line, not in its file.
SSH_CONFIG: Final = """\
Host {host}
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {site.key}
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
"""
RCLONE_CONFIG: Final = """\
[{host}]
type = sftp
host = 127.0.0.1
port = {port}
user = {user}
key_file = {site.key}
known_hosts_file = {folder}/known_hosts
"""


@dataclass
class Place:
    """What a peer is given: a private folder, the site, the port to connect to."""

    folder: Path
    site: Site
    port: int
    devices: tuple[str, ...] = (DEVICE,)

    @property
    def point(self) -> Path:
        """Where the mount is."""
        return self.folder / "mnt"

    def write(self, name: str, text: str) -> Path:
        """Write a configuration, its placeholders filled in."""
        path = self.folder / name
        path.write_text(
            text.format(
                site=self.site,
                port=self.port,
                folder=self.folder,
                host=HOST,
                user=user_name(DEVICE),
            )
        )
        path.chmod(0o600)
        return path


class Peer(ABC):
    """One way to the server's files."""

    name: ClassVar[str]
    is_mount: ClassVar[bool] = True

    @abstractmethod
    def mount(self, place: Place) -> None:
        """Start it; return when its files can be used."""

    @abstractmethod
    def unmount(self, place: Place) -> None:
        """End it as its user would."""

    @abstractmethod
    def files(self, place: Place) -> Path:
        """Return the folder that shows the server's files."""

    @abstractmethod
    def version(self) -> str:
        """Return what it says of itself."""


class Pamfs(Peer):
    """pamfs as it is in this checkout."""

    name = "pamfs"

    def mount(self, place: Place) -> None:
        """Mount, with one target for each device."""
        targets = [PAMFS_TARGET.format(device=device) for device in place.devices]
        config = place.write("config.toml", PAMFS_CONFIG)
        config.write_text(config.read_text() + "".join(targets))
        # A log of its own, for the report of a failure.
        options = ["-o", f"log={place.folder}/pamfs.log"]
        command = [*self._pamfs("mount"), "--config", str(config), *options]
        # What the user of this machine was refused elsewhere is no matter here.
        env = {**os.environ, "XDG_STATE_HOME": f"{place.folder}/state"}
        run([*command, place.point], timeout_s=MOUNT_S, env=env)

    def unmount(self, place: Place) -> None:
        """Unmount."""
        run([*self._pamfs("umount"), place.point], timeout_s=UNMOUNT_S)

    def files(self, place: Place) -> Path:
        """Return the folder of the first target."""
        return self.target(place, place.devices[0])

    def target(self, place: Place, device: str) -> Path:
        """Return the folder of a device."""
        return place.point / "acme" / f"root@{device}"

    def version(self) -> str:
        """Return pamfs's version."""
        return run([*self._pamfs("--version")], timeout_s=30).splitlines()[0]

    def _pamfs(self, command: str) -> list[str]:
        return [sys.executable, "-m", "pamfs", command]


class Sshfs(Peer):
    """sshfs with its defaults."""

    name = "sshfs"

    def mount(self, place: Place) -> None:
        """Mount."""
        config = place.write("ssh_config", SSH_CONFIG)
        source = f"{HOST}:{place.site.remote}"
        run(["sshfs", "-F", config, source, place.point], timeout_s=MOUNT_S)

    def unmount(self, place: Place) -> None:
        """Unmount."""
        run(["fusermount3", "-u", place.point], timeout_s=UNMOUNT_S)

    def files(self, place: Place) -> Path:
        """Return the mount itself."""
        return place.point

    def version(self) -> str:
        """Return sshfs's version."""
        said = run(["sshfs", "-V"], timeout_s=30).splitlines()
        return next(line for line in said if line.startswith("SSHFS"))


class Rclone(Sshfs):
    """rclone mount, with the two options that it needs to write as programs do.

    Without ``--vfs-cache-mode writes`` most writes end with EINVAL or ENOTSUP. With
    it a file is stored five seconds after it was closed, which would be all that a
    row measures; ``--vfs-write-back 100ms`` stores it almost at once. With ``0s`` what
    rsync writes and then renames never came to the server complete.
    """

    name = "rclone"

    def mount(self, place: Place) -> None:
        """Mount."""
        config = place.write("rclone.conf", RCLONE_CONFIG)
        options = [
            "--daemon",
            "--vfs-cache-mode=writes",
            "--vfs-write-back=100ms",
            f"--config={config}",
            f"--cache-dir={place.folder}/cache",
        ]
        source = f"{HOST}:{place.site.remote}"
        run(["rclone", "mount", source, place.point, *options], timeout_s=MOUNT_S)

    def version(self) -> str:
        """Return rclone's version."""
        return run(["rclone", "version"], timeout_s=30).splitlines()[0]


class Ssh(Peer):
    """One connection of the ssh client, over which commands run: no mount at all."""

    name = "ssh"
    is_mount = False

    def mount(self, place: Place) -> None:
        """Connect, and stay in the background."""
        config = place.write("ssh_config", SSH_CONFIG)
        master = ["-M", "-N", "-f", "-o", f"ControlPath={place.folder}/control"]
        run(["ssh", "-F", config, *master, HOST], timeout_s=MOUNT_S)

    def unmount(self, place: Place) -> None:
        """Hang up."""
        run([*self.command(place), "-O", "exit", HOST], timeout_s=UNMOUNT_S)

    def files(self, place: Place) -> Path:
        """Return the server's folder, for use in a remote command."""
        return place.site.remote

    def version(self) -> str:
        """Return the client's version."""
        script = "ssh -V 2>&1"
        return run(["sh", "-c", script], timeout_s=30)

    def command(self, place: Place) -> list[str]:
        """Return the start of a command line that uses the connection."""
        options = ["-F", f"{place.folder}/ssh_config"]
        return ["ssh", *options, "-o", f"ControlPath={place.folder}/control"]


PEERS: Final[dict[str, Peer]] = {
    peer.name: peer for peer in (Pamfs(), Sshfs(), Rclone(), Ssh())
}


@contextlib.contextmanager
def given_place(site: Site, port: int, *devices: str) -> Iterator[Place]:
    """Make a folder for one mount; whatever is left of the mount ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=site.folder))
    place = Place(folder, site, port, devices or (DEVICE,))
    place.point.mkdir()
    place.write("known_hosts", site.known_hosts(port))
    try:
        yield place
    finally:
        _clear(place)


@contextlib.contextmanager
def mounted(peer: Peer, place: Place) -> Iterator[Path]:
    """Mount, yield the folder with the server's files, unmount.

    An unmount that fails is said aloud, and is no reason to lose a measurement.
    """
    peer.mount(place)
    yield peer.files(place)
    try:
        peer.unmount(place)
        wait_until(lambda: not is_mounted(place.point), "unmounted", within_s=10)
    except (FailedError, TookTooLongError) as error:
        print(f"\n{peer.name}: {error}", file=sys.stderr)


def usage(place: Place) -> Usage:
    """Return what the processes of a mount have used so far."""
    return usage_of(processes_naming(place.folder))


def is_mounted(point: Path) -> bool:
    """Whether the kernel lists a mount at ``point``; never touches it."""
    return bool(mounts_below(point, Path("/proc/self/mountinfo").read_text()))


def _clear(place: Place) -> None:
    """Give its processes a moment to end by themselves, then remove all of it."""
    with contextlib.suppress(FailedError):
        wait_until(
            lambda: is_mounted(place.point) or not processes_naming(place.folder),
            "its processes have ended",
            within_s=3,
        )
    clear(place.folder)
