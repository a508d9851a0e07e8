"""The ``segura`` provider against the lab's vault: real HTTPS, both prefixes."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from pamfs.config import AnswerSource, SourceKind
from pamfs.errors import (
    ApprovalPendingError,
    CredentialBusyError,
    LoginError,
    LoginRefusedError,
    UnreachableError,
    VaultError,
)
from pamfs.lab.spec import CredentialSpec
from pamfs.model import Target
from pamfs.sessions.checkout.base import ASKED, Busy, Denied, Lease, Pending, Request
from pamfs.sessions.checkout.listing import TargetList
from pamfs.sessions.checkout.segura_api import SeguraHttp
from pamfs.transport.bridge import ThreadBridge
from tests.conftest import LogLedger
from tests.fakes.pools import borrow, status_of
from tests.integration.lab_site import spec
from tests.integration.session_site import eventually
from tests.integration.vault_site import HELD, ROOT, lease_of, vault

PREFIXES = pytest.mark.parametrize("prefix", ["/iso", "/api"])


@pytest.fixture
def bridge() -> Iterator[ThreadBridge]:
    with ThreadBridge.running() as running:
        yield running


@PREFIXES
async def test_custody_is_taken_and_given_back_and_giving_back_twice_is_success(
    prefix: str, bridge: ThreadBridge, tmp_path: Path
) -> None:
    async with vault(bridge, tmp_path) as site:
        provider = site.provider(prefix=prefix)
        lease = await lease_of(provider)
        assert lease.id.isdecimal()
        assert lease.expires_at is not None
        assert await site.in_custody() == ["root@web01"]
        await provider.release(lease)
        await provider.release(lease)
        assert await site.in_custody() == []


async def test_what_was_asked_for_in_vain_is_given_back_if_it_is_ours(
    bridge: ThreadBridge, tmp_path: Path
) -> None:
    async with vault(bridge, tmp_path) as site:
        await lease_of(site.provider())
        asked = Lease(ROOT, ASKED)
        await site.provider().release(asked)
        await site.provider().release(asked)
        assert await site.in_custody() == []
        await site.admin("hold", "root@web01")
        await site.provider().release(asked)
        assert await site.in_custody() == ["root@web01"]
        await site.provider().release(Lease(Target("acme", "root", "gone"), ASKED))


@PREFIXES
async def test_the_list_has_the_names_and_the_ports(
    prefix: str, bridge: ThreadBridge, tmp_path: Path
) -> None:
    chosen = spec()
    acme = chosen.tenants[0]
    credentials = (
        CredentialSpec(name="root", device="web01"),
        CredentialSpec(name="root", device="web01", port=2222),
        CredentialSpec(name="deploy@corp", device="web01", domain="corp"),
        CredentialSpec(name="git", device="web01", domain="key"),
    )
    chosen = replace(chosen, tenants=(replace(acme, credentials=credentials),))
    async with vault(bridge, tmp_path, chosen) as site:
        found = {str(target) for target in await site.provider().list_targets()}
        assert {"acme/root@web01", "acme/root@web01{ssh.2222}"} <= found
        assert {r"acme/corp\deploy@corp@web01", r"acme/key\git@web01"} <= found


async def test_one_token_serves_many_requests_and_a_revoked_one_is_replaced(
    bridge: ThreadBridge, tmp_path: Path
) -> None:
    async with vault(bridge, tmp_path) as site:
        provider = site.provider()
        await provider.list_targets()
        await lease_of(provider)
        assert len(await site.events("vault_token")) == 1
        site.lab.rest.revoke_tokens()
        await provider.list_targets()
        assert len(await site.events("vault_token")) == 2


async def test_a_client_certificate_is_shown(
    bridge: ThreadBridge, tmp_path: Path
) -> None:
    async with vault(bridge, tmp_path) as site:
        folder = site.lab.folder
        provider = site.provider(
            client_cert=folder / "vault-client.pem",
            client_key=folder / "vault-client.key",
        )
        await provider.list_targets()
        (token,) = await site.events("vault_token")
        assert token["certificate"] == "pamfs"


async def test_a_vault_whose_certificate_nobody_vouches_for_gets_no_secret(
    bridge: ThreadBridge, tmp_path: Path
) -> None:
    async with vault(bridge, tmp_path) as site:
        provider = site.provider(ca_file=None)
        with pytest.raises(UnreachableError, match="certificate verify failed"):
            await provider.list_targets()
        assert await site.events("vault_token") == []


WRONG = AnswerSource(SourceKind.VALUE, "wrong")


@pytest.mark.parametrize("changes", [{"client_secret": WRONG}, {"tenant": "other"}])
async def test_an_application_that_is_not_let_in_gets_eacces(
    changes: dict[str, Any], bridge: ThreadBridge, tmp_path: Path
) -> None:
    async with vault(bridge, tmp_path) as site:
        with pytest.raises(LoginRefusedError, match="authentication") as caught:
            await site.provider(**changes).list_targets()
        assert caught.value.code == errno.EACCES


async def test_a_vault_that_is_away_is_unreachable(
    bridge: ThreadBridge, tmp_path: Path
) -> None:
    async with vault(bridge, tmp_path) as site:
        provider = site.provider(url="https://127.0.0.1:1")
        with pytest.raises(UnreachableError, match=r"https://127\.0\.0\.1:1: "):
            await provider.list_targets()


async def test_custody_that_was_taken_without_an_answer_is_given_back(
    bridge: ThreadBridge, tmp_path: Path, expect_log: LogLedger
) -> None:
    expect_log("no answer")
    taken: list[str] = []

    class Lossy(SeguraHttp):
        async def _exchange(
            self, client: httpx.AsyncClient, request: httpx.Request
        ) -> httpx.Response:
            reply = await super()._exchange(client, request)
            if request.method == "GET" and request.url.path[-1].isdigit():
                taken.extend(await site.in_custody())
                raise TimeoutError("no answer")
            return reply

    async with vault(bridge, tmp_path) as site:
        acme, provider = site.tenant(), site.provider()
        provider._http.__class__ = Lossy
        async with site.pool(acme, provider) as pool:
            with pytest.raises(UnreachableError, match="no answer"):
                await borrow(pool, ROOT)
            while site.journal.leases:  # noqa: ASYNC110 - it is done beside us
                await trio.sleep(0.01)
        assert taken == ["root@web01"]
        assert await site.in_custody() == []


async def test_what_the_vault_says_of_one_credential(
    bridge: ThreadBridge, tmp_path: Path
) -> None:
    async with vault(bridge, tmp_path) as site:
        provider = site.provider()
        await site.admin("hold", "root@web01")
        assert await provider.acquire(Request(ROOT), None) == Busy("mallory")
        await site.admin("let_go", "root@web01")

        pending = await provider.acquire(Request(HELD), None)
        assert isinstance(pending, Pending)
        assert await provider.acquire(Request(HELD), pending) == pending
        await site.admin("approve", "held@web01")
        assert isinstance(await provider.acquire(Request(HELD), pending), Lease)

        missing = Target("acme", "root", "nowhere")
        assert isinstance(await provider.acquire(Request(missing), None), Denied)
        with pytest.raises(VaultError) as caught:
            await provider.acquire(Request(ROOT), Pending("4711"))
        assert caught.value.code == errno.ENOENT


async def test_a_login_is_checked_out_before_and_checked_in_after(
    bridge: ThreadBridge, tmp_path: Path
) -> None:
    async with vault(bridge, tmp_path) as site:
        async with site.pool(site.tenant()) as pool:
            await borrow(pool, ROOT)
            assert await site.in_custody() == ["root@web01"]
            assert [lease.target for lease in site.journal.leases] == [ROOT]
            assert status_of(pool, ROOT).lease_expires_at is not None
            await pool.end(ROOT)
            assert await site.in_custody() == []
            assert site.journal.leases == []
        order = [e["event"] for e in site.lab.audit_events()]
        assert order.index("vault_acquire") < order.index("login")


async def test_a_refused_login_gives_the_lease_back(
    bridge: ThreadBridge, tmp_path: Path, expect_log: LogLedger
) -> None:
    expect_log("root@web01")
    async with vault(bridge, tmp_path) as site:
        acme = site.tenant(password=WRONG)
        async with site.pool(acme) as pool:
            with pytest.raises(LoginError):
                await borrow(pool, ROOT)
            assert len(await site.events("vault_acquire")) == 1
            assert await site.in_custody() == []


async def test_a_credential_that_is_held_is_busy_and_nobody_logs_in(
    bridge: ThreadBridge, tmp_path: Path, expect_log: LogLedger
) -> None:
    expect_log("held by mallory")
    async with vault(bridge, tmp_path) as site:
        await site.admin("hold", "root@web01")
        async with site.pool(site.tenant()) as pool:
            with pytest.raises(CredentialBusyError, match="mallory"):
                await borrow(pool, ROOT)
        assert await site.events("connection") == []


async def test_an_approval_is_waited_for_and_the_next_access_goes_on_with_it(
    bridge: ThreadBridge, tmp_path: Path, expect_log: LogLedger
) -> None:
    expect_log("waits for the vault: 1098: The access request is waiting")
    async with vault(bridge, tmp_path) as site:
        acme = site.tenant(prompt_timeout_s=0.3)
        async with site.pool(acme) as pool:
            with pytest.raises(ApprovalPendingError) as caught:
                await borrow(pool, HELD)
            assert caught.value.code == errno.ETIMEDOUT
            await eventually(lambda: status_of(pool, HELD).state == "absent")
            await site.admin("approve", "held@web01")
            await borrow(pool, HELD)
            lists = await site.events("vault_list")
            assert len(lists) == 1  # the second access did not ask anew


async def test_while_an_approval_is_awaited_the_status_says_so(
    bridge: ThreadBridge, tmp_path: Path
) -> None:
    async with vault(bridge, tmp_path) as site, site.pool(site.tenant()) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(borrow, pool, HELD)
            await eventually(lambda: bool(pool.status()))
            await eventually(lambda: status_of(pool, HELD).awaiting is not None)
            assert "waiting for approval" in (status_of(pool, HELD).awaiting or "")
            await site.admin("approve", "held@web01")
        assert status_of(pool, HELD).awaiting is None


async def test_the_list_of_a_vault_that_went_away_stays_and_is_stale(
    bridge: ThreadBridge, tmp_path: Path, expect_log: LogLedger
) -> None:
    expect_log("acme: the vault's list is stale")
    async with vault(bridge, tmp_path) as site:
        fetch = site.provider(timeout_s=5).list_targets
        listing = TargetList(site.tenant(), fetch, 300, lambda: 1.0)
        assert listing.status()["is_stale"]
        await listing.refresh()
        names = await listing.names()
        assert b"root@web01" in names
        assert not listing.status()["is_stale"]
        site.lab.rest.is_away = True
        await listing.refresh()
        assert await listing.names() == names
        assert listing.status()["is_stale"]
        assert "503" in str(listing.status()["error"]) or listing.status()["error"]


async def test_no_secret_of_the_vault_is_in_a_log_or_an_error(
    bridge: ThreadBridge, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with vault(bridge, tmp_path) as site:
        async with site.pool(site.tenant()) as pool:
            await borrow(pool, ROOT)
        secret = site.lab.rest.applications["acme"][1].reveal()
        tokens = list(site.lab.rest._tokens)
        text = caplog.text
        assert tokens
        for known in [secret, *tokens, *site.lab.device_secrets()]:
            assert known not in text
        trusting_nobody = site.provider(client_cert=tmp_path / "none.pem")
        with pytest.raises(LoginError) as caught:
            await trusting_nobody.list_targets()
        assert secret not in str(caught.value)
