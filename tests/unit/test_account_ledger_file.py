"""Which codes were sent is known to the next daemon, and to a second one."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pyotp
import pytest
import trio
from trio.testing import MockClock

from pamfs.errors import LoginRefusedError
from pamfs.model import Secret
from pamfs.sessions.account import ledger
from pamfs.sessions.account.codes import Codes
from pamfs.sessions.account.ledger import FileStore, LedgerContents
from pamfs.sessions.account.policy import UNATTENDED_BACK_OFF_S
from tests.conftest import LogLedger
from tests.limits import HANG_S

SEED = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
ONE_CODE = f"""
import sys, trio
from pathlib import Path
from pamfs.model import Secret
from pamfs.sessions.account.ledger import FileStore
from pamfs.sessions.account.codes import Codes

async def main():
    began = trio.current_time()
    state = FileStore(Path(sys.argv[1]))
    codes = Codes(lambda: 60.0 + trio.current_time() - began, state)
    print("ready", flush=True)
    sys.stdin.readline()
    code = await codes.issue(Secret("{SEED}"))
    print(int(code.begins_at))

trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.2))
"""


def at(instant: float) -> str:
    return pyotp.TOTP(SEED).at(int(instant))


@pytest.fixture
def patient_clock() -> MockClock:
    """Jump only when a thread has had its time."""
    return MockClock(autojump_threshold=0.2)


def codes_of(path: Path) -> Codes:
    began = trio.current_time()
    return Codes(lambda: 60 + trio.current_time() - began, FileStore(path))


async def test_a_code_is_not_sent_again_after_a_restart(
    tmp_path: Path, patient_clock: MockClock
) -> None:
    now = [60.0]
    path = tmp_path / "state/codes.json"
    began = trio.current_time()

    def clock() -> float:
        return now[0] + trio.current_time() - began

    first = await Codes(clock, FileStore(path)).issue(Secret(SEED))
    second = await Codes(clock, FileStore(path)).issue(Secret(SEED))
    assert [first.secret.reveal(), second.secret.reveal()] == [at(60), at(90)]


def test_two_daemons_at_once_send_different_codes(tmp_path: Path) -> None:
    path = tmp_path / "codes.json"
    daemons = [
        subprocess.Popen(
            [sys.executable, "-c", "import trio.testing" + ONE_CODE, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for daemon in daemons:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "ready\n"
    for daemon in daemons:
        assert daemon.stdin is not None
        daemon.stdin.write("go\n")
        daemon.stdin.flush()
    steps = [daemon.communicate(timeout=HANG_S)[0].strip() for daemon in daemons]
    assert sorted(map(int, steps)) == [60, 90, 120]


async def test_the_file_is_the_users_alone_and_holds_nothing_of_the_seed(
    tmp_path: Path, patient_clock: MockClock
) -> None:
    path = tmp_path / "state/codes.json"
    codes = codes_of(path)
    code = await codes.issue(Secret(SEED), "alice@pam")
    await codes.ledger.refused("alice@pam", None)
    text = path.read_text()
    raw = pyotp.TOTP(SEED).byte_secret()
    for secret in (SEED, raw.hex(), code.secret.reveal(), "alice"):
        assert secret not in text
    for entry in path.parent.iterdir():
        assert stat.S_IMODE(entry.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    other = tmp_path / "other.json"
    await codes_of(other).issue(Secret(SEED))
    digests = [
        set(LedgerContents.from_json(p.read_text()).steps) for p in (path, other)
    ]
    assert not digests[0] & digests[1]


async def test_a_seed_rests_after_two_refusals_also_for_the_next_daemon(
    tmp_path: Path, patient_clock: MockClock
) -> None:
    codes, account = codes_of(tmp_path / "codes.json"), "alice@pam"
    for _ in range(2):
        await codes.issue(Secret(SEED), account)
        await codes.ledger.refused(account, None)
    now = codes.clock.now()
    after = Codes(lambda: now + 5, FileStore(tmp_path / "codes.json"))
    with pytest.raises(LoginRefusedError) as caught:
        await after.issue(Secret(SEED), account)
    assert caught.value.rest_s == pytest.approx(UNATTENDED_BACK_OFF_S - 5, abs=1)
    assert await after.ledger.rest_s("bob@pam") == 0
    await after.ledger.accepted(account)
    assert await codes.ledger.rest_s(account) == 0


async def test_the_rest_is_as_long_as_it_is_said_to_be() -> None:
    now = [1000.0]
    codes = Codes(lambda: now[0])
    for now[0] in (1000.0, 1500.0):
        await codes.ledger.refused("alice@pam", None)
    now[0] = 1700.0
    assert await codes.ledger.rest_s("alice@pam") == UNATTENDED_BACK_OFF_S - 200
    now[0] = 1500.0 + UNATTENDED_BACK_OFF_S
    assert await codes.ledger.rest_s("alice@pam") == 0


async def test_a_state_that_cannot_be_kept_is_said_once(
    tmp_path: Path, patient_clock: MockClock, expect_log: LogLedger
) -> None:
    expect_log("this daemon alone")
    (tmp_path / "file").write_text("")
    codes = codes_of(tmp_path / "file/codes.json")
    first = await codes.issue(Secret(SEED))
    second = await codes.issue(Secret(SEED))
    assert second.begins_at == first.begins_at + 30


async def test_what_could_not_be_kept_is_kept_as_soon_as_it_can(
    tmp_path: Path, expect_log: LogLedger
) -> None:
    expect_log("this daemon alone")
    folder = tmp_path / "state"
    folder.write_text("")
    state = FileStore(folder / "codes.json")
    assert await state.change(lambda sheet: sheet.claim(b"seed", 2))
    folder.unlink()
    assert not await state.change(lambda sheet: sheet.claim(b"seed", 2))
    other = FileStore(folder / "codes.json")
    assert not await other.change(lambda sheet: sheet.claim(b"seed", 2))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}', "\xe9", "{}"])
async def test_a_damaged_file_is_said_and_begun_anew(
    text: str, tmp_path: Path, expect_log: LogLedger
) -> None:
    expect_log("damaged")
    path = tmp_path / "codes.json"
    path.write_text(text, encoding="latin-1")
    for expected in (True, False):
        state = FileStore(path)
        assert await state.change(lambda sheet: sheet.claim(b"s", 2)) == expected


async def test_a_lock_that_is_never_let_go_does_not_stop_the_mount(
    tmp_path: Path, expect_log: LogLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect_log("no lock within")
    monkeypatch.setattr(ledger, "LOCK_WITHIN_S", 0.05)
    with (tmp_path / "codes.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = FileStore(tmp_path / "codes.json")
        assert await state.change(lambda sheet: sheet.claim(b"s", 2))
        assert not await state.change(lambda sheet: sheet.claim(b"s", 2))
    # The thread that was given up makes the file, and is gone once we have the lock.
    is_made = False
    while not is_made:
        is_made = (tmp_path / "codes.json").exists()
        with (tmp_path / "codes.lock").open("w") as lock:
            await trio.to_thread.run_sync(fcntl.flock, lock, fcntl.LOCK_EX)


def test_a_clock_that_was_far_ahead_blocks_no_seed_and_repeats_no_code() -> None:
    sheet = LedgerContents()
    assert sheet.claim(b"s", 1_000_000)
    assert sheet.claim(b"s", 5)
    assert not sheet.claim(b"s", 5)
    assert sheet.claim(b"s", 6)
    assert not sheet.claim(b"s", 1_000_000)


def test_a_clock_that_was_set_back_a_little_waits() -> None:
    sheet = LedgerContents()
    assert sheet.claim(b"s", 10)
    assert [sheet.claim(b"s", step) for step in (8, 9, 10, 11)] == [False] * 3 + [True]


def test_no_more_is_kept_of_a_seed_than_is_of_use() -> None:
    sheet = LedgerContents()
    for step in range(100):
        assert sheet.claim(b"s", step)
    assert len(sheet.steps[sheet.digest(b"s")]) == ledger.KEPT
    assert LedgerContents.from_json(sheet.to_json()) == sheet


async def test_a_disk_that_takes_a_part_at_a_time_tears_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write = tmp_path / "codes.json", os.write

    def write_a_part(fd: int, raw: bytes) -> int:
        is_ours = os.readlink(f"/proc/self/fd/{fd}").startswith(str(tmp_path))
        return write(fd, raw[:40] if is_ours else raw)

    monkeypatch.setattr(os, "write", write_a_part)
    assert await FileStore(path).change(lambda sheet: sheet.claim(b"seed", 2))
    assert not await FileStore(path).change(lambda sheet: sheet.claim(b"seed", 2))


async def test_a_full_disk_leaves_what_was_known_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expect_log: LogLedger
) -> None:
    expect_log("No space left")
    path, write = tmp_path / "codes.json", os.write
    assert await FileStore(path).change(lambda sheet: sheet.claim(b"seed", 2))
    text = path.read_text()

    def write_no_more(fd: int, raw: bytes) -> int:
        if not os.readlink(f"/proc/self/fd/{fd}").startswith(str(tmp_path)):
            return write(fd, raw)
        if os.fstat(fd).st_size >= 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, raw[:40])

    monkeypatch.setattr(os, "write", write_no_more)
    assert await FileStore(path).change(lambda sheet: sheet.claim(b"seed", 3))
    assert path.read_text() == text


async def test_what_is_renamed_was_stored_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, stored = tmp_path / "codes.json", []

    def note_stored(fd: int) -> None:
        stored.append((Path(os.readlink(f"/proc/self/fd/{fd}")).name, path.exists()))

    monkeypatch.setattr(os, "fsync", note_stored)
    await FileStore(path).change(lambda sheet: sheet.claim(b"seed", 2))
    assert stored == [("codes.new", False)]
