"""The REST API of a Segura vault: its answers as values, and HTTPS requests.

Shapes: facts/pam.md#segura-vault-answers. Errors: facts/pam.md#segura-vault-errors.
Law: the fields that hold a secret are
dropped while an answer is decoded; the proxy injects the secret, nothing here needs it.
Neither the application's secret nor its token is in an exception or a log line, and no
request is sent to a server whose certificate is not trusted.
"""

from __future__ import annotations

import errno
import logging
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx
import trio

from pamfs.config import AnswerSource, SeguraConfig
from pamfs.errors import (
    CannotAskError,
    LoginError,
    LoginRefusedError,
    UnreachableError,
    VaultError,
    first_failure,
)
from pamfs.logs import REDACTOR
from pamfs.model import Caller, Secret, Target, json_object
from pamfs.printable import one_line
from pamfs.sessions.account.clock import Clock
from pamfs.sessions.answers import Answers
from pamfs.sessions.prompts import Question
from pamfs.sessions.prompts.question import Kind
from pamfs.trusted_files import UntrustedFileError, check_private, check_trusted

_SECRETS: Final = frozenset({"password", "content", "senha", "private_key"})
_NUMBERED: Final = re.compile(r"\s*(\d{4})\s*:")
_SERVICE: Final = re.compile(r"\s*([A-Za-z][A-Za-z0-9]*)\s*:\s*(\d{1,5})\s*")
# These two are not documented (facts/pam.md#segura-vault-errors): a text must match.
_BUSY: Final = re.compile(
    r"custody of (another|other|a different|somebody|someone)|already in custody"
    r"|in use by|checked out by",
    re.IGNORECASE,
)
_WAITING: Final = re.compile(
    r"(waiting|awaiting|pending|requires?|needs?)\b.{0,30}\bapprov", re.IGNORECASE
)
_HOLDER: Final = re.compile(r"\buser: ?([\w.@\\-]+)\s*$", re.IGNORECASE)
_LONGEST_SAYING: Final = 200
_MESSAGES: Final = ("message", "mensagem", "error_description")
NOT_IN_CUSTODY: Final = 1018
SSH_KEY: Final = "SSH Key"
ERRNOS: Final[Mapping[int, int]] = {
    1002: errno.ESTALE,
    1003: errno.EINVAL,
    1004: errno.EINVAL,
    1007: errno.ENOENT,
    1008: errno.EACCES,
    1009: errno.EACCES,
    1010: errno.EINVAL,
    1011: errno.ENOENT,
    1015: errno.ENOENT,
    1016: errno.EINVAL,
    1017: errno.EACCES,
    1023: errno.ENOENT,
    1024: errno.EACCES,
    1039: errno.EPERM,
    1043: errno.EEXIST,
    1045: errno.EEXIST,
}

Body = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class CredentialRow:
    """One credential of the list; ``name`` and ``hostname`` as the vault has them."""

    id: str
    name: str
    hostname: str
    domain: str = ""
    is_key: bool = False


@dataclass(frozen=True, slots=True)
class VaultRefusal:
    """An error answer; ``number`` is 0 where the vault gave none."""

    status: int
    number: int
    text: str

    @property
    def is_busy(self) -> bool:
        """Whether another user has the credential in custody."""
        return _BUSY.search(self.text) is not None

    @property
    def is_waiting(self) -> bool:
        """Whether the request waits for an approval."""
        return not self.is_busy and _WAITING.search(self.text) is not None

    @property
    def holder(self) -> str:
        """Return the user that has it in custody, or ""."""
        found = _HOLDER.search(self.text)
        return found[1] if found else ""

    def error(self, what: str) -> LoginError:
        """Return the failure of ``what``, with the errno that fits."""
        text = f"{what}: the vault says {self.text or self.status!r}"
        if self.number in ERRNOS:
            return VaultError(text, ERRNOS[self.number])
        if "timed out" in self.text.casefold() or self.status in _BUSY_STATUS:
            return UnreachableError(text)
        if self.status == 500 and "not authorized" not in self.text.casefold():  # noqa: PLR2004
            return VaultError(text, errno.EIO)
        return VaultError(text, errno.EACCES)


# 429: too many requests; the rest is a gateway whose vault is away.
_BUSY_STATUS: Final = frozenset({408, 429, 502, 503, 504})


def decode(text: bytes) -> Body | None:
    """Return the JSON object in ``text`` without its secrets; None: it is none."""
    return json_object(text, _without_secrets)


