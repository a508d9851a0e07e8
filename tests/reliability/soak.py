"""Mixed programs on ten targets, a fault every few seconds: ``make soak MINUTES=n``.

Each target has one job after the other; the faults hit them all (the proxy's line) or
one (its session). At the end every hash is compared once more, and what the daemon and
the lab still hold is counted. The exit code is 1 if data was lost, a program did not
end, or anything is left over.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pamfs.lab import daemon
from pamfs.lab.spec import DeviceSpec
from tests.mount.accounts import myself
from tests.mount.harness import own_place
from tests.mount.waiting import wait_until
from tests.reliability.jobs import (
    JOBS,
    HungError,
    Job,
    Spot,
    ToldError,
    WrongError,
    kept,
)
from tests.reliability.ledger import Ledger, Outcome, Sample, State
from tests.reliability.line import Cut
from tests.reliability.programs import ran
from tests.reliability.sites import TEN, Mounted, by_pamfs, lab_site

KILL: Final = "kill of a session"
# A silent drop costs a minute of waiting: rarer, or nothing else would happen.
FAULTS: Final = (*[c.value for c in Cut if c is not Cut.SILENCE] * 3, KILL, KILL, KILL)
IDLE: Final = '"3s"'


@dataclass
class Soak:
    """One soak on one mount."""

    mount: Mounted
    seed: int
    every_s: float
    ledger: Ledger = field(default_factory=Ledger)
    over: threading.Event = field(default_factory=threading.Event)
    expected: dict[Path, dict[str, str]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def run(self, minutes: float) -> None:
        """Run jobs, faults and samples for so long; then let the jobs end."""
        workers = [
            threading.Thread(target=self._work, args=(number, target))
            for number, target in enumerate(self.mount.folders)
        ]
        others = [threading.Thread(target=way) for way in (self._fail, self._sample)]
        for thread in workers + others:
            thread.start()
        self.over.wait(minutes * 60)
        self.over.set()
        for thread in workers + others:
            thread.join()
        self._compare()

    # -- jobs ------------------------------------------------------------------

    def _work(self, number: int, target: bytes) -> None:
        chance = random.Random(self.seed * 100 + number)
        count = 0
        while not self.over.is_set():
            count += 1
            name = chance.choice(list(JOBS))
            began = time.monotonic()
            state, why = self._done(JOBS[name], target, number * 10_000 + count)
            took_s = time.monotonic() - began
            self.ledger.ended(Outcome(name, target.decode(), state, why, took_s))
            if state is not State.DONE:
                self.over.wait(1.0)  # as a person would, before the next try

    def _done(self, job: Job, target: bytes, number: int) -> tuple[State, str]:
        place, name = self.mount.place, f"job{number}"
        folder = place.folder / name
        folder.mkdir()
        device = self.mount.site.devices[target] / name
        device.mkdir()
        spot = Spot(place, folder, self.mount.there(name, target), device, number)
        try:
            job(spot)
        except ToldError as exc:
            return State.TOLD, str(exc)
        except HungError as exc:
            return State.HUNG, str(exc)
        except WrongError as exc:
            return State.WRONG, str(exc)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.expected[device] = kept(spot)
        return State.DONE, ""

    def _compare(self) -> None:
        """Compare once more what each job that was done has stored."""
        for device, found in self.expected.items():
            if kept_now(device) != found:
                why = "changed after it was done"
                self.ledger.ended(Outcome(device.name, "", State.WRONG, why))

    # -- faults ----------------------------------------------------------------

    def _fail(self) -> None:
        chance = random.Random(self.seed)
        while not self.over.wait(self.every_s):
            kind = chance.choice(FAULTS)
            self.ledger.failed(kind)
            if kind == KILL:
                assert self.mount.site.lab is not None
                target = chance.choice(list(self.mount.folders)).decode()
                daemon.ask(self.mount.site.lab.folder, "kill-session", target=target)
            else:
                self.mount.site.line.cut(Cut(kind), chance.uniform(0.5, 4.0))

    # -- what is held ----------------------------------------------------------

    def _sample(self) -> None:
        pid = self.mount.daemon()
        while True:
            self.ledger.sampled(held_by(pid, time.monotonic() - self.began))
            if self.over.wait(2.0):
                return


def kept_now(device: Path) -> dict[str, str]:
    """Return the hashes of a job's folder as it is."""
    from tests.reliability.jobs import hashes

    return hashes(device)


