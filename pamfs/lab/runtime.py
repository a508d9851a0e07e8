"""A lab while it runs: proxy, vault, device process, files; the admin's commands.

``running`` is the one owner: it starts the device process, the proxy and the REST
interface in this order, yields the ``Lab``, and stops them in the reverse order. The
proxy's host keys and the specification stay in the lab's folder, so a second start of
the same folder is the same PAM; the CA of the vault is made at each start.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncssh

from pamfs.errors import PamfsError
from pamfs.lab.devices import SERVER_OPTIONS
from pamfs.lab.files import (
    Address,
    AuditLog,
    device_folder,
    write_all,
    write_applications,
    write_private,
)
from pamfs.lab.policy import Operator, Vault
from pamfs.lab.proxy import ProxyServer
from pamfs.lab.rest import RestApi, RestServer
from pamfs.lab.route import Premises
from pamfs.lab.spec import (
    LabSpec,
    OperatorSpec,
    TenantSpec,
    default_spec,
    fill,
    from_json,
    to_json,
)
from pamfs.processes import self_command, self_environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_DEVICES_START_S: Final = 20.0


class LabError(PamfsError):
    """The lab cannot do it; the text is one line for a person."""


class Lab:
    """A running lab; made by ``running``."""

    def __init__(self, folder: Path, spec: LabSpec, premises: Premises) -> None:
        self.folder = folder
        self.spec = spec
        self._premises = premises
        self.rest = RestApi(spec, premises.vault, premises.audit)
        self._rest_server = RestServer(folder, self.rest.answer)
        self._vault = premises.vault
        self._audit = premises.audit
        self._key = _stored_key(folder / "host_key")
        self._acceptor: asyncssh.SSHAcceptor | None = None

    @property
    def port(self) -> int:
        """The proxy's port on 127.0.0.1."""
        if self._acceptor is None:
            raise LabError("the proxy does not listen")
        return self._acceptor.get_port()

    @property
    def address(self) -> Address:
        """Where the proxy is, and its host key."""
        public = self._key.export_public_key().decode().split()
        return Address(self.port, " ".join(public[:2]), self._rest_server.port)

    def audit_events(self) -> list[dict[str, Any]]:
        """Return every event since the lab's folder was made."""
        lines = self._audit.path.read_text().splitlines()
        return [json.loads(line) for line in lines]

    async def listen(self, port: int) -> None:
        """Open the proxy's port (0: any free one)."""
        try:
            self._acceptor = await asyncssh.create_server(
                lambda: ProxyServer(self._premises),
                "127.0.0.1",
                port,
                server_host_keys=[self._key],
                server_version=self.spec.banner,
                **SERVER_OPTIONS,
            )
        except OSError as exc:
            raise LabError(f"port {port}: {exc.strerror or exc}") from exc
        await self._rest_server.listen()

    async def close(self) -> None:
        """Stop listening and end every session."""
        self.kill_sessions(reason="the lab is going down")
        if self._acceptor is not None:
            self._acceptor.close()
            await self._acceptor.wait_closed()
        await self._rest_server.close()

    async def audited(self, event: str) -> dict[str, Any]:
        """Wait until there is an ``event`` in the audit log; return the last one."""
        recorded = asyncio.Event()

        def listener(name: str) -> None:
            if name == event:
                recorded.set()

        self._audit.listeners.append(listener)
        try:
            found = [e for e in self.audit_events() if e["event"] == event]
            if not found:
                await recorded.wait()
                found = [e for e in self.audit_events() if e["event"] == event]
            return found[-1]
        finally:
            self._audit.listeners.remove(listener)

    def device_secrets(self) -> list[str]:
        """Return what only the vault knows, for a search that must not find it."""
        return [secret.reveal() for secret in self._vault.device_secrets.values()]

    # The admin's acts

    def sessions(self) -> list[dict[str, Any]]:
        """Return the sessions that hold a credential."""
        return [
            {
                "session": session.number,
                "operator": session.operator,
                "tenant": session.tenant,
                "target": session.target,
                "since": session.since,
                "reason_given": session.reason_given,
            }
            for session in self._vault.sessions.values()
        ]

    def kill_sessions(
        self, target: str | None = None, reason: str = "ended by the administrator"
    ) -> int:
        """Cut the sessions to ``target`` (None: all); return how many."""
        doomed = [
            session
            for session in self._vault.sessions.values()
            if target in (None, session.target, f"{session.tenant}/{session.target}")
        ]
        for session in doomed:
            self._audit.write(
                "killed",
                operator=session.operator,
                tenant=session.tenant,
                target=session.target,
                session=session.number,
            )
            session.cut(reason)
        return len(doomed)

    def expire(self, operator: str) -> None:
        """Let an operator's password be expired."""
        for found in self._operators(operator):
            found.is_expired = True
            self._audit.write("expired", operator=found.label)

    def lock(self, operator: str) -> None:
        """Lock an operator."""
        for found in self._operators(operator):
            found.is_locked = True
            self._audit.write("locked", operator=found.label)

    def unlock(self, operator: str) -> None:
        """Unlock an operator, forget wrong answers and a password's expiry."""
        for found in self._operators(operator):
            found.is_locked = found.is_expired = False
            found.wrong_answers = 0
            self._audit.write("unlocked", operator=found.label)

    def approve(self, target: str) -> None:
        """Approve sessions to ``target`` (``[tenant/]credential@device``)."""
        found = [
            (tenant.name, credential)
            for tenant in self.spec.tenants
            for credential in tenant.credentials
            if target in (str(credential), f"{tenant.name}/{credential}")
        ]
        if not found:
            raise LabError(f"no target is called {target!r}")
        for tenant_name, credential in found:
            key = (tenant_name, str(credential))
            self._vault.approve(*key, credential.approval_valid_s)
            self._audit.write("approved", tenant=tenant_name, target=str(credential))
            if (waiting := self._premises.approvals.pop(key, None)) is not None:
                waiting.set()

    def hold(self, target: str) -> None:
        """Take custody of ``target`` at the vault for another user."""
        if not self.rest.hold(target, "mallory"):
            raise LabError(f"no target is called {target!r}")

    def let_go(self, target: str) -> None:
        """End anybody's custody of ``target``."""
        if not self.rest.hold(target, ""):
            raise LabError(f"no target is called {target!r}")

    def custody(self) -> list[dict[str, object]]:
        """Return the credentials in custody at the vault, with their holders."""
        return self.rest.in_custody()

    def rotate_host_key(self) -> str:
        """Show a new host key from now on; return it. known_hosts stays as it is."""
        if self._acceptor is None:
            raise LabError("the proxy does not listen")
        self._key = asyncssh.generate_private_key("ssh-ed25519")
        _store_key(self.folder / "host_key", self._key)
        self._acceptor.update(server_host_keys=[self._key])
        write_private(self.folder / "known_hosts.rotated", self.address.known_hosts())
        self._audit.write("host_key_rotated")
        return self.address.host_key

    def _operators(self, label: str) -> list[Operator]:
        found = self._vault.named(label)
        if not found:
            raise LabError(f"no operator is called {label!r}")
        return found


