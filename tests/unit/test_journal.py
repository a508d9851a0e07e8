"""The journal of leases: on disk at once, and given back after a crash."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pamfs.audit import Audit, NoAudit
from pamfs.errors import UnreachableError
from pamfs.sessions.checkout.base import (
    ASKED,
    Answer,
    JournalError,
    Lease,
    Pending,
    Request,
)
from pamfs.sessions.checkout.custody import Custody, HeldLease
from pamfs.sessions.checkout.journal import (
    COMPACT_AFTER,
    LeaseJournal,
    Orphans,
    adopt_orphans,
    new_journal,
)
from tests.conftest import LogLedger
from tests.fakes.guarded import Records
from tests.fakes.journals import MemoryJournal
from tests.fakes.tenants import WEB01, WEB02
from tests.limits import HANG_S

CONFIG = Path("/etc/pamfs/config.toml")
ONE = Lease(WEB01, "lease-1", 1_800_000_000.5, is_renewable=True)
TWO = Lease(WEB02, "lease-2")

KILLED = """
import os, signal, sys
from pathlib import Path
from pamfs.model import Target
from pamfs.sessions.checkout.base import Lease
from pamfs.sessions.checkout.journal import new_journal
journal = new_journal(Path(sys.argv[1]), Path(sys.argv[2]))
for number in range(3):
    target = Target("acme", "root", f"web0{number}")
    journal.held(Lease(target, f"lease-{number}"))
os.kill(os.getpid(), signal.SIGKILL)
"""


KILLED_WHILE_ASKING = """
import os, signal, sys, trio
from pathlib import Path
from pamfs.sessions.answers import Answers
from pamfs.sessions.checkout.lease_requests import LeaseRequests
from pamfs.sessions.checkout.custody import Custody
from pamfs.sessions.attempt import Attempt, Callers, PausableDeadline
from pamfs.sessions.checkout.journal import new_journal
from tests.fakes.people import FakePerson
from tests.fakes.tenants import ME, WEB01, tenant
from tests.fakes.vault import FakeVault

class Vault(FakeVault):
    async def acquire(self, request, pending):
        await super().acquire(request, pending)
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    journal = new_journal(Path(sys.argv[1]), Path(sys.argv[2]))
    async with trio.open_nursery() as nursery:
        counter = LeaseRequests(Answers(FakePerson()), Custody(nursery, journal))
        attempt = Attempt(WEB01, tenant(), Callers(ME), PausableDeadline(30))
        await counter.check_out(attempt, Vault(takes_s=0))

trio.run(main)
"""


class FakeVault:
    """A provider that takes leases back, after failing as often as it is told."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.released: list[str] = []
        self.takes_s = 0.0

    async def acquire(self, request: Request, pending: Pending | None) -> Answer:
        await trio.lowlevel.checkpoint()
        return Lease(request.target, f"lease-of-{request.target.device}")

    async def renew(self, lease: Lease) -> Lease | None:
        await trio.lowlevel.checkpoint()
        return lease

    async def release(self, lease: Lease) -> None:
        await trio.sleep(self.takes_s)
        if self.failures:
            self.failures -= 1
            raise UnreachableError("the vault is away")
        self.released.append(lease.id)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def killed_daemon(folder: Path, program: str = KILLED) -> None:
    """Have a process die with three leases in hand, or as ``program`` says."""
    command = [sys.executable, "-c", program, str(folder), str(CONFIG)]
    done = subprocess.run(command, check=False, timeout=HANG_S)
    assert done.returncode == -9


def orphans_of(folder: Path) -> list[LeaseJournal]:
    return list(adopt_orphans(folder, CONFIG))


def test_a_mount_without_leases_writes_nothing(tmp_path: Path) -> None:
    journal = new_journal(tmp_path / "state", CONFIG)
    journal.returned(ONE)
    journal.close()
    assert files(tmp_path / "state") == []


