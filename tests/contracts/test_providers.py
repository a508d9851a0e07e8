"""What a checkout ``Provider`` promises, held against every provider.

A new provider is one more row of ``PROVIDERS``. What pamfs does with an answer is
tested once, with the fake (tests/unit/test_checkout.py).
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from pamfs.config import HelperConfig
from pamfs.model import Target
from pamfs.sessions.checkout.base import ASKED, Lease, Provider, Request
from pamfs.sessions.checkout.helper import HelperProvider
from pamfs.transport.bridge import ThreadBridge
from tests.fakes.tenants import WEB01
from tests.fakes.vault import FakeVault
from tests.integration.vault_site import vault

EXAMPLE = Path(__file__).parents[2] / "docs/examples/pamfs-helper-files"
WANTED = Request(WEB01, reason="patching", ticket="CHG-1")
GONE = Target("acme", "root", "gone")


@asynccontextmanager
async def _fake(_folder: Path) -> AsyncIterator[Provider]:
    yield FakeVault(takes_s=0)


@asynccontextmanager
async def _helper(folder: Path) -> AsyncIterator[Provider]:
    yield HelperProvider(HelperConfig(f"{sys.executable} {EXAMPLE} {folder}"))


@asynccontextmanager
async def _segura(folder: Path) -> AsyncIterator[Provider]:
    with ThreadBridge.running() as bridge:
        async with vault(bridge, folder) as site:
            yield site.provider()


PROVIDERS: dict[str, Callable[[Path], AbstractAsyncContextManager[Provider]]] = {
    "fake": _fake,
    "helper": _helper,
    "segura": _segura,
}
each = pytest.mark.parametrize("name", PROVIDERS)


async def granted(provider: Provider) -> Lease:
    answer = await provider.acquire(WANTED, None)
    assert isinstance(answer, Lease), answer
    assert answer.target == WEB01
    assert answer.id != ASKED
    return answer


@each
async def test_a_lease_is_given_back_and_granted_again(
    name: str, tmp_path: Path
) -> None:
    async with PROVIDERS[name](tmp_path) as provider:
        for _ in range(2):
            await provider.release(await granted(provider))


@each
async def test_giving_back_twice_is_success(name: str, tmp_path: Path) -> None:
    async with PROVIDERS[name](tmp_path) as provider:
        lease = await granted(provider)
        await provider.release(lease)
        await provider.release(lease)


@each
async def test_what_was_asked_for_without_an_answer_is_given_back(
    name: str, tmp_path: Path
) -> None:
    async with PROVIDERS[name](tmp_path) as provider:
        await granted(provider)
        for target in (WEB01, WEB01, GONE):
            await provider.release(Lease(target, ASKED))
        await granted(provider)


@each
async def test_a_renewal_has_the_same_id_and_ends_no_earlier(
    name: str, tmp_path: Path
) -> None:
    async with PROVIDERS[name](tmp_path) as provider:
        lease = await granted(provider)
        longer = await provider.renew(lease)
        if longer is not None:
            assert (longer.target, longer.id) == (lease.target, lease.id)
            assert longer.expires_at is not None
            assert longer.expires_at >= (lease.expires_at or 0)
        await provider.release(longer or lease)


@each
async def test_a_lease_is_all_that_a_provider_needs_to_give_it_back(
    name: str, tmp_path: Path
) -> None:
    async with PROVIDERS[name](tmp_path) as provider:
        lease = await granted(provider)
        stored = Lease(lease.target, lease.id)  # what the journal has after a crash
        await provider.release(stored)
        await granted(provider)
