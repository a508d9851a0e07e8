"""A real OpenSSH server on the loopback, with a folder, a key and a port of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from getpass import getuser
from pathlib import Path

from tests.limits import HANG_S

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin")
SFTP_SERVER = "/usr/lib/openssh/sftp-server"

_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/client_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
MaxSessions 100
MaxStartups 100
Subsystem sftp {sftp}
"""


@dataclass(frozen=True)
class OpenSsh:
    """Where the server listens, and who may log in with which key.

    ``said`` has its log once it has ended.
    """

    port: int
    user: str
    client_key: Path
    known_hosts: Path
    said: list[str] = field(default_factory=list)


@contextmanager
def running_sshd(
    folder: Path,
    sftp: str = SFTP_SERVER,
    more: str = "",
    env: Mapping[str, str] | None = None,
) -> Iterator[OpenSsh]:
    """Run ``sshd`` for as long as the context lasts; it is ready when this yields.

    ``sftp`` is the command of the subsystem, for example with ``-u`` (umask) or
    ``-P`` (requests that are refused); ``more`` are lines of its configuration, and
    ``env`` is added to its environment.
    """
    assert SSHD, "no sshd: apt-get install openssh-server"
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    port = free_port()
    for name in ("host_key", "client_key"):
        make_key(folder / name)
    config = folder / "sshd_config"
    # sshd goes by the first line that names a thing.
    config.write_text(more + "\n" + _CONFIG.format(port=port, folder=folder, sftp=sftp))
    host_key = (folder / "host_key.pub").read_text()
    known_hosts = folder / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{port} {host_key}")
    command = [SSHD, "-D", "-e", "-f", str(config)]
    added = {**os.environ, **(env or {})}
    server = OpenSsh(port, getuser(), folder / "client_key", known_hosts)
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=added) as sshd:
        try:
            _wait_listening(sshd)
            yield server
        finally:
            sshd.terminate()
            _, log = sshd.communicate(timeout=HANG_S)
            server.said.extend(log.decode(errors="replace").splitlines())


def _wait_listening(sshd: subprocess.Popen[bytes]) -> None:
    assert sshd.stderr
    said = b""
    for line in sshd.stderr:
        said += line
        if line.startswith(b"Server listening"):
            return
    raise AssertionError(f"sshd did not start: {said.decode()}")


def make_key(path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)],
        check=True,
        timeout=HANG_S,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