def test_what_is_held_is_on_disk_at_once_private_and_readable(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    journal = new_journal(folder, CONFIG)
    journal.held(ONE)
    (path,) = files(folder)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    facts = json.loads(path.read_text())
    assert facts["event"] == "held"
    assert facts["id"] == "lease-1"
    assert facts["target"]["device"] == "web01"
    journal.held(TWO)
    journal.returned(ONE)
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == [
        "held",
        "held",
        "returned",
    ]
    journal.returned(TWO)
    assert files(folder) == []


def test_the_journal_of_a_daemon_that_lives_is_nobody_elses(tmp_path: Path) -> None:
    journal = new_journal(tmp_path, CONFIG)
    journal.held(ONE)
    assert orphans_of(tmp_path) == []
    journal.close()
    (orphan,) = orphans_of(tmp_path)
    assert orphan.leases == (ONE,)
    assert orphans_of(tmp_path) == []
    orphan.close()


def test_an_orphan_of_another_configuration_is_left_alone(tmp_path: Path) -> None:
    journal = new_journal(tmp_path, Path("/etc/other.toml"))
    journal.held(ONE)
    journal.close()
    assert orphans_of(tmp_path) == []
    assert len(files(tmp_path)) == 1


def test_a_renewed_lease_is_held_until_it_is_given_back_itself(tmp_path: Path) -> None:
    longer = dataclasses.replace(ONE, expires_at=1_900_000_000.0)
    journal = new_journal(tmp_path, CONFIG)
    journal.held(ONE)
    journal.held(longer)
    journal.returned(ONE)
    assert [*journal.leases] == [longer]
    journal.close()
    (orphan,) = orphans_of(tmp_path)
    assert [*orphan.leases] == [longer]
    orphan.returned(longer)
    assert [*orphan.leases] == []
    orphan.close()


def test_a_late_return_does_not_take_the_next_lease_of_that_name_along(
    tmp_path: Path,
) -> None:
    journal = new_journal(tmp_path, CONFIG)
    journal.held(ONE)
    journal.held(ONE)
    journal.returned(ONE)
    assert [*journal.leases] == [ONE]
    journal.returned(ONE)
    assert [*journal.leases] == []
    assert files(tmp_path) == []


def test_a_long_life_leaves_a_short_file(tmp_path: Path) -> None:
    journal = new_journal(tmp_path, CONFIG)
    journal.held(ONE)
    for _ in range(500):
        journal.held(TWO)
        journal.returned(TWO)
    (path,) = files(tmp_path)
    assert len(path.read_text().splitlines()) <= COMPACT_AFTER + 3
    assert orphans_of(tmp_path) == []
    journal.close()
    (orphan,) = orphans_of(tmp_path)
    assert orphan.leases == (ONE,)
    orphan.close()


def test_a_torn_last_line_costs_no_other(tmp_path: Path, expect_log: LogLedger) -> None:
    expect_log("torn")
    journal = new_journal(tmp_path, CONFIG)
    journal.held(ONE)
    journal.close()
    (path,) = files(tmp_path)
    with path.open("ab") as file:
        file.write(b'{"event": "held", "pid": 1, "targ')
    (orphan,) = orphans_of(tmp_path)
    assert orphan.leases == (ONE,)
    orphan.close()


@pytest.mark.parametrize("line", ["[]", "7", '{"event": "held"}', "\\x00"])
def test_a_line_of_the_wrong_form_is_skipped(
    line: str, tmp_path: Path, expect_log: LogLedger
) -> None:
    expect_log("torn")
    journal = new_journal(tmp_path, CONFIG)
    journal.held(ONE)
    journal.close()
    (path,) = files(tmp_path)
    path.write_text(f"{line}\n{path.read_text()}")
    (orphan,) = orphans_of(tmp_path)
    assert orphan.leases == (ONE,)
    orphan.close()


def test_what_cannot_be_written_down_is_an_error_and_held_all_the_same(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    journal = new_journal(tmp_path / "file/state", CONFIG)
    with pytest.raises(JournalError, match=os.strerror(errno.ENOTDIR)):
        journal.held(ONE)
    assert [*journal.leases] == [ONE]
    (tmp_path / "file").unlink()
    journal.held(TWO)
    journal.close()
    (orphan,) = orphans_of(tmp_path / "file/state")
    assert set(orphan.leases) == {ONE, TWO}
    orphan.close()


def test_a_folder_that_was_removed_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "leases"
    journal = new_journal(folder, CONFIG)
    journal.held(ONE)
    shutil.rmtree(folder)
    journal.held(TWO)
    journal.close()
    (orphan,) = orphans_of(folder)
    assert set(orphan.leases) == {ONE, TWO}
    orphan.close()


async def give_back(
    folder: Path,
    vault: FakeVault,
    nursery: trio.Nursery,
    audit: Audit | None = None,
) -> Custody:
    custody = Custody(nursery, MemoryJournal(), audit or NoAudit())
    nursery.start_soon(Orphans({"acme": vault}, custody).give_back, folder, CONFIG)
    await wait_all_tasks_blocked()
    return custody


async def test_three_leases_of_a_killed_daemon_are_given_back(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    killed_daemon(tmp_path)
    assert len(files(tmp_path)) == 1
    vault, records = FakeVault(), Records()
    async with trio.open_nursery() as nursery:
        await give_back(tmp_path, vault, nursery, records)
    assert sorted(vault.released) == ["lease-0", "lease-1", "lease-2"]
    assert {event for event, _ in records.kept} == {"checkin"}
    recorded = [str(facts["lease"]) for _, facts in records.kept]
    assert sorted(recorded) == sorted(vault.released)
    assert files(tmp_path) == []


async def test_a_grant_that_a_killed_daemon_never_heard_of_is_given_back(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    killed_daemon(tmp_path, KILLED_WHILE_ASKING)
    vault, records = FakeVault(), Records()
    async with trio.open_nursery() as nursery:
        await give_back(tmp_path, vault, nursery, records)
    assert vault.released == [ASKED]
    assert files(tmp_path) == []
    assert records.kept == []  # nobody knows whether a lease came back


async def test_what_was_asked_for_and_is_held_by_now_is_not_taken_away(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    killed_daemon(tmp_path, KILLED_WHILE_ASKING)
    vault = FakeVault()
    async with trio.open_nursery() as nursery:
        custody = Custody(nursery, MemoryJournal())
        HeldLease(ONE, vault, custody)
        orphans = Orphans({"acme": vault}, custody)
        await orphans.give_back(tmp_path, CONFIG)
    assert vault.released == []
    assert files(tmp_path) == []


async def test_a_vault_that_is_away_is_asked_again(
    tmp_path: Path, expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("the vault is away")
    killed_daemon(tmp_path)
    vault = FakeVault(failures=5)
    async with trio.open_nursery() as nursery:
        await give_back(tmp_path, vault, nursery)
    assert len(vault.released) == 3
    assert files(tmp_path) == []


async def test_a_mount_that_ends_meanwhile_leaves_the_rest_to_the_next(
    tmp_path: Path, expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("the vault is away")
    killed_daemon(tmp_path)
    vault = FakeVault(failures=2)
    async with trio.open_nursery() as nursery:
        await give_back(tmp_path, vault, nursery)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert len(vault.released) == 1
    async with trio.open_nursery() as nursery:
        await give_back(tmp_path, vault, nursery)
    assert sorted(vault.released) == ["lease-0", "lease-1", "lease-2"]


async def test_who_wants_the_same_account_waits_until_it_is_back(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    killed_daemon(tmp_path)
    vault = FakeVault()
    vault.takes_s = 5.0
    async with trio.open_nursery() as nursery:
        custody = await give_back(tmp_path, vault, nursery)
        began = trio.current_time()
        async with custody.turn(WEB01):
            assert "lease-1" in vault.released
        assert trio.current_time() - began == pytest.approx(5)


async def test_a_lease_that_was_granted_anew_is_not_taken_away(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    journal = new_journal(tmp_path, CONFIG)
    journal.held(ONE)
    journal.close()
    vault = FakeVault()
    async with trio.open_nursery() as nursery:
        custody = Custody(nursery, MemoryJournal())
        HeldLease(ONE, vault, custody)
        orphans = Orphans({"acme": vault}, custody)
        await orphans.give_back(tmp_path, CONFIG)
    assert vault.released == []
    assert files(tmp_path) == []


async def test_a_tenant_that_is_gone_from_the_configuration_is_said(
    tmp_path: Path, expect_log: LogLedger, autojump_clock: MockClock
) -> None:
    expect_log("no checkout for acme")
    journal = new_journal(tmp_path, CONFIG)
    journal.held(ONE)
    journal.close()
    async with trio.open_nursery() as nursery:
        custody = Custody(nursery, MemoryJournal())
        nursery.start_soon(Orphans({}, custody).give_back, tmp_path, CONFIG)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert len(files(tmp_path)) == 1
