"""The ``helper`` provider with real programs: the documented one, and bad ones."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest
import trio

from pamfs.config import HelperConfig
from pamfs.errors import LoginRefusedError, PamfsError
from pamfs.sessions.checkout.base import (
    ASKED,
    Busy,
    Denied,
    Lease,
    Pending,
    Request,
    UnansweredGrantError,
)
from pamfs.sessions.checkout.helper import HelperProvider
from tests.fakes.tenants import WEB01
from tests.mount.waiting import wait_until

EXAMPLE = Path(__file__).parents[2] / "docs/examples/pamfs-helper-files"
WANTED = Request(WEB01, reason="patching", ticket="CHG-1")
GRANTED = '{"status": "granted", "id": "7"}'


def example(folder: Path) -> HelperProvider:
    return HelperProvider(HelperConfig(f"{sys.executable} {EXAMPLE} {folder}"))


def shell(script: str, timeout_s: float = 30.0) -> HelperProvider:
    quoted = script.replace("'", "'\\''")
    return HelperProvider(HelperConfig(f"sh -c '{quoted}'", timeout_s))


async def lease_of(provider: HelperProvider) -> Lease:
    answer = await provider.acquire(WANTED, None)
    assert isinstance(answer, Lease)
    return answer


async def test_the_worked_example_grants_renews_and_takes_back(tmp_path: Path) -> None:
    provider = example(tmp_path)
    lease = await lease_of(provider)
    assert lease.is_renewable
    assert lease.expires_at is not None
    longer = await provider.renew(lease)
    assert longer is not None
    assert longer.id == lease.id
    assert longer.expires_at is not None
    assert longer.expires_at >= lease.expires_at

    busy = await provider.acquire(WANTED, None)
    assert isinstance(busy, Busy)
    assert busy.until == longer.expires_at

    await provider.release(lease)
    await provider.release(lease)
    assert await provider.renew(lease) is None
    await lease_of(provider)


async def test_the_worked_example_takes_back_what_nobody_heard_of(
    tmp_path: Path,
) -> None:
    provider = example(tmp_path)
    await lease_of(provider)
    await provider.release(Lease(WEB01, ASKED))
    await provider.release(Lease(WEB01, ASKED))
    await lease_of(provider)


async def test_the_worked_example_denies_without_a_reason(tmp_path: Path) -> None:
    answer = await example(tmp_path).acquire(Request(WEB01), None)
    assert answer == Denied("a reason is needed")


async def test_the_worked_example_goes_on_with_what_is_pending(tmp_path: Path) -> None:
    provider = example(tmp_path)
    (tmp_path / "needs-approval").write_text("acme:root@web01\n")
    first = await provider.acquire(WANTED, None)
    assert first == Pending("request-acme:root@web01", "the duty officer")
    assert await provider.acquire(WANTED, first) == first
    (tmp_path / "approved-acme:root@web01").touch()
    assert isinstance(await provider.acquire(WANTED, first), Lease)


async def test_the_program_is_told_everything_and_nothing_in_its_arguments(
    tmp_path: Path,
) -> None:
    told = tmp_path / "told"
    provider = shell(
        f"cat >{told}; tr '\\0' ' ' </proc/$$/cmdline >{tmp_path}/arguments;"
        ' echo \'{"status": "granted", "id": "7"}\''
    )
    assert await lease_of(provider) == Lease(WEB01, "7")
    request = json.loads(told.read_text())
    assert request == {
        "version": 1,
        "action": "acquire",
        "target": {
            "name": "acme/root@web01",
            "tenant": "acme",
            "domain": "",
            "credential": "root",
            "device": "web01",
            "proto": "ssh",
            "port": 22,
        },
        "reason": "patching",
        "ticket": "CHG-1",
        "duration_s": None,
        "pending": None,
    }
    assert "patching" not in (tmp_path / "arguments").read_text()


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo no vault here >&2; echo second >&2; exit 3", "status 3: no vault here"),
        ("echo '{'", "no JSON object"),
        ("echo '[]'", "no JSON object"),
        ("true", "no JSON object"),
        ("head -c 1000000 /dev/zero", "no JSON object"),
        ('echo \'{"status": "perhaps"}\'', "not in the contract"),
        ('echo \'{"status": "granted"}\'', "not in the contract"),
        ("kill -9 $$", "exit status -9"),
    ],
)
async def test_garbage_is_eacces_with_the_first_line_of_stderr(
    script: str, says: str
) -> None:
    with pytest.raises(PamfsError, match=says) as caught:
        await shell(script).acquire(WANTED, None)
    assert caught.value.code == errno.EACCES
    assert "second" not in str(caught.value)


@pytest.mark.parametrize(
    ("script", "number"),
    [
        *(
            (f'echo \'{{"status": "granted", "id": 7, "expires_at": {ends}}}\'', "7")
            for ends in ("NaN", "1e400", "true", '"2026-01-01T00:00:00"', '"soon"')
        ),
        ('echo \'{"status": "granted"}\'', ASKED),
        ("echo warning: old; echo '{}'", ASKED),
        ("kill -9 $$", ASKED),
        ("sleep 60", ASKED),
    ],
)
async def test_what_may_be_a_grant_and_is_not_read_names_what_goes_back(
    script: str, number: str
) -> None:
    with pytest.raises(UnansweredGrantError) as caught:
        await shell(script, timeout_s=0.5).acquire(WANTED, None)
    assert caught.value.lease == Lease(WEB01, number)
    assert isinstance(caught.value.error, LoginRefusedError)


async def test_a_program_that_says_by_its_status_that_it_failed_holds_nothing() -> None:
    with pytest.raises(LoginRefusedError, match="exit status 3"):
        await shell("exit 3").acquire(WANTED, None)


async def test_a_program_that_is_not_there_is_eacces() -> None:
    provider = HelperProvider(HelperConfig("/nonexistent/helper"))
    with pytest.raises(LoginRefusedError, match="No such file"):
        await provider.acquire(WANTED, None)


async def test_a_program_that_others_could_change_is_not_run(tmp_path: Path) -> None:
    helper = tmp_path / "helper"
    helper.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    helper.chmod(0o757)
    provider = HelperProvider(HelperConfig(str(helper)))
    with pytest.raises(LoginRefusedError, match="any user may write it"):
        await provider.acquire(WANTED, None)
    assert not (tmp_path / "ran").exists()


async def test_a_hang_ends_within_the_deadline_with_all_that_was_started(
    tmp_path: Path,
) -> None:
    pids = tmp_path / "pids"
    script = f"echo stuck >&2; sleep 600 & echo $$ $! >{pids}; wait"
    before = trio.current_time()
    with pytest.raises(UnansweredGrantError, match=r"within 0\.5 s: stuck"):
        await shell(script, timeout_s=0.5).acquire(WANTED, None)
    assert trio.current_time() - before < 10
    started = [int(pid) for pid in pids.read_text().split()]
    wait_until(lambda: not any(map(is_alive, started)), f"{started} end")


async def test_a_grant_is_taken_from_a_program_whose_child_holds_its_output(
    tmp_path: Path,
) -> None:
    child = tmp_path / "child"
    script = f"sleep 600 & echo $! >{child}; echo '{GRANTED}'"
    assert await lease_of(shell(script, timeout_s=5.0)) == Lease(WEB01, "7")
    pid = int(child.read_text())
    wait_until(lambda: not is_alive(pid), f"{pid} ends")


async def test_a_cancelled_call_leaves_no_program_behind(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    async with trio.open_nursery() as nursery:
        script = f"echo $$ >{ready}; exec sleep 600"
        nursery.start_soon(shell(script).acquire, WANTED, None)
        pid = int(await trio.Path(ready).read_text())
        nursery.cancel_scope.cancel()
    assert not is_alive(pid)


async def test_a_release_that_is_refused_is_an_error(tmp_path: Path) -> None:
    provider = shell('echo \'{"status": "denied", "why": "not yours"}\'')
    with pytest.raises(LoginRefusedError, match="not yours"):
        await provider.release(Lease(WEB01, "7"))


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