def _without_secrets(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    return {key: value for key, value in pairs if key not in _SECRETS}


def refusal_of(status: int, body: Body | None) -> VaultRefusal | None:
    """Return what is wrong according to an answer; None: nothing."""
    response = _object(body, "response")
    is_error = response.get("error", response.get("erro")) in (True, "true", 1, "1")
    raised = _object(body, "exception")
    if status < 400 and not is_error and body is not None:  # noqa: PLR2004 - HTTP
        return None
    text = _saying(body, raised, response)
    found = _NUMBERED.match(text)
    number = as_int(raised.get("code")) or (int(found[1]) if found else 0)
    return VaultRefusal(status, number, one_line(text, _LONGEST_SAYING))


def _saying(body: Body | None, *parts: Body) -> str:
    """Return the message of an error; the gateway's own shape has it on top."""
    if body is None:
        return "no JSON object"
    texts = [part.get(key) for part in (*parts, body) for key in _MESSAGES]
    return next((text for text in texts if isinstance(text, str) and text), "")


def credentials_of(body: Body) -> list[CredentialRow]:
    """Return the rows of the list of credentials; what is no row is left out."""
    return [row for raw in _objects(body, "credentials") if (row := _credential(raw))]


def _credential(raw: Body) -> CredentialRow | None:
    number, name, hostname = (_text(raw, k) for k in ("id", "username", "hostname"))
    number = number or _text(raw, "identifier") or _text(raw, "tag")
    if not (number and name and hostname):
        return None
    is_key = _text(raw, "type").casefold() == SSH_KEY.casefold()
    return CredentialRow(number, name, hostname, _text(raw, "domain"), is_key)


def devices_of(body: Body) -> dict[str, str]:
    """Return the devices' ids by host name."""
    rows = [*_objects(body, "devices"), *_objects(body, "device")]
    return {
        hostname: number
        for raw in rows
        if (hostname := _text(raw, "hostname")) and (number := _text(raw, "id"))
    }


def services_of(body: Body) -> list[tuple[str, int]]:
    """Return ``("ssh", 22)`` and the like from a device's ``connectivities``."""
    text = _text(_object(body, "device"), "connectivities")
    found = (_SERVICE.fullmatch(part) for part in text.split(","))
    services = [(m[1].lower(), int(m[2])) for m in found if m]
    return [(proto, port) for proto, port in services if 0 < port < 1 << 16]


def id_of(body: Body) -> str:
    """Return the id in the answer to a request for one credential."""
    return _text(_object(body, "credential"), "id")


def expiry_of(body: Body) -> float | None:
    """Return when custody ends, in seconds since the epoch.

    A time without a zone is read as local time: the vault does not document its own.
    """
    text = _text(_object(body, "credential"), "expiration_time")
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except (ValueError, OverflowError, OSError):
        return None


def as_int(value: object) -> int:
    """Return a number that may be given as a text; 0 if it is neither."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0
    try:
        return int(value)
    except (ValueError, OverflowError):
        return 0


def _object(body: Body | None, key: str) -> Body:
    value = None if body is None else body.get(key)
    return value if isinstance(value, dict) else {}


def _objects(body: Body, key: str) -> Iterator[Body]:
    value = body.get(key)
    rows = value if isinstance(value, list) else []
    return (row for row in rows if isinstance(row, dict))


def _text(body: Body, key: str) -> str:
    """Return a text, also where another release has a number."""
    value = body.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value).strip()


# A token is not used to its last second: the vault's clock is not ours.
_SPARE_S: Final = 30.0
_LIFE_S: Final = 3600.0  # facts/pam.md#segura-vault-token
_UNAUTHORIZED: Final = 401
_NOBODY: Final = Caller(pid=0, uid=0, gid=0)

logging.getLogger("httpx").setLevel(logging.WARNING)  # at INFO it says each address


class UnansweredError(UnreachableError):
    """The request was sent and no answer came: the vault may have carried it out."""


class SeguraHttp:
    """Requests to one vault, on behalf of one tenant."""

    def __init__(
        self, tenant: str, config: SeguraConfig, answers: Answers, clock: Clock
    ) -> None:
        self._tenant = tenant
        self._config = config
        self._answers = answers
        self._clock = clock
        self._token: Secret | None = None
        self._token_until = 0.0
        self._turn = trio.Lock()
        self._trust: ssl.SSLContext | None = None

    async def ask(self, method: str, path: str) -> Body | VaultRefusal:
        """Return the answer to ``method path``, below the prefix.

        Raises ``UnreachableError``; ``UnansweredError`` if the request may have been
        carried out; ``LoginError`` if there is no token.
        """
        answer = await self._ask_once(method, path)
        if isinstance(answer, VaultRefusal) and answer.status == _UNAUTHORIZED:
            self._forget_token()  # revoked, or the vault was restarted
            answer = await self._ask_once(method, path)
        return answer

    async def _ask_once(self, method: str, path: str) -> Body | VaultRefusal:
        token = await self._valid_token()
        headers = {"Authorization": f"Bearer {token.reveal()}"}
        return await self._send(method, path, headers=headers)

    async def _valid_token(self) -> Secret:
        async with self._turn:
            if self._token is None or trio.current_time() >= self._token_until:
                self._forget_token()
                self._token, life_s = await self._new_token()
                self._token_until = trio.current_time() + life_s
            return self._token

    def _forget_token(self) -> None:
        if self._token is not None:
            REDACTOR.forget(self._token)
        self._token = None

    async def _new_token(self) -> tuple[Secret, float]:
        client_id = await self._fetch("client_id", self._config.client_id)
        secret = await self._fetch("client_secret", self._config.client_secret)
        REDACTOR.register(secret)
        try:
            form = {
                "grant_type": "client_credentials",
                "client_id": client_id.reveal(),
                "client_secret": secret.reveal(),
            }
            if self._config.tenant:
                form["tenant"] = self._config.tenant
            answer = await self._send("POST", "/oauth2/token", form=form)
            if isinstance(answer, VaultRefusal):
                # The vault may repeat the secret in its error text.
                said = replace(answer, text=REDACTOR.clean(answer.text))
                raise said.error("the application's token")
        finally:
            REDACTOR.forget(secret)
        value = answer.get("access_token")
        is_text = isinstance(value, str) and value.isascii() and value.isprintable()
        if not isinstance(value, str) or not value or not is_text:
            raise LoginRefusedError("the vault's answer holds no token")
        token = Secret(value)
        REDACTOR.register(token)
        life_s = as_int(answer.get("expires_in")) or _LIFE_S
        return token, max(life_s - _SPARE_S, life_s / 2)

    async def _fetch(self, what: str, source: AnswerSource) -> Secret:
        host = httpx.URL(self._config.url).host
        question = Question(
            kind=Kind.OTHER,
            text=what,
            target=Target(self._tenant, what, host),
            caller=_NOBODY,
            deadline=trio.current_time() + self._config.timeout_s,
        )
        return await self._answers.fetch(source, question)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        form: dict[str, str] | None = None,
    ) -> Body | VaultRefusal:
        vault = f"the vault at {self._config.url}"
        client = self._client()
        url = f"{self._config.url}{self._config.prefix}{path}"
        request = client.build_request(method, url, headers=headers, data=form)
        try:
            reply = await self._exchange(client, request)
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise UnreachableError(f"{vault}: {_why(exc)}") from None
        except (httpx.HTTPError, OSError) as exc:
            raise UnansweredError(f"{vault}: {_why(exc)}") from None
        self._compare_clocks(reply.headers.get("Date", ""))
        body = decode(reply.content)
        return refusal_of(reply.status_code, body) or body or {}

    def _compare_clocks(self, date: str) -> None:
        """Compare the local clock with the vault's, from HTTP's ``Date``."""
        with suppress(ValueError, OverflowError):
            self._clock.compare("the vault", parsedate_to_datetime(date).timestamp())

    async def _exchange(
        self, client: httpx.AsyncClient, request: httpx.Request
    ) -> httpx.Response:
        with trio.move_on_after(self._config.timeout_s):
            async with _closing_lines(request), client:
                return await client.send(request)
        raise TimeoutError(f"no answer within {self._config.timeout_s:g} s")

    def _client(self) -> httpx.AsyncClient:
        """Return a client for one request: no connection is kept between two.

        Proxies of the environment and a ``.netrc`` are ignored.
        """
        if self._trust is None:
            self._trust = trust(self._config)
        return httpx.AsyncClient(
            verify=self._trust,
            trust_env=False,
            follow_redirects=False,  # the token is for this host alone
            timeout=self._config.timeout_s,
        )


@asynccontextmanager
async def _closing_lines(request: httpx.Request) -> AsyncIterator[None]:
    """Close the connection of ``request`` when it is over, however it ended.

    httpx does not close a connection that is cancelled during its TLS handshake.
    """
    lines: list[trio.abc.AsyncResource] = []

    async def note(event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            lines.append(info["return_value"])

    request.extensions = {**request.extensions, "trace": note}
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            for line in lines:
                await line.aclose()  # plain TCP: closing does not wait


def _why(error: BaseException) -> str:
    """Return the system's reason; it contains nothing of the request."""
    why = type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        # A group stands for several addresses that were tried.
        cause = first_failure(cause)
        why = str(cause) or why
        cause = cause.__cause__ or cause.__context__
    return why


def trust(config: SeguraConfig) -> ssl.SSLContext:
    """Return the TLS context: the trusted CAs and our client certificate."""
    try:
        for file in (config.ca_file, config.client_cert):
            if file is not None:
                check_trusted(file)
        if config.client_key is not None:
            check_private(config.client_key)
        context = ssl.create_default_context(cafile=config.ca_file)
        if config.client_cert:
            key = config.client_key
            context.load_cert_chain(config.client_cert, key, password=_no_passphrase)
    except (OSError, ssl.SSLError, UntrustedFileError) as exc:
        raise CannotAskError(f"the vault's certificates: {exc}") from None
    return context


def _no_passphrase() -> str:
    """Refuse: OpenSSL would prompt on its own terminal otherwise."""
    raise ssl.SSLError("the key has a passphrase")
