"""HTTPS to a Segura vault: trust, the application's token, one request at a time.

Law: neither the application's secret nor its token is in an exception or a log
line, and a request is sent to nobody whose certificate is not trusted.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx
import trio

from pamfs.config import AnswerSource, SeguraConfig
from pamfs.errors import (
    CannotAskError,
    LoginRefusedError,
    UnreachableError,
    first_failure,
)
from pamfs.model import Caller, Secret, Target
from pamfs.redaction import REDACTOR
from pamfs.sessions.account.clock import Clock
from pamfs.sessions.answers import Answers
from pamfs.sessions.checkout.segura_answers import (
    Body,
    Refusal,
    as_int,
    decode,
    refusal_of,
)
from pamfs.sessions.prompts import Question
from pamfs.sessions.questions import Kind

# A token is not used to its last second: the vault's clock is not ours.
_SPARE_S: Final = 30.0
_LIFE_S: Final = 3600.0  # facts/pam.md#segura-vault-token
_UNAUTHORIZED: Final = 401
_NOBODY: Final = Caller(pid=0, uid=0, gid=0)

logging.getLogger("httpx").setLevel(logging.WARNING)  # at INFO it says each address


class UnansweredError(UnreachableError):
    """The vault was asked, and its answer did not come: it may have done it."""


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

    async def ask(self, method: str, path: str) -> Body | Refusal:
        """Return the answer to ``method path``, below the prefix.

        Raises ``UnreachableError``, ``UnansweredError`` if it may have been heard,
        or ``LoginError`` if there is no token.
        """
        answer = await self._ask_once(method, path)
        if isinstance(answer, Refusal) and answer.status == _UNAUTHORIZED:
            self._forget_token()  # revoked, or the vault was restarted
            answer = await self._ask_once(method, path)
        return answer

    async def _ask_once(self, method: str, path: str) -> Body | Refusal:
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
            if isinstance(answer, Refusal):
                # A vault that repeats what it was sent would have it in our log.
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
    ) -> Body | Refusal:
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
        """Compare our clock with the vault's: SSH tells no time, HTTP does."""
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
        """Return a client for one request: nothing of it is left between two.

        The environment has no say: neither its proxies nor a ``.netrc``.
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

    The library lets go of one that is in the midst of its TLS handshake when it is
    cancelled, and closes nothing.
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
                await line.aclose()  # plain TCP: it waits for nobody


def _why(error: BaseException) -> str:
    """Return what the system said; nothing of what was sent is in that."""
    why = type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        # A group stands for several addresses that were tried.
        cause = first_failure(cause)
        why = str(cause) or why
        cause = cause.__cause__ or cause.__context__
    return why


def trust(config: SeguraConfig) -> ssl.SSLContext:
    """Return whom we trust and who we are, as the configuration says."""
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
        if config.client_cert:
            key = config.client_key
            context.load_cert_chain(config.client_cert, key, password=_no_passphrase)
    except (OSError, ssl.SSLError) as exc:
        raise CannotAskError(f"the vault's certificates: {exc}") from None
    return context


def _no_passphrase() -> str:
    """Keep the library from asking on a terminal of its own."""
    raise ssl.SSLError("the key has a passphrase")