@asynccontextmanager
async def running(
    folder: Path, spec: LabSpec | None = None, port: int = 0
) -> AsyncIterator[Lab]:
    """Run a lab in ``folder`` on the current loop.

    Without ``spec``, one that the folder remembers, else the default. Raises
    ``LabError`` when the port is taken or the devices do not start.
    """
    folder = folder.resolve()  # noqa: ASYNC240 - before there is anything to wait
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    spec, keys = _with_keys(folder, spec or _remembered(folder))
    write_private(folder / "spec.json", to_json(spec))
    for device in spec.devices:
        fill(device_folder(folder, spec, device.name), device.name)
    vault, audit = Vault(spec), AuditLog(folder / "audit.jsonl")
    device_key = asyncssh.generate_private_key("ssh-ed25519")
    process, ports = await _start_devices(folder, spec, vault, device_key)
    lab = Lab(
        folder,
        spec,
        Premises(spec, vault, audit, ports, device_key.convert_to_public()),
    )
    try:
        await lab.listen(port)
        write_all(folder, spec, lab.address, keys)
        write_applications(folder, lab.rest.applications)
        try:
            yield lab
        finally:
            await lab.close()
    finally:
        await _stop_devices(process)
        audit.close()


def _remembered(folder: Path) -> LabSpec:
    path = folder / "spec.json"
    if path.exists():
        return from_json(path.read_text(), str(path))
    return default_spec()


def _with_keys(folder: Path, spec: LabSpec) -> tuple[LabSpec, dict[str, Path]]:
    """Give each operator a key pair of the lab; return where the private ones are."""
    keys: dict[str, Path] = {}

    def operator(tenant: TenantSpec, plain: OperatorSpec) -> OperatorSpec:
        path = folder / "secrets" / f"{tenant.name}-{plain.name}.key"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        keys[f"{tenant.name}/{plain.name}"] = path
        public = _stored_key(path).export_public_key().decode().strip()
        lines = dict.fromkeys((*plain.authorized_keys, public))
        return replace(plain, authorized_keys=tuple(lines))

    tenants = tuple(
        replace(t, operators=tuple(operator(t, o) for o in t.operators))
        for t in spec.tenants
    )
    return replace(spec, tenants=tenants), keys


def _stored_key(path: Path) -> asyncssh.SSHKey:
    if path.exists():
        return asyncssh.read_private_key(path)
    key = asyncssh.generate_private_key("ssh-ed25519")
    _store_key(path, key)
    return key


def _store_key(path: Path, key: asyncssh.SSHKey) -> None:
    write_private(path, key.export_private_key().decode())


async def _start_devices(
    folder: Path, spec: LabSpec, vault: Vault, key: asyncssh.SSHKey
) -> tuple[subprocess.Popen[bytes], dict[str, int]]:
    orders = {
        "host_key": key.export_private_key().decode(),
        "devices": [
            {
                "name": device.name,
                "folder": str(device_folder(folder, spec, device.name)),
                "extensions": device.extensions,
                "latency_s": device.latency_s,
                "logins": {
                    login: secret.reveal()
                    for (name, login), secret in vault.device_secrets.items()
                    if name == device.name
                },
            }
            for device in spec.devices
            if device.sshd is None
        ],
    }
    loop = asyncio.get_running_loop()
    process = await loop.run_in_executor(None, _spawn_devices)
    try:
        async with asyncio.timeout(_DEVICES_START_S):
            line = await loop.run_in_executor(None, _order, process, orders)
        return process, json.loads(line)
    except (OSError, TimeoutError, ValueError) as exc:
        process.kill()
        raise LabError(f"the devices did not start: {exc}") from exc


def _spawn_devices() -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own module
        self_command("pamfs.lab.devices"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the lab, which ends its devices
        env=self_environment(),
        cwd="/",
    )


def _order(process: subprocess.Popen[bytes], orders: dict[str, Any]) -> bytes:
    if process.stdin is None or process.stdout is None:
        raise OSError("no pipes to the devices")
    process.stdin.write(json.dumps(orders).encode() + b"\n")
    process.stdin.flush()
    return process.stdout.readline()


async def _stop_devices(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    loop = asyncio.get_running_loop()
    try:
        await loop.run_in_executor(None, lambda: process.wait(5))
    except subprocess.TimeoutExpired:
        process.kill()
        await loop.run_in_executor(None, process.wait)
