"""Servers behind a line that fails on command, and mounts of them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyotp

from pamfs.lab.spec import (
    CredentialSpec,
    DeviceSpec,
    LabSpec,
    OperatorSpec,
    SshdSpec,
    TenantSpec,
    to_json,
)
from pamfs.model import Secret
from tests.limits import HANG_S
from tests.mount.harness import Place
from tests.mount.mounts import (
    Lab,
    Mount,
    foreground_mount,
    is_mounted,
    make_folder,
    plain_sshd,
    running_lab,
)
from tests.mount.waiting import wait_until
from tests.reliability.line import Line, running_line

TEN: Final = tuple(f"d{number:02}" for number in range(10))
# sshfs notices a silent drop by signs of life only, and sends none by default.
SSHFS_OPTIONS: Final = "reconnect,ServerAliveInterval=15,ServerAliveCountMax=3"
SSH_CONFIG: Final = """\
Host device
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {key}
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts.line
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
"""


@dataclass(frozen=True)
class Site:
    """Targets behind ``line``; ``devices`` says where their files lie on our disk."""

    place: Place
    line: Line
    config: Path
    devices: dict[bytes, Path]
    lab: Lab | None = None
    ssh_config: Path | None = None

    def configured(self, **rows: str) -> Path:
        """Return a configuration with further keys of the tenant."""
        text = "".join(f"{key} = {value}\n" for key, value in rows.items())
        changed = self.config.read_text().replace(
            "[tenant.acme]\n", f"[tenant.acme]\n{text}"
        )
        path = self.config.with_name(f"config-{len(rows)}-{abs(hash(text))}.toml")
        path.write_text(changed)
        path.chmod(0o644)
        return path


def lab_spec(devices: Sequence[DeviceSpec], *, needs_code: bool) -> LabSpec:
    """Return one tenant with the account ``root`` of each device."""
    alice = OperatorSpec(
        name="alice",
        password=Secret("right horse"),
        seed=Secret(pyotp.random_base32()),
    )
    credentials = tuple(
        CredentialSpec(name="root", device=device.name, needs_code=needs_code)
        for device in devices
    )
    acme = TenantSpec(name="acme", operators=(alice,), credentials=credentials)
    return LabSpec(tenants=(acme,), devices=tuple(devices))


@contextmanager
def lab_site(
    place: Place,
    devices: Sequence[DeviceSpec] = (DeviceSpec(name="web01"),),
    *,
    rate_bytes_s: int = 0,
    roots: dict[str, Path] | None = None,
    needs_code: bool = False,
) -> Iterator[Site]:
    """Run a lab behind a line; without codes unless they are asked for."""
    spec = place.folder / "spec.json"
    spec.write_text(to_json(lab_spec(devices, needs_code=needs_code)))
    with running_lab(place, "lab", "--spec", str(spec)) as lab:
        port = int(str(lab.facts["port"]))
        with running_line(port, rate_bytes_s=rate_bytes_s) as line:
            roots = roots or {}
            config = _through(line, port, lab.config, lab.folder / "known_hosts", place)
            text = _rooted(config.read_text(), roots)
            if not needs_code:
                # The same seed gives one code in 30 s.
                text = "".join(x for x in text.splitlines(True) if x[:3] != "otp")
            config.write_text(text)
            found = {
                f"root@{device.name}".encode(): roots.get(device.name)
                or lab.device_folder(device.name)
                for device in devices
            }
            yield Site(place, line, config, found, lab)


@contextmanager
def openssh_site(
    place: Place, subsystem: str = "internal-sftp", *, rate_bytes_s: int = 0
) -> Iterator[Site]:
    """Run OpenSSH's server behind a line, without a PAM."""
    with plain_sshd(place, subsystem) as plain:
        port = port_of(plain)
        with running_line(port, rate_bytes_s=rate_bytes_s) as line:
            config = _through(line, port, plain, plain.parent / "known_hosts", place)
            name = os.fsencode(place.account.name) + b"@web01"
            ssh_config = place.folder / "ssh_config"
            ssh_config.write_text(
                SSH_CONFIG.format(
                    port=line.port,
                    user=place.account.name,
                    key=plain.parent / "user_key",
                    folder=place.folder,
                )
            )
            devices = {name: place.folder / "device"}
            yield Site(place, line, config, devices, None, ssh_config)


@contextmanager
def behind_site(place: Place) -> Iterator[Site]:
    """Run OpenSSH's server as the device of a lab behind a line."""
    with plain_sshd(place) as plain:
        folder = plain.parent
        sshd = SshdSpec(
            host="127.0.0.1",
            port=port_of(plain),
            user=place.account.name,
            key=str(folder / "user_key"),
            host_key=(folder / "host_key.pub").read_text().strip(),
        )
        device = DeviceSpec(name="real01", sshd=sshd)
        roots = {"real01": place.folder / "device"}
        with lab_site(place, (device,), roots=roots) as site:
            yield site


