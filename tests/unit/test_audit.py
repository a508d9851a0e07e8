"""Records of what happened: complete, in order, and never in anybody's way."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pamfs.audit import (
    AuditError,
    FileSink,
    JournalSink,
    Sink,
    WrittenAudit,
    errno_name,
)
from pamfs.config import inspect
from pamfs.errors import (
    CoolingError,
    LoginRefusedError,
    RemoteError,
)
from pamfs.logs import REDACTOR
from pamfs.model import Secret
from tests.conftest import LogLedger
from tests.mount.waiting import wait_until

SOON_S = 10.0


@contextmanager
def writing(sink: Sink, **options: int) -> Iterator[WrittenAudit]:
    audit = WrittenAudit(sink, "/mnt", retry_s=0.01, **options)
    try:
        yield audit
    finally:
        audit.close()


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def events(path: Path) -> list[object]:
    return [record["event"] for record in records(path)]


class Gate:
    """A sink that stands still, or refuses, until it is told otherwise."""

    place = "a gate"

    def __init__(self, failures: list[OSError] | None = None) -> None:
        self.lines: list[bytes] = []
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.failures = failures or []

    def open(self) -> None:
        """Take everything."""

    def write(self, line: bytes) -> None:
        """Wait for the gate, fail as often as was asked for, and then store."""
        self.reached.set()
        assert self.opened.wait(SOON_S)
        if self.failures:
            raise self.failures.pop()
        self.lines.append(line)

    def close(self) -> None:
        """Do nothing."""


class TestTheFile:
    def test_each_record_is_one_line_of_json(self, tmp_path: Path) -> None:
        path = tmp_path / "audit.jsonl"
        with writing(FileSink(path)) as audit:
            audit.record("unlink", target="acme/root@web01", path="a\nb", uid=1000)
        (line,) = path.read_text().splitlines()
        record = json.loads(line)
        assert record["event"] == "unlink"
        assert record["mount"] == "/mnt"
        assert record["path"] == "a\nb"
        assert record["time"].endswith("+00:00")

    def test_it_is_for_its_owner_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "sub" / "audit.jsonl"
        with writing(FileSink(path)) as audit:
            audit.record("login")
        assert path.stat().st_mode & 0o777 == 0o600

    def test_what_was_there_stays(self, tmp_path: Path) -> None:
        path = tmp_path / "audit.jsonl"
        for event in ("one", "two"):
            with writing(FileSink(path)) as audit:
                audit.record(event)
        assert events(path) == ["one", "two"]

    def test_a_link_in_its_place_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "audit.jsonl"
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(AuditError):
            WrittenAudit(FileSink(path), "/mnt")

    @pytest.mark.timeout(10)
    def test_a_pipe_in_its_place_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "audit.jsonl"
        os.mkfifo(path)
        with pytest.raises(AuditError, match=f"{path}: not a regular file"):
            WrittenAudit(FileSink(path), "/mnt")

    def test_without_a_place_for_records_there_is_no_mount(self) -> None:
        with pytest.raises(AuditError, match="/proc/nowhere"):
            WrittenAudit(FileSink(Path("/proc/nowhere/audit.jsonl")), "/mnt")

    @pytest.mark.parametrize("is_removed", [True, False])
    def test_after_a_rotation_records_go_to_the_new_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_removed: bool
    ) -> None:
        monkeypatch.setattr("pamfs.audit._LOOK_S", 0.0)
        path, old = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
        sink = FileSink(path)
        sink.open()
        sink.write(b"1")
        path.rename(old)
        if not is_removed:
            path.touch(mode=0o600)
        sink.write(b"2")
        sink.close()
        assert (old.read_text(), path.read_text()) == ("1\n", "2\n")

    def test_the_path_is_looked_at_once_a_second(self, tmp_path: Path) -> None:
        path, old = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
        sink = FileSink(path)
        sink.open()
        path.rename(old)
        sink.write(b"1")
        sink.close()
        assert old.read_text() == "1\n"

    def test_half_a_line_is_ended_before_the_next(self, tmp_path: Path) -> None:
        path = tmp_path / "audit.jsonl"
        sink = FileSink(path)
        sink.open()
        with path.open("ab") as file:
            file.write(b'{"half')
        sink._is_torn = True
        sink.write(b"{}")
        sink.close()
        assert path.read_text().splitlines() == ['{"half', "{}"]


class TestTheJournal:
    def test_a_record_is_one_datagram(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
            journal.bind(os.fspath(path))
            journal.settimeout(SOON_S)
            with writing(JournalSink(path)) as audit:
                audit.record("login", target="acme/root@web01", session="1")
                fields = journal.recv(1 << 16).decode().splitlines()
        assert "SYSLOG_IDENTIFIER=pamfs-audit" in fields
        message = next(line for line in fields if line.startswith("MESSAGE="))
        assert json.loads(message.removeprefix("MESSAGE="))["event"] == "login"

    def test_without_a_journal_there_is_no_mount(self, tmp_path: Path) -> None:
        with pytest.raises(AuditError, match="journal"):
            WrittenAudit(JournalSink(tmp_path / "none"), "/mnt")


class TestNobodyWaits:
    def test_what_does_not_fit_is_counted_in_the_next_record(
        self, expect_log: LogLedger
    ) -> None:
        expect_log("3 records were dropped")
        gate = Gate()
        with writing(gate, queue_length=2) as audit:
            audit.record("first")
            assert gate.reached.wait(SOON_S)
            for number in range(4):
                audit.record("more", number=number)
            status = audit.status()
            assert status is not None
            assert status["dropped"] == 3
            gate.opened.set()
            wait_written(audit, 2)
            audit.record("next")
        told = [json.loads(line) for line in gate.lines]
        assert [record["event"] for record in told] == ["first", "more", "next"]
        assert told[2]["dropped"] == 3

    def test_a_full_disk_is_logged_once_and_nothing_is_lost(
        self, expect_log: LogLedger, caplog: pytest.LogCaptureFixture
    ) -> None:
        expect_log("No space left")
        expect_log("written again")
        full = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) for _ in range(5)]
        gate = Gate(full)
        gate.opened.set()
        with writing(gate) as audit:
            for number in range(3):
                audit.record("more", number=number)
            wait_written(audit, 3)
        assert [json.loads(line)["number"] for line in gate.lines] == [0, 1, 2]
        assert caplog.text.count("No space left") == 1

    def test_a_real_full_device_holds_nothing_up(self, expect_log: LogLedger) -> None:
        expect_log("No space left")
        expect_log("1 records are lost")
        with writing(FileSink(Path("/dev/full"))) as audit:
            audit.record("login")
            audit.close()
            status = audit.status()
        assert status is not None
        assert status["problem"] == "No space left on device"


class TestWhatARecordHolds:
    def test_a_secret_in_play_is_masked(self, tmp_path: Path) -> None:
        path, secret = tmp_path / "audit.jsonl", Secret("hunter2-really")
        REDACTOR.register(secret)
        try:
            with writing(FileSink(path)) as audit:
                audit.record("open", path="acme/hunter2-really", way=b"hunter2-really")
        finally:
            REDACTOR.forget(secret)
        assert "hunter2" not in path.read_text()

    def test_a_name_that_is_no_utf8_is_still_json(self, tmp_path: Path) -> None:
        path = tmp_path / "audit.jsonl"
        with writing(FileSink(path)) as audit:
            audit.record("open", path=os.fsdecode(b"a\xffb"))
        assert records(path)[0]["path"] == "a\\xffb"

    def test_the_program_is_looked_up(self, tmp_path: Path) -> None:
        path = tmp_path / "audit.jsonl"
        with writing(FileSink(path)) as audit:
            audit.record("open", pid=os.getpid())
        comm = Path("/proc/self/comm").read_text().strip()
        assert records(path)[0]["program"] == comm

    def test_between_login_and_end_records_carry_the_session(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "audit.jsonl"
        with writing(FileSink(path)) as audit:
            audit.record("guard_refused", target="t")
            audit.record("login", target="t", session="abc")
            audit.record("open", target="t")
            audit.record("open", target="other")
            audit.record("session_closed", target="t")
            audit.record("guard_refused", target="t")
        sessions = [record.get("session") for record in records(path)]
        assert sessions == [None, "abc", "abc", None, "abc", None]

    def test_a_failure_is_named_by_its_errno(self) -> None:
        assert errno_name(RemoteError(errno.ENOSPC, "write")) == "ENOSPC"
        assert errno_name(LoginRefusedError("x")) == "EACCES"
        refused = CoolingError("t", 1.0, LoginRefusedError("x"))
        assert errno_name(refused) in errno.errorcode.values()
        assert errno_name(ValueError("x")) == "ValueError"


class TestTheConfiguration:
    @pytest.mark.parametrize(
        ("table", "problem"),
        [
            ("[audit]", "needs exactly one destination"),
            ('[audit]\nfile = "a"\njournal = true', "needs exactly one destination"),
            ("[audit]\nfile = 3", "is a number"),
            ("[audit]\njournal = true\nsyslog = true", "is unknown"),
        ],
    )
    def test_a_wrong_table_is_reported(
        self, tmp_path: Path, table: str, problem: str
    ) -> None:
        assert problem in str(self.problems(tmp_path, table))

    def problems(self, folder: Path, table: str) -> list[str]:
        path = folder / "config.toml"
        path.write_text(f"{table}\n[tenant]\n")
        return [str(found) for found in inspect(path).problems]


def wait_written(audit: WrittenAudit, count: int) -> None:
    """Return when the thread has written ``count`` records."""

    def is_written() -> bool:
        status = audit.status()
        return status is not None and status["written"] == count

    wait_until(is_written, f"{count} records are written", SOON_S)