def held_by(pid: int, at_s: float) -> Sample:
    """Return what a process holds now."""
    status = Path(f"/proc/{pid}/status").read_text()
    (rss,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return Sample(at_s, int(rss.split()[1]), len(os.listdir(f"/proc/{pid}/fd")))


def tasks_of(mount: Mounted) -> Counter[str]:
    """Return the trio tasks of the daemon by name, as its log says after SIGUSR1."""
    before = len(mount.log.read_text())
    os.kill(mount.daemon(), signal.SIGUSR1)

    def said() -> str:
        return mount.log.read_text()[before:]

    wait_until(lambda: said().count("\n") > 3, "the stacks are logged")
    names = re.findall(r"^ *trio (\S+)$", said(), re.MULTILINE)
    # Those of the kernel's requests come and go with the load.
    loaded = ("pyfuse-", "pamfs.fuse.serving.")
    return Counter(name for name in names if not name.startswith(loaded))


@dataclass(frozen=True)
class Rest:
    """What the daemon and the lab hold when nothing is done."""

    daemon: Sample
    tasks: Counter[str]
    files: int


def count_left(soak: Soak, before: Rest) -> None:
    """Wait until the targets went idle; write down what is left all the same."""
    mount, ledger = soak.mount, soak.ledger
    assert mount.mount is not None
    assert mount.site.lab is not None
    folder, pid = mount.site.lab.folder, mount.daemon()
    with suppress(AssertionError):
        wait_until(lambda: not daemon.ask(folder, "sessions"), "all are idle", 90)
    ledger.leaked("sessions at the lab", len(_listed(daemon.ask(folder, "sessions"))))
    targets = mount.mount.status()["targets"]
    assert isinstance(targets, list)
    ledger.leaked("open files", sum(target["open_files"] for target in targets))
    now = held_by(pid, 0)
    ledger.leaked("descriptors", max(0, now.descriptors - before.daemon.descriptors))
    more: Counter[str] = Counter()

    def is_quiet() -> bool:
        nonlocal more
        more = tasks_of(mount) - before.tasks
        return not more

    with suppress(AssertionError):
        wait_until(is_quiet, "all have rested", 60)
    for name, count in more.items():
        ledger.leaked(f"tasks {name}", count)
    left = len(_files_of(int(str(mount.site.lab.facts["pid"])))) - before.files
    ledger.leaked("handles on devices", max(0, left))


def _listed(answer: object) -> list[object]:
    return list(answer) if isinstance(answer, list) else []


def _files_of(pid: int) -> list[str]:
    """Return the descriptors of the lab that are files of its devices."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            path = os.readlink(entry)
        except OSError:
            continue
        if "/devices/" in path:
            found.append(path)
    return found


def main() -> int:
    """Soak for ``--minutes``, report, and return what the head of the file says."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.soak")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    given = parser.parse_args()
    devices = tuple(DeviceSpec(name=name) for name in TEN)
    with own_place(myself()) as place, lab_site(place, devices) as site:
        config = site.configured(idle_close=IDLE)
        with by_pamfs(site, config) as mount:
            for folder in mount.folders.values():
                ran(place, ["ls", folder])
            lab = site.lab
            assert lab is not None
            lab_pid = int(str(lab.facts["pid"]))
            files = len(_files_of(lab_pid))
            wait_until(lambda: not daemon.ask(lab.folder, "sessions"), "idle", 60)
            before = Rest(held_by(mount.daemon(), 0), tasks_of(mount), files)
            soak = Soak(mount, given.seed, given.every)
            soak.run(given.minutes)
            count_left(soak, before)
            log = mount.log.read_text()
    sys.stdout.write(f"seed {given.seed}\n" + "\n".join(soak.ledger.lines()) + "\n")
    sys.stdout.write(f"tracebacks in the log: {log.count('Traceback')}\n")
    return 1 if soak.ledger.verdict else 0


if __name__ == "__main__":
    sys.exit(main())
