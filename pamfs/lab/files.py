"""The files that a running lab writes: configurations, secrets, facts, its audit log.

All are private. The audit log holds one JSON object per line, written at once, and
never a password, a code or a user name as it came over the wire.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pamfs.lab.spec import CredentialSpec, LabSpec, OperatorSpec, TenantSpec
    from pamfs.model import Secret


@dataclass(frozen=True, slots=True)
class Address:
    """Where the proxy listens, and the host key it shows (one authorized_keys line).

    ``rest_port`` is the vault's REST interface.
    """

    port: int
    host_key: str
    rest_port: int = 0

    @property
    def vault_url(self) -> str:
        """Where the vault's REST interface is; the prefixes are below it."""
        return f"https://127.0.0.1:{self.rest_port}"

    def known_hosts(self) -> str:
        """Return the line of a known_hosts file."""
        return f"[127.0.0.1]:{self.port} {self.host_key}\n"


def write_private(path: Path, text: str) -> None:
    """Write ``text`` atomically to a file that only its owner can read."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    new.replace(path)


def write_all(
    folder: Path, spec: LabSpec, address: Address, keys: dict[str, Path]
) -> None:
    """Write secrets, known_hosts, the configurations and ``lab.json``.

    ``keys`` has the private key file of each operator, by ``tenant/name``.
    """
    secrets = folder / "secrets"
    secrets.mkdir(mode=0o700, exist_ok=True)
    for tenant in spec.tenants:
        for operator in tenant.operators:
            stem = f"{tenant.name}-{operator.name}"
            write_private(
                secrets / f"{stem}.password", _line(operator.password.reveal())
            )
            write_private(secrets / f"{stem}.seed", _line(operator.seed.reveal()))
    write_private(folder / "known_hosts", address.known_hosts())
    for name, answers in (
        ("config.toml", _from_files),
        ("config-prompt.toml", _from_person),
        ("config-key.toml", _from_key),
    ):
        text = "\n".join(
            _tenant_toml(folder, tenant, address, answers(secrets, tenant, keys))
            for tenant in spec.tenants
            if tenant.operators
        )
        write_private(folder / name, text)
    write_private(folder / "config-vault.toml", _vault_toml(folder, spec, address))
    facts = _facts(folder, spec, address, keys)
    write_private(folder / "lab.json", json.dumps(facts, indent=2) + "\n")


def write_applications(
    folder: Path, applications: dict[str, tuple[str, Secret]]
) -> None:
    """Write what each tenant's application shows to the vault."""
    for tenant, (client_id, secret) in applications.items():
        stem = folder / "secrets" / f"{tenant}-vault"
        write_private(stem.with_suffix(".id"), _line(client_id))
        write_private(stem.with_suffix(".secret"), _line(secret.reveal()))


def _vault_toml(folder: Path, spec: LabSpec, address: Address) -> str:
    """Return a configuration that lists no target: the vault does."""
    secrets = folder / "secrets"
    found = []
    for tenant in (tenant for tenant in spec.tenants if tenant.operators):
        bare = replace(tenant, credentials=())
        stem = secrets / f"{tenant.name}-vault"
        checkout = [
            f"[tenant.{tenant.name}.checkout]",
            'provider = "segura"',
            f"url = {_quoted(address.vault_url)}",
            f"client_id = {{ file = {_quoted(stem.with_suffix('.id'))} }}",
            f"client_secret = {{ file = {_quoted(stem.with_suffix('.secret'))} }}",
            f"ca_file = {_quoted(folder / 'vault-ca.pem')}",
            f"tenant = {_quoted(tenant.name)}",
        ]
        text = _tenant_toml(folder, bare, address, _from_files(secrets, tenant, {}))
        found.append("\n".join([text, *checkout, ""]))
    return "\n".join(found)


def _line(text: str) -> str:
    return text + "\n"


def _quoted(text: object) -> str:
    """Return a TOML string: JSON's escapes are TOML's too."""
    return json.dumps(str(text))


def _from_files(secrets: Path, tenant: TenantSpec, _keys: dict[str, Path]) -> list[str]:
    stem = secrets / f"{tenant.name}-{tenant.operators[0].name}"
    return [
        f"password = {{ file = {_quoted(f'{stem}.password')} }}",
        *_code_and_reason(stem, tenant),
    ]


def _from_key(secrets: Path, tenant: TenantSpec, keys: dict[str, Path]) -> list[str]:
    operator = tenant.operators[0].name
    stem = secrets / f"{tenant.name}-{operator}"
    key = keys[f"{tenant.name}/{operator}"]
    return [f"key = {{ file = {_quoted(key)} }}", *_code_and_reason(stem, tenant)]


