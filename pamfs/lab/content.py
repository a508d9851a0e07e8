"""The lab that one gets without a spec: two tenants, a few devices, some files."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Final

import pyotp

from pamfs.lab.spec import (
    CredentialSpec,
    DeviceSpec,
    LabSpec,
    OperatorSpec,
    TenantSpec,
)
from pamfs.model import Secret

if TYPE_CHECKING:
    from pathlib import Path

_FILES: Final[dict[str, dict[str, bytes]]] = {
    "web01": {
        "etc/motd": b"Welcome to web01. Every session is recorded.\n",
        "etc/hostname": b"web01\n",
        "etc/passwd": b"root:x:0:0:root:/root:/bin/bash\n",
        "var/log/app.log": b"".join(
            b"2024-05-01T12:%02d:%02dZ app[%d]: request %d served in %d ms\n"
            % (n // 60 % 60, n % 60, 400 + n % 3, n, n * 7 % 90)
            for n in range(200)
        ),
        "home/backup/notes.txt": b"Nightly at 02:00.\n",
        "root/.profile": b"umask 022\n",
        "srv/www/index.html": b"<h1>web01</h1>\n",
    },
    "db01": {
        "etc/hostname": b"db01\n",
        "root/.profile": b"umask 022\n",
        "var/lib/db/README": b"Data lives here.\n",
    },
}
_FOLDERS: Final = ("etc", "home", "root", "srv", "tmp", "var/log")


def default_spec() -> LabSpec:
    """Return a lab with fresh passwords and seeds."""
    return LabSpec(tenants=(_acme(), _globex()), devices=_devices())


def _acme() -> TenantSpec:
    return TenantSpec(
        name="acme",
        operators=(_operator("alice"), _operator("bob")),
        credentials=(
            CredentialSpec(name="root", device="web01", needs_code=True),
            CredentialSpec(name="backup", device="web01"),
            CredentialSpec(name="root", device="db01"),
            CredentialSpec(name="root", device="audit01", needs_reason=True),
            CredentialSpec(name="root", device="vault01", needs_approval=True),
            CredentialSpec(name="svc", device="single01", single_session=True),
            CredentialSpec(name="ro", device="files01", may_upload=False),
            CredentialSpec(name="rw", device="files01"),
            CredentialSpec(name="deploy@corp.example", device="web01"),
            CredentialSpec(name="root", device="db01", domain="key"),
            CredentialSpec(name="svc-backup", device="fs02", domain="corp", port=2222),
        ),
    )


def _globex() -> TenantSpec:
    return TenantSpec(
        name="globex",
        operators=(_operator("gwen", needs_code=True),),
        credentials=(
            CredentialSpec(name="root", device="app01"),
            CredentialSpec(name="root", device="audit02", needs_reason=True),
        ),
        otp_in="keyboard-interactive",
    )


def _operator(name: str, *, needs_code: bool = False) -> OperatorSpec:
    return OperatorSpec(
        name=name,
        password=Secret(secrets.token_urlsafe(12)),
        seed=Secret(pyotp.random_base32()),
        needs_code=needs_code,
    )


def _devices() -> tuple[DeviceSpec, ...]:
    names = "web01 db01 audit01 vault01 single01 files01 fs02 app01 audit02"
    return tuple(DeviceSpec(name=name) for name in names.split())


def fill(folder: Path, device: str) -> None:
    """Put a device's first files into ``folder``; a folder with files is left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        return
    for name in _FOLDERS:
        _folder(folder, name)
    files = _FILES.get(device, {"etc/hostname": f"{device}\n".encode()})
    for name, data in files.items():
        _folder(folder, os.path.dirname(name))  # noqa: PTH120 - a relative name
        path = folder / name
        path.write_bytes(data)
        path.chmod(0o644)


def _folder(base: Path, name: str) -> None:
    """Make ``name`` with modes that do not depend on our umask."""
    path = base
    for part in name.split("/"):
        path /= part
        if not path.exists():
            path.mkdir()
            path.chmod(0o1777 if part == "tmp" else 0o755)
