"""A vault that misbehaves: what it repeats, what it hangs with, what it sends back."""

from __future__ import annotations

import errno
import gc
from contextlib import suppress
from dataclasses import replace

import httpx
import pytest
import trio
from trio.testing import MockClock

from pamfs.config import AnswerSource, SeguraConfig, SourceKind
from pamfs.errors import LoginRefusedError, UnreachableError, VaultError
from pamfs.sessions.account.clock import Clock
from pamfs.sessions.answers import Answers
from pamfs.sessions.checkout.segura_api import SeguraHttp, VaultRefusal
from tests.conftest import LogLedger
from tests.fakes.people import FakePerson

SECRET = "correct battery"
CONFIG = SeguraConfig(
    url="https://vault.example",
    client_id=AnswerSource(SourceKind.VALUE, "app"),
    client_secret=AnswerSource(SourceKind.VALUE, SECRET),
)
NOON = 43_200.0
TOKEN = httpx.Response(200, json={"access_token": "tok", "expires_in": "3600"})


class Scripted(SeguraHttp):
    """Sends nothing; answers come from ``replies``."""

    def __init__(self, *replies: httpx.Response | None) -> None:
        self.clock = Clock(lambda: NOON)
        super().__init__("acme", CONFIG, Answers(FakePerson()), self.clock)
        self.replies = list(replies)
        self.sent: list[httpx.Request] = []

    async def _exchange(
        self, client: httpx.AsyncClient, request: httpx.Request
    ) -> httpx.Response:
        self.sent.append(request)
        reply = self.replies.pop(0)
        if reply is None:
            raise TimeoutError("no answer within 10 s")
        await trio.lowlevel.checkpoint()
        return reply


async def test_a_secret_that_the_vault_repeats_is_not_repeated_by_us() -> None:
    body = {"response": {"error": True, "message": f"wrong: {SECRET}"}}
    vault = Scripted(httpx.Response(401, json=body))
    with pytest.raises(LoginRefusedError) as caught:
        await vault.ask("GET", "/pam/credential")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_the_secret_goes_in_the_body_of_one_request_and_nowhere_else() -> None:
    vault = Scripted(TOKEN, httpx.Response(200, json={"credentials": []}))
    assert await vault.ask("GET", "/pam/credential") == {"credentials": []}
    token, listing = vault.sent
    assert token.url == "https://vault.example/api/oauth2/token"
    assert b"client_secret=correct+battery" in token.content
    assert "correct" not in str(token.url)
    assert listing.headers["authorization"] == "Bearer tok"
    assert listing.content == b""


async def test_a_token_is_used_until_shortly_before_its_end(
    autojump_clock: MockClock,
) -> None:
    good = httpx.Response(200, json={})
    vault = Scripted(TOKEN, good, good, TOKEN, good)
    await vault.ask("GET", "/a")
    await trio.sleep(3500)
    await vault.ask("GET", "/b")
    await trio.sleep(80)
    await vault.ask("GET", "/c")
    paths = [request.url.path for request in vault.sent]
    token = "/api/oauth2/token"
    assert paths == [token, "/api/a", "/api/b", token, "/api/c"]


async def test_a_redirect_is_not_followed_and_is_no_answer() -> None:
    away = httpx.Response(302, headers={"Location": "https://evil.example/"})
    vault = Scripted(TOKEN, away)
    assert isinstance(await vault.ask("GET", "/a"), VaultRefusal)
    assert len(vault.sent) == 2


@pytest.mark.parametrize(
    "body", [{}, {"access_token": ""}, {"access_token": 5}, {"access_token": "a\nb"}]
)
async def test_an_answer_without_a_usable_token_is_a_refusal(
    body: dict[str, object],
) -> None:
    with pytest.raises(LoginRefusedError, match="no token"):
        await Scripted(httpx.Response(200, json=body)).ask("GET", "/a")


async def test_a_hang_is_unreachable() -> None:
    with pytest.raises(UnreachableError, match="no answer within 10 s"):
        await Scripted(None).ask("GET", "/a")


@pytest.mark.parametrize(
    ("date", "doubts"),
    [
        ("Thu, 01 Jan 1970 12:00:10 GMT", ""),
        ("Thu, 01 Jan 1970 12:02:00 GMT", "this clock is 120 s behind the vault's"),
        ("Thu, 01 Jan 1970 11:59:00 GMT", "this clock is 60 s ahead of the vault's"),
    ],
)
async def test_what_time_it_is_for_the_vault_is_heard_and_a_difference_said_once(
    date: str, doubts: str, expect_log: LogLedger, caplog: pytest.LogCaptureFixture
) -> None:
    if doubts:
        expect_log(doubts)
    reply = httpx.Response(200, json={}, headers={"Date": date})
    vault = Scripted(TOKEN, reply, reply)
    await vault.ask("GET", "/a")
    await vault.ask("GET", "/b")
    assert vault.clock.doubts() == doubts
    assert caplog.text.count("this clock is") == bool(doubts)


@pytest.mark.parametrize("date", ["", "noon", "Thu, 99 Jan 1970 12:00:00 GMT"])
async def test_a_date_that_is_none_says_nothing_of_the_clock(date: str) -> None:
    vault = Scripted(TOKEN, httpx.Response(200, json={}, headers={"Date": date}))
    await vault.ask("GET", "/a")
    assert "the vault" not in vault.clock.doubts()


async def test_an_authorization_failure_of_status_500_is_eacces() -> None:
    text = "You are not authorized to access this resource."
    body = {"response": {"error": True, "message": text}}
    vault = Scripted(TOKEN, httpx.Response(500, json=body))
    answer = await vault.ask("GET", "/a")
    assert isinstance(answer, VaultRefusal)
    error = answer.error("it")
    assert isinstance(error, VaultError)
    assert error.code == errno.EACCES


@pytest.mark.parametrize("end", ["cancelled", "late"])
async def test_a_handshake_that_is_broken_off_leaves_no_connection(end: str) -> None:
    ended: list[bytes] = []
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    timeout_s = 0.2 if end == "late" else 10.0
    config = replace(CONFIG, url=f"https://127.0.0.1:{port}", timeout_s=timeout_s)
    vault = SeguraHttp("acme", config, Answers(FakePerson()), Clock(lambda: NOON))
    with trio.fail_after(10):
        async with listener, trio.open_nursery() as nursery:
            asking = trio.CancelScope()

            async def ask() -> None:
                with asking, suppress(UnreachableError):
                    await vault.ask("GET", "/a")

            nursery.start_soon(ask)
            stream = await listener.accept()
            async with stream:
                ended.append(await stream.receive_some())  # a hello, never answered
                if end == "cancelled":
                    asking.cancel()
                ended.append(await stream.receive_some())
    assert ended[0]
    assert ended[1] == b""
    gc.collect()  # what was left open is a warning by now, and so an error


async def test_a_vault_with_several_addresses_is_named_by_what_the_system_said() -> (
    None
):
    class TriesTwoAddresses(Scripted):
        async def _exchange(
            self, client: httpx.AsyncClient, request: httpx.Request
        ) -> httpx.Response:
            await trio.lowlevel.checkpoint()
            refusals = [OSError(errno.ECONNREFUSED, "Connection refused")] * 2
            cause = ExceptionGroup("multiple connection attempts failed", refusals)
            failure = OSError("all attempts to connect failed")
            failure.__cause__ = cause
            raise httpx.ConnectError("") from failure

    with pytest.raises(UnreachableError) as caught:
        await TriesTwoAddresses().ask("GET", "/pam/credential")
    assert "Connection refused" in str(caught.value)
    assert "sub-exception" not in str(caught.value)
