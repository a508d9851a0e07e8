"""One run of one row with one peer: a fresh mount, the script, what it cost."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from bench.peers import HOST, Peer, Place, Ssh, given_place, mounted, usage
from bench.processes import TookTooLongError, run
from bench.rows import MIB, Job, Row, Unit
from bench.server import Site, devices

TOUCHED: Final = 1536 * MIB
DROP_CACHES: Final = Path("/proc/sys/vm/drop_caches")
# Read from the disk again after the caches were dropped, before the clock starts.
_TOOLS: Final = (
    "for tool in cat cp du find fio git head ls restic rsync sqlite3 ssh tar; do"
    " $tool --version; done >/dev/null 2>&1; true"
)


# What looks at a mount while the script runs on it.
Watch = Callable[[Place], AbstractContextManager[None]]


def nobody(_: Place) -> AbstractContextManager[None]:
    """Look at nothing."""
    return nullcontext()


@dataclass(frozen=True)
class Sample:
    """What one run showed."""

    value: float
    seconds: float
    closed_s: float
    cpu_s: float
    peak_bytes: int

    def as_json(self) -> dict[str, float]:
        """Return it as it is kept."""
        return asdict(self)


@dataclass(frozen=True)
class Run:
    """A row with a peer on a site, through the relay's port, with a hard end."""

    row: Row
    peer: Peer
    site: Site
    port: int
    limit_s: float

    def measure(self, job: Job, watch: Watch = nobody) -> Sample:
        """Measure once; raises what ``bench.processes.run`` raises."""
        self._reset(job)
        if not self.row.setting.from_mount:  # there it would be the disk that is timed
            drop_caches()
        if self.row.value.unit is Unit.RATE:
            touch_memory()
        wanted = devices()[: self.row.setting.devices]
        with given_place(self.site, self.port, *wanted) as place:
            began, cpu_s = time.monotonic(), 0.0
            with mounted(self.peer, place) as files:
                environment = self._environment(job, place, files)
                if not self.row.setting.from_mount:
                    self._warm_up(environment)
                    cpu_s = usage(place).cpu_s
                    began = time.monotonic()
                with watch(place):
                    return self._timed(job, place, environment, (began, cpu_s))

    def _timed(
        self,
        job: Job,
        place: Place,
        environment: Mapping[str, str],
        start: tuple[float, float],
    ) -> Sample:
        began, cpu_s = start
        out = self._script(self._timed_script, environment)
        closed = ended = time.monotonic()
        while not self.row.work.is_stored(job):
            if time.monotonic() - began > self.limit_s:
                raise TookTooLongError([self._timed_script], self.limit_s)
            time.sleep(0.01)
            ended = time.monotonic()
        used = usage(place)
        return Sample(
            value=self.row.value.of(out, ended - began, job.size),
            seconds=ended - began,
            closed_s=closed - began,
            cpu_s=used.cpu_s - cpu_s,
            peak_bytes=used.peak_bytes,
        )

    @property
    def _timed_script(self) -> str:
        return self.row.work.script if self.peer.is_mount else self.row.work.over_ssh

    def _reset(self, job: Job) -> None:
        variables = {"SERVER": str(job.server), "LOCAL": str(job.local)}
        if self.row.work.reset:
            self._script(self.row.work.reset, {**os.environ, **variables})

    def _warm_up(self, environment: Mapping[str, str]) -> None:
        """Log in, where that waits for the first request, and what the row wants."""
        if self.peer.is_mount:
            self._script("ls $REMOTE/.. >/dev/null", environment)
        if self.row.work.warm:
            warm = self.row.work.warm if self.peer.is_mount else self.row.work.over_ssh
            self._script(warm, environment)

    def _script(self, text: str, environment: Mapping[str, str]) -> str:
        command = ["sh", "-c", text]
        return run(command, timeout_s=self.limit_s, env=dict(environment))

    def _environment(self, job: Job, place: Place, files: Path) -> dict[str, str]:
        given = {
            "HOME": str(job.local),
            "LOCAL": str(job.local),
            "N": str(job.size),
            "REMOTE": str(files / job.server.relative_to(self.site.remote)),
            "RESTIC_PASSWORD": "of-the-bench",
            "ROW": self.row.name,
            "SERVER": str(job.server),
            "TARGETS": str(files.parent),
        }
        if isinstance(self.peer, Ssh):
            given["SSH"] = " ".join([*self.peer.command(place), HOST])
        return {**os.environ, **given}


def touch_memory() -> None:
    """Have the machine's host back the memory that the next files will lie in.

    A virtual machine whose host takes free memory back pays for it page by page in
    whichever run comes first: that run was half as fast as the next ones.
    """
    with mmap.mmap(-1, TOUCHED) as memory:
        memory[:: mmap.PAGESIZE] = bytes(TOUCHED // mmap.PAGESIZE)


def drop_caches() -> bool:
    """Have the kernel forget what it can; say whether it may."""
    os.sync()
    try:
        DROP_CACHES.write_text("3")
    except OSError:
        return False
    run(["sh", "-c", _TOOLS], timeout_s=60)
    return True
