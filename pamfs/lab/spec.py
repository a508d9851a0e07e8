"""What a lab consists of: tenants, operators, credentials with policies, devices.

The same dataclasses come from Python (tests), from JSON (``--spec FILE``), and from
``default_spec``, which has two tenants and a few devices with some files.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pyotp

from pamfs.errors import ConfigError
from pamfs.model import Secret

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed import DataclassInstance

T = TypeVar("T")

LOGIN_METHODS = ("publickey", "keyboard-interactive", "password")
CODE_PLACES = ("user", "password", "keyboard-interactive")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSpec:
    """A person of a tenant.

    ``code_in`` says where a one-time code is accepted, ``needs_code`` makes every
    login need one, whatever the credential says.
    """

    name: str
    password: Secret
    seed: Secret
    needs_code: bool = False
    code_in: tuple[str, ...] = CODE_PLACES
    methods: tuple[str, ...] = LOGIN_METHODS
    authorized_keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialSpec:
    """A credential on a device, and the policy of its use; ``*_s`` are seconds.

    ``domain`` is ``key`` or a directory domain. ``approval_limit_s`` bounds how
    long a session waits for its approval, ``approval_valid_s`` how long an
    approval serves (the product's default: 60 min, facts/pam.md#segura-approval).
    """

    name: str
    device: str
    domain: str = ""
    proto: str = "ssh"
    port: int = 22
    needs_code: bool = False
    needs_reason: bool = False
    needs_approval: bool = False
    approval_limit_s: float = 60.0
    approval_valid_s: float = 3600.0
    single_session: bool = False
    lease_s: float | None = None
    may_download: bool = True
    may_upload: bool = True

    def __str__(self) -> str:
        domain = f"{self.domain}\\" if self.domain else ""
        default = (self.proto, self.port) == ("ssh", 22)
        service = "" if default else f"{{{self.proto}.{self.port}}}"
        return f"{domain}{self.name}@{self.device}{service}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantSpec:
    """A tenant; ``dialect`` and ``otp_in`` only shape the written config.toml."""

    name: str
    operators: tuple[OperatorSpec, ...]
    credentials: tuple[CredentialSpec, ...]
    dialect: str = "segura-sftp"
    otp_in: str = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class SshdSpec:
    """A real sshd that stands for a device; ``key`` is a private key's path."""

    host: str
    port: int
    user: str
    key: str
    host_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """A device: an embedded SFTP server confined to ``folder``, or a real sshd.

    ``folder`` is below the lab's folder unless absolute. ``extensions`` limits
    what the server names (None: all it has). ``latency_s`` delays every reply.
    """

    name: str
    folder: str | None = None
    extensions: tuple[str, ...] | None = None
    latency_s: float = 0.0
    sshd: SshdSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabSpec:
    """A whole lab. ``tenants[0]`` serves names that say no tenant.

    ``banner`` is the SSH software version that the proxy shows. With "OpenSSH"
    in it clients send the arguments of SYMLINK as every OpenSSH device expects
    them; without it (as JumpServer does) some send them the other way round.
    """

    tenants: tuple[TenantSpec, ...]
    devices: tuple[DeviceSpec, ...]
    banner: str = "OpenSSH_9.2p1 PamLab"
    max_channels: int = 10
    wrong_answers_limit: int = 5


def to_json(spec: LabSpec) -> str:
    """Return ``spec`` as JSON, secrets included: the file must be private."""
    return json.dumps(_plain(spec), indent=2) + "\n"


def from_json(text: str, where: str = "spec") -> LabSpec:
    """Return the lab in ``text``; raise ``ConfigError`` naming the wrong key."""
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as exc:
        raise ConfigError(where, f"is not JSON: {exc}") from exc
    values = _values(LabSpec, raw, where)
    values["tenants"] = _each(values, "tenants", _tenant, where)
    values["devices"] = _each(values, "devices", _device, where)
    return _made(LabSpec, values, where)


def _plain(value: object) -> object:
    match value:
        case Secret():
            return value.reveal()
        case tuple():
            return [_plain(item) for item in value]
        case None | str() | int() | float():
            return value
        case _ if is_dataclass(value):
            return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
        case _:
            raise TypeError(f"{type(value).__name__} in a spec")


def _tenant(raw: object, where: str) -> TenantSpec:
    values = _values(TenantSpec, raw, where)
    values["operators"] = _each(values, "operators", _operator, where)
    values["credentials"] = _each(values, "credentials", _credential, where)
    return _made(TenantSpec, values, where)


def _operator(raw: object, where: str) -> OperatorSpec:
    values = _values(OperatorSpec, raw, where)
    for key in ("password", "seed"):
        if isinstance(values.get(key), str):
            values[key] = Secret(values[key])
    made = _made(OperatorSpec, values, where)
    _refuse_others(made.code_in, CODE_PLACES, f"{where}.code_in")
    _refuse_others(made.methods, LOGIN_METHODS, f"{where}.methods")
    try:
        pyotp.TOTP(made.seed.reveal()).at(0)
    except (ValueError, AttributeError) as exc:
        raise ConfigError(f"{where}.seed", f"is no seed: {exc}") from None
    return made


def _refuse_others(found: tuple[str, ...], known: tuple[str, ...], where: str) -> None:
    if others := sorted(set(found) - set(known)):
        raise ConfigError(where, f"has {others[0]!r}", ", ".join(known))


def _credential(raw: object, where: str) -> CredentialSpec:
    return _made(CredentialSpec, _values(CredentialSpec, raw, where), where)


def _device(raw: object, where: str) -> DeviceSpec:
    values = _values(DeviceSpec, raw, where)
    if values.get("sshd") is not None:
        sshd = _values(SshdSpec, values["sshd"], f"{where}.sshd")
        values["sshd"] = _made(SshdSpec, sshd, f"{where}.sshd")
    return _made(DeviceSpec, values, where)


def _each(
    values: dict[str, Any], key: str, read: Callable[[object, str], T], where: str
) -> tuple[T, ...]:
    items = values.get(key, ())
    if not isinstance(items, tuple):
        raise ConfigError(f"{where}.{key}", "is not a list")
    return tuple(read(item, f"{where}.{key}[{n}]") for n, item in enumerate(items))


def _values(cls: type[DataclassInstance], raw: object, where: str) -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        raise ConfigError(where, "is not an object")
    known = sorted(field.name for field in fields(cls))
    if unknown := sorted(set(raw) - set(known)):
        raise ConfigError(where, f"unknown key {unknown[0]!r}", ", ".join(known))
    return {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}


def _made(cls: type[T], values: dict[str, Any], where: str) -> T:
    try:
        return cls(**values)
    except TypeError as exc:
        raise ConfigError(where, str(exc).removeprefix(f"{cls.__name__}.")) from exc


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
        operators=(_default_operator("alice"), _default_operator("bob")),
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
        operators=(_default_operator("gwen", needs_code=True),),
        credentials=(
            CredentialSpec(name="root", device="app01"),
            CredentialSpec(name="root", device="audit02", needs_reason=True),
        ),
        otp_in="keyboard-interactive",
    )


def _default_operator(name: str, *, needs_code: bool = False) -> OperatorSpec:
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
