"""The vault's REST interface: its answers as values, and HTTPS on 127.0.0.1.

The shapes are those of facts/pam.md#segura-vault-answers, with numbers as texts.
``/iso`` answers as version 3.32 does and ``/api`` as 3.33. The texts of two refusals
are not documented and made up here: custody of another user, missing approval. The
certificates are of a CA of the lab's own; HTTP/1.1 with one request per connection.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hmac
import ipaddress
import json
import secrets
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, unquote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pamfs.lab.files import write_private
from pamfs.lab.policy import device_login, wall_clock
from pamfs.model import Secret

if TYPE_CHECKING:
    from pathlib import Path

    from pamfs.lab.files import AuditLog
    from pamfs.lab.policy import Vault
    from pamfs.lab.spec import CredentialSpec, LabSpec

PREFIXES: Final = ("/iso", "/api")
TOKEN_LIFE_S: Final = 3600
CUSTODY_S: Final = 3600.0

Body = dict[str, object]
Reply = tuple[int, Body]


@dataclass(frozen=True, slots=True)
class Call:
    """One request, with what its connection proved."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    certificate: str = ""


@dataclass(slots=True)
class _VaultCustody:
    holder: str
    ends_at: float


class VaultRefusedError(Exception):
    """A request that is refused, with the vault's number for it."""

    def __init__(self, status: int, number: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.number = number


class RestApi:
    """What the vault answers to applications; each tenant has one."""

    def __init__(self, spec: LabSpec, vault: Vault, audit: AuditLog) -> None:
        self._vault = vault
        self._audit = audit
        self._rows = {
            str(number): (tenant.name, credential)
            for number, (tenant, credential) in enumerate(
                ((t, c) for t in spec.tenants for c in t.credentials), start=1
            )
        }
        self._devices = {str(n): d.name for n, d in enumerate(spec.devices, start=1)}
        self.applications = {
            tenant.name: (f"pamfs-{tenant.name}", Secret(secrets.token_urlsafe(24)))
            for tenant in spec.tenants
        }
        self._tokens: dict[str, str] = {}
        self._custody: dict[str, _VaultCustody] = {}
        self.is_away = False

    # The admin's acts

    def hold(self, target: str, holder: str) -> bool:
        """Let ``holder`` take what is called ``target``; "" gives it back."""
        numbers = [n for n, (t, c) in self._rows.items() if _is(target, t, c)]
        for number in numbers:
            self._custody.pop(number, None)
            if holder:
                ends_at = wall_clock() + CUSTODY_S
                self._custody[number] = _VaultCustody(holder, ends_at)
        return bool(numbers)

    def in_custody(self) -> list[dict[str, object]]:
        """Return the credentials in custody, with their holders."""
        return [
            {
                "id": number,
                "tenant": self._rows[number][0],
                "target": str(self._rows[number][1]),
                "holder": custody.holder,
            }
            for number, custody in self._custody.items()
        ]

    def revoke_tokens(self) -> None:
        """Let every token be worth nothing from now on."""
        self._tokens.clear()

    # Requests

    def answer(self, call: Call) -> Reply:
        """Return status and JSON of the answer to ``call``."""
        try:
            prefix, path = self._split(call.path)
            if path == "/oauth2/token":
                return self._token(call)
            return self._route(call, prefix, path)
        except VaultRefusedError as exc:
            return exc.status, _refusal(exc)

    def _split(self, path: str) -> tuple[str, str]:
        if self.is_away:
            raise VaultRefusedError(503, 0, "The upstream server is away")
        plain = path.partition("?")[0]
        for prefix in PREFIXES:
            if plain.startswith(f"{prefix}/"):
                return prefix, plain.removeprefix(prefix)
        raise VaultRefusedError(404, 0, "No route matched with those values.")

    def _token(self, call: Call) -> Reply:
        form = {key: values[0] for key, values in parse_qs(call.body.decode()).items()}
        for tenant, (client_id, secret) in self.applications.items():
            given = form.get("client_secret", "").encode()
            is_right = hmac.compare_digest(secret.reveal().encode(), given)
            is_right &= form.get("client_id") == client_id
            is_right &= form.get("grant_type") == "client_credentials"
            if is_right and form.get("tenant", tenant) == tenant:
                token = secrets.token_urlsafe(24)
                self._tokens[token] = tenant
                self._write("vault_token", tenant, certificate=call.certificate)
                kind = {"token_type": "Bearer", "expires_in": TOKEN_LIFE_S}
                return 200, {**kind, "access_token": token}
        raise VaultRefusedError(401, 0, "Client authentication failed.")

    def _route(self, call: Call, prefix: str, path: str) -> Reply:
        tenant = self._tenant_of(call)
        parts = [unquote(part) for part in path.strip("/").split("/")]
        match call.method, parts:
            case "GET", ["pam", "credential"]:
                return self._list(tenant, prefix)
            case "GET", ["pam", "credential", name]:
                return self._acquire(tenant, prefix, name)
            case "DELETE", ["pam", "credential", "custody", name]:
                return self._release(tenant, name)
            case "GET", ["pam", "device"]:
                return 200, {**_said("Devices"), "devices": list(self._device_rows())}
            case "GET", ["pam", "device", number]:
                return self._device(tenant, number)
            case _:
                raise VaultRefusedError(404, 0, f"Resource {parts[-1]} not found")

    def _tenant_of(self, call: Call) -> str:
        scheme, _, token = call.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer":
            raise VaultRefusedError(404, 0, "No route matched with those values.")
        if token not in self._tokens:
            raise VaultRefusedError(401, 0, "The resource owner denied the request.")
        return self._tokens[token]

    def _list(self, tenant: str, prefix: str) -> Reply:
        self._write("vault_list", tenant)
        rows = [
            _listed(number, credential, prefix)
            for number, (owner, credential) in self._rows.items()
            if owner == tenant
        ]
        return 200, {**_said(f"{len(rows)} credentials found"), "credentials": rows}

    def _acquire(self, tenant: str, prefix: str, name: str) -> Reply:
        number, credential = self._find(tenant, name)
        if credential.domain == "key":
            raise VaultRefusedError(400, 1010, "The informed id is not a credential")
        held = self._custody.get(number)
        if held and held.ends_at <= wall_clock():
            held = None
        application = self.applications[tenant][0]
        if held and held.holder != application:
            text = f"The credential is in custody of another user: {held.holder}"
            raise VaultRefusedError(400, 1099, text)
        target = str(credential)
        if credential.needs_approval and not self._vault.is_approved(tenant, target):
            self._write("vault_waits", tenant, target=target)
            text = "The access request is waiting for approval"
            raise VaultRefusedError(400, 1098, text)
        ends_at = wall_clock() + (credential.lease_s or CUSTODY_S)
        self._custody[number] = _VaultCustody(application, ends_at)
        self._write("vault_acquire", tenant, target=target)
        return 200, {
            **_said(f"Credential {number}"),
            "credential": self._shown(number, credential, prefix, ends_at),
        }

    def _shown(
        self, number: str, credential: CredentialSpec, prefix: str, ends_at: float
    ) -> Body:
        login = (credential.device, device_login(credential))
        password = self._vault.device_secrets[login].reveal()
        zoned = datetime.fromtimestamp(ends_at, UTC)
        is_old = prefix == "/iso"
        end = zoned.astimezone().replace(tzinfo=None) if is_old else zoned
        return {
            "id": number,
            ("tag" if is_old else "identifier"): f"lab-{number}",
            "username": credential.name,
            "password": password,
            "content": password,
            "hostname": credential.device,
            "domain": _domain(credential),
            "ip": "127.0.0.1",
            "port": str(credential.port),
            "expiration_time": end.isoformat(timespec="milliseconds"),
        }

    def _release(self, tenant: str, name: str) -> Reply:
        number, credential = self._find(tenant, name)
        held = self._custody.get(number)
        if held is None or held.holder != self.applications[tenant][0]:
            text = "The credential is not in the user custody"
            raise VaultRefusedError(400, 1018, text)
        del self._custody[number]
        self._write("vault_release", tenant, target=str(credential))
        return 200, _said(f"Credential custody {number} released")

    def _find(self, tenant: str, name: str) -> tuple[str, CredentialSpec]:
        for number, (owner, credential) in self._rows.items():
            called = f"{credential.name}@{credential.device}"
            # By name it fails when the name of the credential holds "@".
            if name == number or (name == called and "@" not in credential.name):
                if owner != tenant:
                    text = "You do not have access to this credential"
                    raise VaultRefusedError(400, 1009, text)
                return number, credential
        raise VaultRefusedError(400, 1007, "Credential not found")

    def _device_rows(self) -> Iterator[Body]:
        for number, name in self._devices.items():
            yield {"id": number, "hostname": name, "ip": "127.0.0.1", "type": "Server"}

    def _device(self, tenant: str, number: str) -> Reply:
        name = self._devices.get(number)
        if name is None:
            raise VaultRefusedError(400, 1011, "Device not found")
        services = {
            f"{credential.proto.upper()}:{credential.port}"
            for owner, credential in self._rows.values()
            if (owner, credential.device) == (tenant, name)
        }
        shown = {"id": number, "hostname": name, "ip": "127.0.0.1"}
        connectivities = ",".join(["HTTP:80", *sorted(services)])
        device = {**shown, "connectivities": connectivities}
        return 200, {**_said(name), "tenant": tenant, "device": device}

    def _write(self, event: str, tenant: str, **facts: str) -> None:
        self._audit.write(event, tenant=tenant, **facts)


Listener = Callable[[Call], Reply]


def _is(target: str, tenant: str, credential: CredentialSpec) -> bool:
    return target in (str(credential), f"{tenant}/{credential}")


def _listed(number: str, credential: CredentialSpec, prefix: str) -> Body:
    is_old = prefix == "/iso"
    return {
        "id": number,
        ("tag" if is_old else "identifier"): f"lab-{number}",
        "username": credential.name,
        "expiration": None,
        "hostname": credential.device,
        "management_ip": "127.0.0.1",
        "domain": _domain(credential),
        "type": "SSH Key" if credential.domain == "key" else "Local User",
        "automatic_change": "0" if is_old else False,
        "connectivity": credential.proto.upper(),
    }


def _domain(credential: CredentialSpec) -> str:
    return "" if credential.domain == "key" else credential.domain


def _said(text: str) -> Body:
    return {"response": _response(200, text, 0)}


def _response(status: int, text: str, error: int) -> Body:
    return {
        "status": status,
        "message": text,
        "error": bool(error),
        "error_code": error,
        "detail": "",
        "mensagem": text,
        "erro": bool(error),
        "cod_erro": error,
    }


def _refusal(exc: VaultRefusedError) -> Body:
    if not exc.number:
        return {"response": _response(exc.status, str(exc), 1)}
    text = f"{exc.number}: {exc}"
    return {
        "code": exc.status,
        "response": _response(exc.status, text, 1),
        "exception": {"code": exc.number, "message": text, "detail": None},
    }


_READ_S: Final = 10.0
_LARGEST_BODY: Final = 64 * 1024
_DAYS: Final = 30
CA, SERVER, CLIENT = "vault-ca", "vault-server", "vault-client"


class RestServer:
    """The listening socket; ``folder`` has its certificates."""

    def __init__(self, folder: Path, listener: Listener) -> None:
        self._folder = folder
        self._listener = listener
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        if self._server is None:
            return 0
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def listen(self) -> None:
        """Open any free port."""
        make_certificates(self._folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(
            self._folder / f"{SERVER}.pem", self._folder / f"{SERVER}.key"
        )
        context.load_verify_locations(self._folder / f"{CA}.pem")
        context.verify_mode = ssl.CERT_OPTIONAL
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, ssl=context
        )

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            async with asyncio.timeout(_READ_S):
                call = await _read(reader, _certificate_of(writer))
                status, body = self._listener(call)
                writer.write(_http_response(status, body))
                await writer.drain()
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the client has closed, or the request is not HTTP
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader, certificate: str) -> Call:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, path, _version = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    headers = {key.strip().lower(): value.strip() for key, _, value in pairs}
    size = int(headers.get("content-length", "0"))
    if not 0 <= size <= _LARGEST_BODY:
        raise ValueError("too large")
    body = await reader.readexactly(size)
    return Call(method, path, headers, body, certificate)


