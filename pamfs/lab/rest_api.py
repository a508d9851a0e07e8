"""The vault's REST interface as values: a request in, a status and a JSON out.

The shapes are those of facts/pam.md#segura-vault-answers, with numbers as texts.
``/iso`` answers as version 3.32 does and ``/api`` as 3.33. The texts of two refusals
are not documented and made up here: custody of another user, missing approval.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, unquote

from pamfs.lab.vault import device_login
from pamfs.model import Secret

if TYPE_CHECKING:
    from pamfs.lab.audit import AuditLog
    from pamfs.lab.spec import CredentialSpec, LabSpec
    from pamfs.lab.vault import Vault

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
class _Custody:
    holder: str
    ends_at: float


class RefusedError(Exception):
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
        self._custody: dict[str, _Custody] = {}
        self.is_away = False

    # The admin's acts

    def hold(self, target: str, holder: str) -> bool:
        """Let ``holder`` take what is called ``target``; "" gives it back."""
        numbers = [n for n, (t, c) in self._rows.items() if _is(target, t, c)]
        for number in numbers:
            self._custody.pop(number, None)
            if holder:
                ends_at = self._now() + CUSTODY_S
                self._custody[number] = _Custody(holder, ends_at)
        return bool(numbers)

    def in_custody(self) -> list[dict[str, object]]:
        """Return who has what."""
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
        except RefusedError as exc:
            return exc.status, _refusal(exc)

    def _split(self, path: str) -> tuple[str, str]:
        if self.is_away:
            raise RefusedError(503, 0, "The upstream server is away")
        plain = path.partition("?")[0]
        for prefix in PREFIXES:
            if plain.startswith(f"{prefix}/"):
                return prefix, plain.removeprefix(prefix)
        raise RefusedError(404, 0, "No route matched with those values.")

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
        raise RefusedError(401, 0, "Client authentication failed.")

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
                raise RefusedError(404, 0, f"Resource {parts[-1]} not found")

    def _tenant_of(self, call: Call) -> str:
        scheme, _, token = call.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer":
            raise RefusedError(404, 0, "No route matched with those values.")
        if token not in self._tokens:
            raise RefusedError(401, 0, "The resource owner denied the request.")
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
            raise RefusedError(400, 1010, "The informed id is not a credential")
        held = self._custody.get(number)
        if held and held.ends_at <= self._now():
            held = None
        application = self.applications[tenant][0]
        if held and held.holder != application:
            text = f"The credential is in custody of another user: {held.holder}"
            raise RefusedError(400, 1099, text)
        target = str(credential)
        if credential.needs_approval and not self._vault.is_approved(tenant, target):
            self._write("vault_waits", tenant, target=target)
            text = "The access request is waiting for approval"
            raise RefusedError(400, 1098, text)
        ends_at = self._now() + (credential.lease_s or CUSTODY_S)
        self._custody[number] = _Custody(application, ends_at)
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
            raise RefusedError(400, 1018, text)
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
                    raise RefusedError(400, 1009, text)
                return number, credential
        raise RefusedError(400, 1007, "Credential not found")

    def _device_rows(self) -> Iterator[Body]:
        for number, name in self._devices.items():
            yield {"id": number, "hostname": name, "ip": "127.0.0.1", "type": "Server"}

    def _device(self, tenant: str, number: str) -> Reply:
        name = self._devices.get(number)
        if name is None:
            raise RefusedError(400, 1011, "Device not found")
        services = {
            f"{credential.proto.upper()}:{credential.port}"
            for owner, credential in self._rows.values()
            if (owner, credential.device) == (tenant, name)
        }
        shown = {"id": number, "hostname": name, "ip": "127.0.0.1"}
        connectivities = ",".join(["HTTP:80", *sorted(services)])
        device = {**shown, "connectivities": connectivities}
        return 200, {**_said(name), "tenant": tenant, "device": device}

    def _now(self) -> float:
        return datetime.now(UTC).timestamp()

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


def _refusal(exc: RefusedError) -> Body:
    if not exc.number:
        return {"response": _response(exc.status, str(exc), 1)}
    text = f"{exc.number}: {exc}"
    return {
        "code": exc.status,
        "response": _response(exc.status, text, 1),
        "exception": {"code": exc.number, "message": text, "detail": None},
    }