def _code_and_reason(stem: Path, tenant: TenantSpec) -> list[str]:
    return [
        f"otp = {{ file = {_quoted(f'{stem}.seed')} }}",
        f"otp_in = {_quoted(tenant.otp_in)}",
        'reason = "lab"',
    ]


def _from_person(
    _secrets: Path, tenant: TenantSpec, _keys: dict[str, Path]
) -> list[str]:
    return [
        "password = { prompt = true }",
        "otp = { prompt = true }",
        f"otp_in = {_quoted(tenant.otp_in)}",
        "reason = { prompt = true }",
    ]


def _tenant_toml(
    folder: Path, tenant: TenantSpec, address: Address, answers: list[str]
) -> str:
    lines = [
        f"[tenant.{tenant.name}]",
        f'proxy = "127.0.0.1:{address.port}"',
        f"dialect = {_quoted(tenant.dialect)}",
        f"operator = {_quoted(tenant.operators[0].name)}",
        *answers,
        'host_keys = "strict"',
        f"known_hosts = {_quoted(folder / 'known_hosts')}",
    ]
    for credential in tenant.credentials:
        lines += [
            "",
            f"[[tenant.{tenant.name}.target]]",
            f"name = {_quoted(credential)}",
        ]
    return "\n".join(lines) + "\n"


def device_folder(folder: Path, spec: LabSpec, device: str) -> Path:
    """Return where the files of ``device`` are."""
    found = next(d for d in spec.devices if d.name == device)
    return folder / (found.folder or f"devices/{device}")


def _facts(
    folder: Path, spec: LabSpec, address: Address, keys: dict[str, Path]
) -> dict[str, Any]:
    return {
        "host": "127.0.0.1",
        "port": address.port,
        "pid": os.getpid(),
        "host_key": address.host_key,
        "known_hosts": str(folder / "known_hosts"),
        "config": str(folder / "config.toml"),
        "config_prompt": str(folder / "config-prompt.toml"),
        "config_key": str(folder / "config-key.toml"),
        "config_vault": str(folder / "config-vault.toml"),
        "vault": {
            "url": address.vault_url,
            "prefixes": ["/iso", "/api"],
            "ca_file": str(folder / "vault-ca.pem"),
            "client_cert": str(folder / "vault-client.pem"),
            "client_key": str(folder / "vault-client.key"),
        },
        "audit_log": str(folder / "audit.jsonl"),
        "admin_socket": str(folder / "admin.sock"),
        "tenants": {t.name: _tenant_facts(t, keys) for t in spec.tenants},
        "devices": {
            device.name: {
                "folder": str(device_folder(folder, spec, device.name)),
                "sshd": device.sshd is not None,
            }
            for device in spec.devices
        },
    }


def _tenant_facts(tenant: TenantSpec, keys: dict[str, Path]) -> dict[str, Any]:
    return {
        "dialect": tenant.dialect,
        "otp_in": tenant.otp_in,
        "operators": {
            o.name: _operator_facts(o, keys[f"{tenant.name}/{o.name}"])
            for o in tenant.operators
        },
        "targets": {str(c): _policy_facts(c) for c in tenant.credentials},
    }


def _operator_facts(operator: OperatorSpec, key: Path) -> dict[str, Any]:
    return {
        "password": operator.password.reveal(),
        "seed": operator.seed.reveal(),
        "key": str(key),
        "needs_code": operator.needs_code,
        "code_in": list(operator.code_in),
        "methods": list(operator.methods),
    }


def _policy_facts(credential: CredentialSpec) -> dict[str, Any]:
    names = (
        "needs_code",
        "needs_reason",
        "needs_approval",
        "single_session",
        "lease_s",
        "may_download",
        "may_upload",
        "device",
    )
    return {name: getattr(credential, name) for name in names}


class AuditLog:
    """Appends events to a private file, and then tells the listeners their names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listeners: list[Callable[[str], None]] = []
        self._fd = os.open(
            path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
        )

    def write(self, event: str, **facts: str | float | list[str] | None) -> None:
        """Append ``event``; facts that are None or empty are left out."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        said = {k: v for k, v in facts.items() if v not in (None, "")}
        line = {"time": now, "event": event, **said}
        os.write(self._fd, json.dumps(line).encode() + b"\n")
        for listener in tuple(self.listeners):
            listener(event)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
