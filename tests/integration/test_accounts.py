"""Whose wrong answers count together: one key for an account, in all that counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from pamfs.config import AnswerSource, HostKeyPolicy, SourceKind, TenantConfig
from pamfs.errors import LoginError, LoginRefusedError
from pamfs.model import Target
from pamfs.naming.dialects import PRESETS, find_dialect
from pamfs.sessions.account.codes import Codes
from pamfs.sessions.account.ledger import (
    MOST_REFUSED,
    AccountHistory,
    FileStore,
    LedgerContents,
)
from pamfs.sessions.account.policy import (
    UNATTENDED_BACK_OFF_S,
    account_key,
    former_account_key,
)
from tests.conftest import LogLedger
from tests.fakes.pools import borrow
from tests.fakes.proxy import Script, scripted
from tests.fakes.tenants import tenant
from tests.integration.session_site import SessionSite, site

__all__ = ["site"]  # the fixture

RIGHT = AnswerSource(SourceKind.VALUE, "hunter2")
WRONG = AnswerSource(SourceKind.VALUE, "wrong horse")
ACME, GLOBEX = (Target(name, "root", "web01") for name in ("acme", "globex"))


def tenants(
    script: Script, port: int, dialect: str, **changes: Any
) -> Iterator[TenantConfig]:
    """Yield acme and globex, behind one proxy and with operators of one name."""
    for name in ("acme", "globex"):
        settings: dict[str, Any] = {
            "name": name,
            "port": port,
            "dialect": find_dialect(dialect),
            "host_keys": HostKeyPolicy.PINNED,
            "host_key": script.host_key.get_fingerprint(),
            "cooldown_s": 0.0,
            "password": WRONG,
            **changes,
        }
        yield tenant(**settings)


async def test_operators_of_one_name_in_two_tenants_are_two_accounts(
    site: SessionSite, expect_log: LogLedger
) -> None:
    """The user name says the tenant, so the PAM tells them apart."""
    expect_log("acme/root@web01: .*refused the login")
    site.spares_account = True
    script = Script(site.folder)
    async with scripted(site.bridge, script) as port:
        acme, globex = tenants(script, port, "segura-sftp")
        right = next(
            tenants(script, port, "segura-sftp", name="globex", password=RIGHT)
        )
        del globex
        async with site.pool(acme, right) as pool:
            with pytest.raises(LoginRefusedError):
                await borrow(pool, ACME)
            await borrow(pool, GLOBEX)
    assert script.offered("answer") == ["wrong horse", "hunter2"]


async def test_one_account_under_two_tenant_names_has_two_wrong_answers(
    site: SessionSite, expect_log: LogLedger
) -> None:
    """``segura-onprem`` sends no tenant: five wrong answers lock the one account."""
    expect_log("refused")
    script = Script(site.folder)
    site.codes = Codes(store=FileStore(site.folder / "codes.json"))
    async with scripted(site.bridge, script) as port:
        for _mount in range(3):  # each forgets what it was refused, the state does not
            async with site.pool(*tenants(script, port, "segura-onprem")) as pool:
                for target in (ACME, GLOBEX):
                    with pytest.raises(LoginError):
                        await borrow(pool, target)
    assert script.offered("answer") == ["wrong horse"] * MOST_REFUSED


async def test_one_account_under_two_tenant_names_has_one_turn_and_one_rest(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("refused")
    expect_log("backs off")
    site.spares_account = True
    script = Script(site.folder)
    async with (
        scripted(site.bridge, script) as port,
        site.pool(*tenants(script, port, "segura-onprem")) as pool,
        trio.open_nursery() as nursery,
    ):

        async def want(target: Target) -> None:
            with pytest.raises(LoginError):
                await borrow(pool, target)

        nursery.start_soon(want, ACME)
        nursery.start_soon(want, GLOBEX)
    assert script.offered("answer") == ["wrong horse"]


# Whether another credential of one tenant is the same account, and another tenant with
# the same credential.
ARE_ONE = {
    "segura-sftp": (True, False),
    "segura-onprem": (True, True),
    "segura-ssh": (True, False),
    "cyberark": (True, True),
    "wallix": (True, True),
    "jumpserver": (True, True),
    "warpgate": (True, True),
    "oneidentity-sps": (False, True),
    "sshpiper": (False, True),
    "<credential>": (False, True),
    "<tenant>+<credential>": (False, False),
    "<device>": (True, True),
}


def test_every_preset_says_what_one_account_is() -> None:
    assert set(PRESETS) <= set(ARE_ONE)


@pytest.mark.parametrize(("dialect", "are_one"), ARE_ONE.items())
def test_what_is_one_account_is_said_by_the_dialect(
    dialect: str, are_one: tuple[bool, bool]
) -> None:
    acme = tenant(dialect=find_dialect(dialect))
    globex = tenant(name="globex", dialect=acme.login.dialect)
    name = account_key(acme, ACME)
    others = (
        account_key(acme, Target("acme", "backup", "web01")),
        account_key(globex, GLOBEX),
    )
    assert tuple(other == name for other in others) == are_one
    if dialect != "<device>":
        assert account_key(acme, Target("acme", "root", "web02")) == name
    assert account_key(tenant(port=1, dialect=acme.login.dialect), ACME) != name


async def test_the_ledger_of_the_previous_version_still_counts(tmp_path: Path) -> None:
    """Two refusals under the former name, and one each under those of two tenants."""
    for count in (2, 1):
        path = tmp_path / f"{count}.json"
        codes = Codes(store=FileStore(path))
        onprem = find_dialect("segura-onprem")
        both = [tenant(name=name, dialect=onprem) for name in ("acme", "globex")]
        now = codes.clock.now()
        sheet = LedgerContents()
        for one in both[: 3 - count]:
            former = former_account_key(one).encode()
            refused = [now - number for number in range(count)]
            sheet.accounts[sheet.digest(former)] = AccountHistory(refused)
        path.write_text(sheet.to_json())
        name = account_key(both[0], ACME)
        assert await codes.ledger.rest_s(name) == 0
        codes.ledger.note_former(name, [former_account_key(one) for one in both])
        assert (
            UNATTENDED_BACK_OFF_S - 60
            < await codes.ledger.rest_s(name)
            <= UNATTENDED_BACK_OFF_S
        )
        assert len(json.loads(path.read_text())["accounts"]) == 1


async def test_a_login_reads_the_ledger_of_the_previous_version(
    site: SessionSite, expect_log: LogLedger
) -> None:
    expect_log("none is sent before")
    path = site.folder / "codes.json"
    site.codes = Codes(store=FileStore(path))
    now = site.codes.clock.now()
    script = Script(site.folder)
    async with scripted(site.bridge, script) as port:
        acme, _globex = tenants(script, port, "segura-onprem")
        sheet = LedgerContents()
        former = sheet.digest(former_account_key(acme).encode())
        sheet.accounts[former] = AccountHistory([now, now])
        path.write_text(sheet.to_json())
        async with site.pool(acme) as pool:
            with pytest.raises(LoginRefusedError, match="none is sent before"):
                await borrow(pool, ACME)
    assert script.connections == []