def _certificate_of(writer: asyncio.StreamWriter) -> str:
    shown = writer.get_extra_info("peercert") or {}
    names = dict(pair for part in shown.get("subject", ()) for pair in part)
    return str(names.get("commonName", ""))


def _http_response(status: int, body: dict[str, object]) -> bytes:
    data = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        "Content-Type: application/json\r\n"
        f"Date: {formatdate(usegmt=True)}\r\n"
        f"Content-Length: {len(data)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + data


def make_certificates(folder: Path) -> None:
    """Write a new CA, and what it certifies: the server and one client."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = _name("lab vault CA")
    ca = _builder(ca_name, ca_name, ca_key).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    _write(folder / CA, ca.sign(ca_key, hashes.SHA256()))
    address = x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))
    for stem, common_name in ((SERVER, "lab vault"), (CLIENT, "pamfs")):
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(common_name), ca_name, key)
        names = x509.SubjectAlternativeName([address])
        if stem == SERVER:
            builder = builder.add_extension(names, critical=False)
        _write(folder / stem, builder.sign(ca_key, hashes.SHA256()), key)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=_DAYS))
    )


def _write(
    stem: Path,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey | None = None,
) -> None:
    pem = serialization.Encoding.PEM
    text = certificate.public_bytes(pem).decode()
    write_private(stem.with_name(f"{stem.name}.pem"), text)
    if key is not None:
        data = key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(stem.with_name(f"{stem.name}.key"), data.decode())