def port_of(config: Path) -> int:
    """Return the port of the proxy in ``config``."""
    found = re.search(r'proxy = "127\.0\.0\.1:(\d+)"', config.read_text())
    assert found is not None
    return int(found[1])


def _through(
    line: Line, port: int, config: Path, known_hosts: Path, place: Place
) -> Path:
    """Return a configuration that goes through ``line``, and write its host key."""
    keys = place.folder / "known_hosts.line"
    keys.write_text(known_hosts.read_text().replace(f":{port} ", f":{line.port} "))
    text = config.read_text().replace(f"127.0.0.1:{port}", f"127.0.0.1:{line.port}")
    text = re.sub(r"known_hosts = .*", f'known_hosts = "{keys}"', text)
    path = place.folder / "config-line.toml"
    path.write_text(text)
    for written in (keys, path):
        written.chmod(0o644)
    return path


def _rooted(config: str, roots: dict[str, Path]) -> str:
    for device, root in roots.items():
        name = f'name = "root@{device}"\n'
        config = config.replace(name, f'{name}root = "{root}"\n')
    return config


# -- mounts --------------------------------------------------------------------


@dataclass(frozen=True)
class Mounted:
    """A mount of a site by one client; touch it through ``place`` only."""

    site: Site
    client: str
    point: Path
    log: Path
    mount: Mount | None = None
    folders: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        """Where programs run."""
        return self.site.place

    @property
    def folder(self) -> bytes:
        """Return the folder of the first target."""
        return next(iter(self.folders.values()))

    @property
    def device(self) -> Path:
        """Return where the files of the first target lie."""
        return next(iter(self.site.devices.values()))

    def there(self, name: str, target: bytes | None = None) -> bytes:
        """Return the path of ``name`` on the mount."""
        folder = self.folder if target is None else self.folders[target]
        return folder + b"/" + os.fsencode(name)

    def daemon(self) -> int:
        """Return the process that serves the mount."""
        assert self.mount is not None
        (pid,) = (pid for pid in self.mount.daemons() if _is_python(pid))
        return pid


def _is_python(pid: int) -> bool:
    return b"python" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]


@contextmanager
def by_pamfs(
    site: Site, config: Path | None = None, name: str = "mnt"
) -> Iterator[Mounted]:
    """Mount with pamfs in the foreground, as its account."""
    with foreground_mount_any_end(site.place, config or site.config, name) as (
        mount,
        log,
    ):
        folders = {t: mount.path(b"acme", t) for t in site.devices}
        yield Mounted(site, "pamfs", mount.point, log, mount, folders)


@contextmanager
def foreground_mount_any_end(
    place: Place, config: Path, name: str
) -> Iterator[tuple[Mount, Path]]:
    """As ``foreground_mount``; what the unmount says is nobody's failure here."""
    entered = foreground_mount(place, config, name=name)
    try:
        yield entered.__enter__()
    finally:
        with suppress(AssertionError):
            entered.__exit__(None, None, None)


@contextmanager
def by_sshfs(site: Site, options: str = SSHFS_OPTIONS) -> Iterator[Mounted]:
    """Mount with sshfs, as a user would who wants it to last."""
    assert site.ssh_config is not None, "sshfs is measured over plain OpenSSH"
    point = make_folder(site.place, "sshfs")
    log = site.place.folder / "sshfs.log"
    ((target, device),) = site.devices.items()
    to_log = f'exec sshfs -f -F "$0" -o "$3" "$1" "$2" >{log} 2>&1'
    source = f"device:{device}"
    daemon = site.place.open(
        ["sh", "-c", to_log, site.ssh_config, source, point, options]
    )
    try:
        wait_until(lambda: is_mounted(point) or daemon.poll() is not None, "it mounts")
        assert daemon.poll() is None, log.read_text()
        yield Mounted(site, "sshfs", point, log, None, {target: os.fsencode(point)})
    finally:
        _end_sshfs(site, point, daemon)


def _end_sshfs(site: Site, point: Path, daemon: subprocess.Popen[bytes]) -> None:
    site.line.thaw()
    site.place.start(["fusermount3", "-uz", point], timeout_s=HANG_S)
    with suppress(subprocess.TimeoutExpired):
        daemon.wait(5)
    daemon.kill()
    with suppress(subprocess.TimeoutExpired):
        daemon.communicate(timeout=HANG_S)
