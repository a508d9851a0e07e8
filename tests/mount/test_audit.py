"""The audit of a real mount: who did what, and a full disk that stops nobody."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.limits import HANG_S
from tests.mount.accounts import Account
from tests.mount.harness import Place, own_place
from tests.mount.mounts import DEVICE, Lab, mounted, running_lab
from tests.mount.secret_search import assert_holds_no_secret, now_s, secrets_of
from tests.mount.waiting import wait_until

TARGET = (b"acme", DEVICE)


@pytest.fixture
def lab(place: Place) -> Iterator[Lab]:
    with running_lab(place) as running:
        yield running


def with_audit(lab: Lab, file: Path) -> Path:
    """Return the lab's configuration with an audit file."""
    text = f'{lab.config.read_text()}\n[audit]\nfile = "{file}"\n'
    lab.config.write_text(text)
    return lab.config


def records(path: Path) -> list[dict[str, object]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_day_at_a_target_is_in_the_file(place: Place, lab: Lab) -> None:
    path, began_s = place.folder / "audit.jsonl", now_s()
    with mounted(place, with_audit(lab, path)) as mount:
        target = mount.path(*TARGET)
        script = 'cd "$0" && printf hello >a && cat a && mv a b && rm b && mkdir d'
        place.run(["sh", "-c", script, target])
        place.start(["cat", target + b"/none"])
        rows = mount.status()["audit"]
        assert isinstance(rows, dict)
        assert rows["problem"] is None
    told = records(path)
    order = [record["event"] for record in told]
    for event in ("login", "create", "open", "rename", "unlink", "mkdir"):
        assert event in order, order
    assert order.index("login") < order.index("create")
    assert order[-1] == "session_closed"
    below = [record for record in told if record.get("path")]
    assert len({record["session"] for record in below}) == 1
    assert {record["uid"] for record in below} == {place.account.uid}
    removed = next(record for record in told if record["event"] == "unlink")
    assert removed["program"] == "rm"
    assert removed["path"] == f"acme/{DEVICE.decode()}/b"
    closed = [record for record in told if record["event"] == "close"]
    assert [record["bytes_written"] for record in closed if record["mode"] == "w"] == [
        5
    ]
    assert_holds_no_secret(path.read_bytes(), secrets_of(lab, began_s))
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_refused_login_is_in_the_file(place: Place, lab: Lab) -> None:
    path = place.folder / "audit.jsonl"
    lab.admin("lock", "alice")
    with mounted(place, with_audit(lab, path)) as mount:
        assert place.start(["ls", mount.path(*TARGET)]).code != 0
    failed = [record for record in records(path) if record["event"] == "login_failed"]
    assert failed[0]["error"] == "EACCES"
    assert failed[0]["program"] == "ls"


def test_a_file_that_was_rotated_away_is_made_anew(place: Place, lab: Lab) -> None:
    path, old = place.folder / "audit.jsonl", place.folder / "audit.jsonl.1"
    with mounted(place, with_audit(lab, path)) as mount:
        target = mount.path(*TARGET)
        place.run(["ls", target])
        wait_until(lambda: records(path), "the login is written")
        path.rename(old)

        def is_anew() -> bool:
            place.run(["touch", target + b"/x"])
            return path.exists()

        wait_until(is_anew, "the file is there again")
    assert records(old)[0]["event"] == "login"


@contextmanager
def tiny_disk(folder: Path) -> Iterator[Path]:
    point = folder / "disk"
    point.mkdir()
    options = ["-o", "size=16k,mode=0700", "none", str(point)]
    subprocess.run(["mount", "-t", "tmpfs", *options], check=True, timeout=HANG_S)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True, timeout=HANG_S)


def test_a_full_disk_stops_no_reader_and_is_shown(root: Account) -> None:
    with (
        own_place(root) as place,
        running_lab(place) as lab,
        tiny_disk(place.folder) as disk,
    ):
        path, ballast = disk / "audit.jsonl", disk / "ballast"
        path.touch(0o600)
        ballast.write_bytes(b"x" * 16384 if not path.stat().st_blocks else b"")
        with mounted(place, with_audit(lab, path)) as mount:
            target = mount.path(*TARGET)
            place.run(["sh", "-c", 'echo hi >"$0"/f && cat "$0"/f', target])

            def problem() -> object:
                rows = mount.status()["audit"]
                assert isinstance(rows, dict)
                return rows["problem"]

            wait_until(problem, "the full disk is shown")
            assert problem() == "No space left on device"
            assert place.run(["cat", target + b"/f"]) == b"hi\n"
            shown = place.pamfs("status", mount.point).text
            assert "No space left on device" in shown
            ballast.unlink()
            wait_until(lambda: problem() is None, "records are written again")
        assert "login" in [record["event"] for record in records(path)]
