"""`make demo` shows the truth, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

from tests.limits import PROGRAM_S
from tests.mount.accounts import ROOT, myself
from tests.mount.harness import own_place
from tests.mount.mounts import processes_below

STEPS = (
    b"Welcome to web01",
    b'"event": "connection"',
    b"report.pdf",
    b"LEASE ENDS",
    b'"event": "session_closed"',
    b"Done.",
)


def test_the_demo_shows_each_step_and_leaves_nothing() -> None:
    with own_place(myself()) as place:
        place.extra_env["TMPDIR"] = str(place.folder)
        said = place.run([ROOT / "scripts" / "demo"], timeout_s=PROGRAM_S)
        positions = [said.find(step) for step in STEPS]
        assert -1 not in positions, said.decode(errors="replace")
        assert positions == sorted(positions)
        assert list(place.folder.glob("pamfs-demo*")) == []
        mounts = Path("/proc/self/mounts").read_text()
        assert str(place.folder) not in mounts
        assert processes_below(place.folder) == set()
