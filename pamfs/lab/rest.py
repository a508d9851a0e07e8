"""HTTPS on 127.0.0.1 for the vault's REST interface, with a CA of the lab's own.

HTTP/1.1, one request a connection: enough for the clients there are.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import ssl
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pamfs.lab.papers import write_private
from pamfs.lab.rest_api import Call

if TYPE_CHECKING:
    from pathlib import Path

    from pamfs.lab.rest_api import Listener

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
                writer.write(_response(status, body))
                await writer.drain()
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            pass  # whoever called has left, or speaks something else
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


def _response(status: int, body: dict[str, object]) -> bytes:
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
