"""The one server of a run: OpenSSH's sshd with keys, accounts and files of its own.

Every peer logs in with the same key as the same user, a name as a PAM proxy has
them, and gets the same cipher, for the server offers one. The files lie in
memory, so that no peer waits for a disk.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.accounts import accounts
from bench.leftovers import MEMORY, PREFIX, clear, only_run
from bench.processes import run, started, wait_until

DEVICE: Final = "web01"
CIPHER: Final = "aes128-gcm@openssh.com"
MANY_TARGETS: Final = 200
ROOM_BYTES: Final = 8 << 30

SSHD_CONFIG: Final = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/user_key.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
UseDNS no
StrictModes no
Ciphers {cipher}
MaxStartups 1000
PrintMotd no
PrintLastLog no
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True)
class Site:
    """Where everything of a run lies, and the port of its server."""

    folder: Path
    port: int

    @property
    def remote(self) -> Path:
        """The server's files, as they lie on the machine itself."""
        return self.folder / "remote"

    @property
    def local(self) -> Path:
        """The client's own files, no mount."""
        return self.folder / "local"

    @property
    def key(self) -> Path:
        """The private key that all peers log in with."""
        return self.folder / "user_key"

    def known_hosts(self, port: int) -> str:
        """Return the server's host key as the client knows it at ``port``."""
        key = (self.folder / "host_key.pub").read_text()
        return f"[127.0.0.1]:{port} {key}"


def user_name(device: str) -> str:
    """Return the account by which a device is reached, as Segura has them."""
    return f"alice%acme[root@{device}{{ssh.22}}]"


def devices() -> list[str]:
    """Return the names of all devices: the one of most rows first."""
    return [DEVICE, *(f"d{number:03}" for number in range(1, MANY_TARGETS))]


@contextlib.contextmanager
def running_site() -> Iterator[Site]:
    """Make the folders, the keys and the accounts; run the server; remove it all."""
    with only_run():
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_roomy_place()))
        try:
            site = Site(folder, _free_port())
            for made in (site.remote, site.local):
                made.mkdir()
            _write_keys(site)
            with accounts([user_name(device) for device in devices()]), _sshd(site):
                yield site
        finally:
            clear(folder)


@contextlib.contextmanager
def _sshd(site: Site) -> Iterator[None]:
    config = site.folder / "sshd_config"
    config.write_text(
        SSHD_CONFIG.format(port=site.port, folder=site.folder, cipher=CIPHER)
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with started(["/usr/sbin/sshd", "-D", "-f", config]):
        wait_until(lambda: _answers(site.port), "sshd answers", within_s=10)
        yield


def _write_keys(site: Site) -> None:
    for name in ("host_key", "user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"]
        run([*command, site.folder / name], timeout_s=10)


def _roomy_place() -> Path | None:
    """Return a folder in memory with room for the files, or None for the default."""
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM_BYTES:
        return MEMORY
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
