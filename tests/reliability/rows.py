"""One function for each case of docs/reliability.md: what becomes of it, in words.

Each takes a ``Bench`` (who mounts what) and returns the outcome as the table says it.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import statistics
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pamfs.lab import daemon
from pamfs.lab.spec import DeviceSpec
from tests.mount.harness import Place
from tests.mount.mounts import is_mounted, make_folder
from tests.mount.waiting import wait_until
from tests.reliability.jobs import JOBS, HungError, Spot, ToldError, WrongError
from tests.reliability.kills import killed
from tests.reliability.line import Cut
from tests.reliability.programs import (
    CHANGES,
    MAPS,
    READS,
    WRITES,
    Ran,
    blocks_of,
    digest,
    listed,
    noise,
    ran,
    talk,
)
from tests.reliability.sites import (
    Mounted,
    Site,
    by_pamfs,
    by_sshfs,
    lab_site,
    openssh_site,
)

MIB: Final = 1 << 20
KINDS: Final = (Cut.RESET, Cut.FINISH, Cut.RESTART, Cut.CORRUPT)
PROGRAM_S: Final = 900.0  # a guard against a hang, not a figure
NAMES: Final = ("mkdir", "rename", "unlink", "exclusive create")
BAD_SERVER: Final = Path(__file__).with_name("bad_server.py")


@dataclass(frozen=True)
class Bench:
    """Where a case is tried, and by which client."""

    place: Place
    client: str

    @contextmanager
    def mounted(
        self, subsystem: str = "internal-sftp", rate: int = 0
    ) -> Iterator[Mounted]:
        """Mount plain OpenSSH behind a line; a quick login either way."""
        with ExitStack() as stack:
            site = stack.enter_context(
                openssh_site(self.place, subsystem, rate_bytes_s=rate)
            )
            by = by_pamfs if self.client == "pamfs" else by_sshfs
            mount = stack.enter_context(by(site))
            ran(self.place, ["ls", mount.folder])
            yield mount


Row = Callable[[Bench], str]


def waited(seconds: float) -> None:
    """Let time pass: it is what is measured."""
    threading.Event().wait(seconds)


# -- cp into the mount ---------------------------------------------------------


def cp_in(mount: Mounted, mib: int, name: str) -> tuple[Ran, str]:
    """Copy into the mount; return how it ended, and what is stored."""
    source = mount.place.folder / f"source-{mib}"
    if not source.exists():
        noise(source, mib * MIB)
    done = ran(mount.place, ["cp", source, mount.there(name)])
    return done, stored(source, mount.device / name)


def stored(source: Path, copy: Path) -> str:
    """Say what ``copy`` is, compared with its source."""
    if not copy.exists():
        return "nothing stored"
    if digest(copy) == digest(source):
        return "equal"
    whole, part = source.read_bytes(), copy.read_bytes()
    kind = "a prefix" if whole.startswith(part) else "a wrong file"
    return f"{kind} of {100 * len(part) // len(whole)} %"


def cp_one_cut(bench: Bench, kind: Cut) -> str:
    """Cut a copy of 64 MiB once, after 20 MiB."""
    with bench.mounted() as mount:
        mount.site.line.cut_after(kind, 20 * MIB)
        done, what = cp_in(mount, 64, "copy")
        return f"{done}, {what}"


def cp_twenty_cuts(bench: Bench) -> str:
    """Cut a copy of 256 MiB twenty times, in four kinds."""
    with bench.mounted() as mount:
        for number in range(20):
            kind = KINDS[number % len(KINDS)]
            mount.site.line.cut_after(kind, (number + 1) * 12 * MIB)
        done, what = cp_in(mount, 256, "copy")
        return f"{done}, {what}, {mount.site.line.cuts} cuts"


def cp_killed_session(bench: Bench) -> str:
    """Have the administrator of the PAM kill the session during a copy."""
    if bench.client != "pamfs":
        return "-"
    with lab_site(bench.place) as site, by_pamfs(site) as mount:
        noise(bench.place.folder / "source-64", 64 * MIB)
        began = site.line.carried

        def kill() -> None:
            wait_until(lambda: site.line.carried > began + 20 * MIB, "it is under way")
            assert site.lab is not None
            daemon.ask(site.lab.folder, "kill-session", target="root@web01")

        killer = threading.Thread(target=kill)
        killer.start()
        done, what = cp_in(mount, 64, "copy")
        killer.join()
        return f"{done}, {what}"


def half_and_half(mount: Mounted, flags: int, every: int) -> str:
    """Cut between two halves of what one handle writes; say what is stored."""
    blocks, size = 400, 8192
    plan = json.dumps([os.fsdecode(mount.there("f")), flags, blocks, size, every])
    with talk(mount.place, WRITES, plan) as writer:
        writer.hear()
        mount.site.line.cut(Cut.RESET)
        writer.go_on()
        lines = writer.rest()
    told, took_s = told_of(lines)
    found = blocks_of(mount.device / "f", size)
    whole = (
        "equal" if found == list(range(blocks)) else f"{len(found)} of {blocks} blocks"
    )
    what = "success" if not told else ", ".join(f"{k} {v}" for k, v in told.items())
    return f"{what} after {took_s:.1f} s, {whole}"


def told_of(lines: list[str]) -> tuple[dict[str, str], float]:
    """Return what ``WRITES`` was told by each call, and in what time."""
    if not lines:
        return {"program": "has no end"}, 0.0
    told, _, took_s = json.loads(lines[-1])
    return told, took_s


def fsynced(bench: Bench) -> str:
    """Cut a handle that was fsynced, and have it write on."""
    with bench.mounted() as mount:
        return half_and_half(mount, 0, 50)


def appended(bench: Bench) -> str:
    """Cut a handle opened to append, and have it write on."""
    with bench.mounted() as mount:
        return half_and_half(mount, os.O_APPEND, 0)


# -- programs ------------------------------------------------------------------

SILENT_TOO: Final = (Cut.RESET, Cut.FINISH, Cut.SILENCE, Cut.RESTART)


def gib_each_way(bench: Bench, mib: int = 1024) -> str:
    """Copy 1 GiB in and out, each with twenty cuts of four kinds."""
    said = []
    with bench.mounted() as mount:
        source = noise(mount.place.folder / "source", mib * MIB)
        copy = mount.place.folder / "copy"
        ways: dict[str, tuple[Path | bytes, Path | bytes, Path]] = {
            "in": (source, mount.there("f"), mount.device / "f"),
            "out": (mount.there("f"), copy, copy),
        }
        for way, (old, new, found) in ways.items():
            if way == "out":
                shutil.copy(source, mount.device / "f")
            began = mount.site.line.cuts
            for number in range(20):
                kind = SILENT_TOO[number % len(SILENT_TOO)]
                mount.site.line.cut_after(kind, (number + 1) * mib * MIB // 22)
            done = ran(mount.place, ["cp", old, new], 1500)
            cuts = mount.site.line.cuts - began
            mount.site.line.disarm()
            said.append(f"{way}: {done}, {stored(source, found)}, {cuts} cuts")
    return "; ".join(said)


def program_cut(job: str, step: int, files: int = 2000) -> Row:
    """Return a row: one program, cut every ``step`` bytes, twenty times."""

    def row(bench: Bench) -> str:
        with bench.mounted() as mount:
            folder = make_folder(mount.place, "spot")
            device = make_folder(mount.place, "device/spot")
            for number in range(20):
                kind = KINDS[number % len(KINDS)]
                mount.site.line.cut_after(kind, (number + 1) * step)
            there = mount.there("spot")
            spot = Spot(mount.place, folder, there, device, 7, files, PROGRAM_S)
            try:
                JOBS[job](spot)
            except (ToldError, HungError, WrongError) as exc:
                said = f"{type(exc).__name__.removesuffix('Error').lower()}: {exc}"
            else:
                said = "success, equal"
            return f"{said}; {mount.site.line.cuts} cuts"

    return row


# -- names ---------------------------------------------------------------------


def names(bench: Bench) -> str:
    """Lose the answer to each of four changes of a name."""
    told, happened, took = Counter[str](), 0, []
    for what in NAMES:
        place_of = make_folder(bench.place, what.replace(" ", "-"))
        with (
            openssh_site(Place(bench.place.account, place_of)) as site,
            (by_pamfs if bench.client == "pamfs" else by_sshfs)(site) as mount,
        ):
            said, took_s, is_done = one_change(mount, what)
            told[said] += 1
            happened += is_done
            took.append(took_s)
    outcomes = ", ".join(f"{count} {said}" for said, count in told.items())
    return (
        f"{outcomes}; done on the device {happened} of {len(NAMES)}; {max(took):.1f} s"
    )


def one_change(mount: Mounted, what: str) -> tuple[str, float, bool]:
    """Do ``what``, whose answer is lost; return errno, seconds, whether it is done."""
    old, new = mount.device / "old", mount.device / "new"
    if what in {"rename", "unlink", "chmod"}:
        old.write_bytes(b"content")
    if what == "rmdir":
        old.mkdir()
    ran(mount.place, ["ls", "-l", mount.folder])
    with talk(mount.place, CHANGES, what, mount.there("old"), mount.there("new")) as it:
        it.hear()
        before = sorted(os.listdir(mount.device))
        mount.site.line.cut_on_answer(Cut.RESET)
        it.go_on()
        lines = it.rest()
    said, took_s = json.loads(lines[-1]) if lines else ("no end", 0.0)
    is_done = sorted(os.listdir(mount.device)) != before
    if what == "chmod":
        is_done = old.stat().st_mode & 0o777 == 0o640
    if what == "rename":
        is_done = new.exists() and not old.exists()
    return said or "success", took_s, is_done


# -- reads ---------------------------------------------------------------------


def proxy_away(bench: Bench) -> str:
    """Restart the proxy under eight readers; it is away for eight seconds."""
    with bench.mounted() as mount, ExitStack() as stack:
        files = [noise(mount.device / f"f{n}", 8 * MIB, n) for n in range(8)]
        readers = [
            stack.enter_context(talk(mount.place, READS, mount.there(file.name)))
            for file in files
        ]
        for reader in readers:
            reader.hear()
        mount.site.line.cut(Cut.RESTART, 8.0)
        for reader in readers:
            reader.go_on()
        first = ran(mount.place, ["ls", mount.there("..")])
        told = Counter[str]()
        took = [0.0]
        for reader, file in zip(readers, files, strict=True):
            for line in reader.rest():
                said, found, took_s = json.loads(line)
                right = "equal" if found == digest(file) else "WRONG"
                told[said or right] += 1
                took.append(took_s)
        outcomes = ", ".join(f"{count} {said}" for said, count in told.items())
        return f"{outcomes} after {max(took):.1f} s (ls of the mount {first})"


def active_reads(bench: Bench, cuts: int = 10) -> str:
    """Read 128 MiB with ten resets, and without."""
    with bench.mounted() as mount:
        source = noise(mount.device / "f", 128 * MIB)
        plain = ran(mount.place, ["cp", mount.there("f"), mount.place.folder / "one"])
        again = noise(mount.device / "g", 128 * MIB, 1)
        for number in range(cuts):
            mount.site.line.cut_after(Cut.RESET, (number + 1) * 11 * MIB)
        cut = ran(mount.place, ["cp", mount.there("g"), mount.place.folder / "two"])
        what = stored(again, mount.place.folder / "two")
        assert stored(source, mount.place.folder / "one") == "equal"
        each_s = (cut.took_s - plain.took_s) / max(1, mount.site.line.cuts)
        return f"{cut}, {what}; {each_s:.2f} s for each of {mount.site.line.cuts} cuts"


def silent_drop(bench: Bench) -> str:
    """Drop a connection silently under a reader; new ones work."""
    return _silence(bench, lambda site: site.line.cut(Cut.SILENCE))


def frozen_proxy(bench: Bench) -> str:
    """Freeze the proxy for good under a reader."""
    return _silence(bench, lambda site: site.line.freeze())


def _silence(bench: Bench, fall: Callable[[Site], None]) -> str:
    with bench.mounted() as mount:
        source = noise(mount.device / "f", 64 * MIB)
        with talk(mount.place, READS, mount.there("f")) as reader:
            reader.hear()
            fall(mount.site)
            reader.go_on()
            lines = reader.rest(200)
        if not lines:
            return "no end in 200 s"
        said, found, took_s = json.loads(lines[-1])
        right = "equal" if found == digest(source) else "WRONG"
        return f"{said or right} after {took_s:.1f} s"


# -- two targets, a stopped daemon, no descriptors -----------------------------


def two_targets(bench: Bench) -> str:
    """One program reads files on two targets that both lose their session."""
    if bench.client != "pamfs":
        return "-"
    devices = tuple(DeviceSpec(name=f"d{n}") for n in range(2))
    with lab_site(bench.place, devices) as site, by_pamfs(site) as mount:
        for target, device in site.devices.items():
            noise(device / "f", 6 * MIB)
            ran(bench.place, ["ls", mount.folders[target]])
        paths = [mount.there("f", target) for target in site.devices]
        with talk(mount.place, READS, listed(mount.place, paths)) as reader:
            reader.hear()
            site.line.cut(Cut.RESET)
            reader.go_on()
            told = [json.loads(line)[0] or "equal" for line in reader.rest()]
        return ", ".join(told)


def stopped_daemon(bench: Bench, stopped_s: float = 65.0) -> str:
    """Stop the client for a minute while a program writes."""
    with bench.mounted() as mount:
        pid = mount.daemon() if bench.client == "pamfs" else _sshfs_of(mount)
        plan = json.dumps([os.fsdecode(mount.there("f")), 0, 2000, 65536, 0])
        with talk(mount.place, WRITES, plan) as writer:
            writer.hear()
            writer.go_on()
            os.kill(pid, signal.SIGSTOP)
            try:
                waited(stopped_s)
            finally:
                os.kill(pid, signal.SIGCONT)
            lines = writer.rest()
        told, _ = told_of(lines)
        found = blocks_of(mount.device / "f", 65536)
        whole = (
            "equal" if found == list(range(2000)) else f"{len(found)} of 2000 blocks"
        )
        return ", ".join(f"{k} {v}" for k, v in told.items()) or f"success, {whole}"


def _sshfs_of(mount: Mounted) -> int:
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[0] == b"sshfs" and os.fsencode(mount.point) in words:
                return int(entry.name)
    raise AssertionError("no sshfs")


def no_descriptors(bench: Bench, hold_s: float = 5.0) -> str:
    """Leave the daemon no descriptor: serve, tell, log in, recover."""
    if bench.client != "pamfs":
        return "-"
    devices = tuple(DeviceSpec(name=f"d{n}") for n in range(2))
    with lab_site(bench.place, devices) as site, by_pamfs(site) as mount:
        first, second = site.devices
        noise(site.devices[first] / "f", MIB)
        noise(site.devices[first] / "g", MIB)
        assert ran(bench.place, ["cat", mount.there("f", first)]).code == 0
        pid = mount.daemon()
        limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, limit[1]))
        before = mount.log.read_text()
        served = ran(bench.place, ["cat", mount.there("g", first)], 20)
        status = _status(mount)
        login = ran(bench.place, ["ls", mount.folders[second]], 40)
        waited(hold_s)
        tracebacks = mount.log.read_text()[len(before) :].count("Traceback")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
        after = ran(bench.place, ["ls", mount.folders[second]], 40)
        return (
            f"open session: {'served' if served.code == 0 else served};"
            f" status: {status};"
            f" login: {login}; {tracebacks} tracebacks; a login afterwards: {after}"
        )


def _status(mount: Mounted) -> str:
    assert mount.mount is not None
    done = ran(
        mount.place,
        [mount.place.account.python, "-m", "pamfs", "status", mount.point],
        20,
    )
    return "answers" if done.code == 0 else str(done)


# -- data that cannot be stored ------------------------------------------------


def locked_operator(bench: Bench) -> str:
    """Lock the operator while a shared map is dirty; who is told?"""
    if bench.client != "pamfs":
        return "-"
    with lab_site(bench.place) as site, by_pamfs(site) as mount:
        noise(mount.device / "f", 65536).chmod(0o666)
        assert site.lab is not None
        with talk(mount.place, MAPS, mount.there("f")) as program:
            program.hear()
            site.lab.admin("lock", "alice")
            site.lab.admin("kill-session", "root@web01")
            program.go_on()
            lines = program.rest()
        said = json.loads(lines[-1]) if lines else {"": "no end"}
        pamfs = [bench.place.account.python, "-m", "pamfs"]
        status = ran(bench.place, [*pamfs, "status", mount.point])
        log = "yes" if "data was not stored" in mount.log.read_text() else "no"
        shown = "yes" if "not stored" in status.text else "no"
        gone = ran(bench.place, [*pamfs, "umount", mount.point])
        told = ", ".join(f"{call} {what}" for call, what in said.items())
        return f"{told}; log {log}; status {shown}; umount exits with {gone.code}"


# -- a narrow line -------------------------------------------------------------


def narrow_line(bench: Bench) -> str:
    """List folders and read small files beside two big writes at 1 MB/s."""
    with bench.mounted(rate=1_000_000) as mount, ExitStack() as stack:
        for number in range(6):
            folder = make_folder(mount.place, f"device/dir{number}")
            noise(folder / "small", 4096)
        source = noise(mount.place.folder / "big", 24 * MIB)
        for number in range(2):
            copy = mount.place.open(["cp", source, mount.there(f"big{number}")])
            stack.callback(copy.communicate)
            stack.callback(copy.kill)
        waited(4)
        took = []
        for number in range(5):
            done = ran(mount.place, ["ls", "-l", mount.there(f"dir{number}")], 60)
            took.append(done.took_s)
            waited(0.5)
        return f"ls {statistics.median(took):.1f} s (median), {max(took):.1f} s at most"


# -- the end -------------------------------------------------------------------


def idle_unmount(bench: Bench, times: int = 20) -> str:
    """Unmount after a listing, twenty times, with two busy programs beside it."""
    with openssh_site(bench.place) as site, ExitStack() as stack:
        for _ in range(2):
            busy = bench.place.open(
                [bench.place.account.python, "-c", "while True: pass"]
            )
            stack.callback(busy.communicate)
            stack.callback(busy.kill)
        took = [_unmounted(bench, site, number) for number in range(times)]
    slow = sum(took_s > 2 for took_s in took)
    return (
        f"{statistics.median(took):.2f} s (median), {max(took):.1f} s at most;"
        f" {slow} of {times} over 2 s"
    )


def _unmounted(bench: Bench, site: Site, number: int) -> float:
    if bench.client != "pamfs":
        with by_sshfs(site) as mount:
            ran(bench.place, ["ls", mount.folder])
            done = ran(bench.place, ["fusermount3", "-u", mount.point], 60)
            wait_until(lambda: not is_mounted(mount.point), "it is gone")
        mount.point.rmdir()
        return done.took_s
    with by_pamfs(site, name=f"mnt{number}") as mount:
        ran(bench.place, ["ls", mount.folder])
        python = bench.place.account.python
        done = ran(bench.place, [python, "-m", "pamfs", "umount", mount.point], 60)
    return done.took_s


# -- a server that breaks the protocol -----------------------------------------


def wrong_ids(bench: Bench) -> str:
    """Access a device five times that answers with a wrong id; count the logins."""
    command = f"{bench.place.account.python} {BAD_SERVER} wrong-id"
    with openssh_site(bench.place, command) as site, ExitStack() as stack:
        if bench.client != "pamfs":
            try:
                mount = stack.enter_context(by_sshfs(site))
            except AssertionError as exc:
                return f"no mount: {str(exc).strip()[-60:]}"
        else:
            mount = stack.enter_context(by_pamfs(site))
        told = Counter(
            ran(bench.place, ["ls", mount.folder], 60).reason for _ in range(5)
        )
        said = ", ".join(f"{count} {what}" for what, count in told.items())
        return f"{said}; {site.line.connections} logins"


def killed_daemon(bench: Bench, times: int = 20) -> str:
    """Kill the daemon at moments of logins with checkouts, and of writes."""
    return killed(bench.place, times) if bench.client == "pamfs" else "-"


ROWS: Final[dict[str, Row]] = {
    **{
        f"cp in, 64 MiB, one {kind}": lambda b, kind=kind: cp_one_cut(b, kind)  # type: ignore[misc]
        for kind in KINDS
    },
    "cp in, 64 MiB, one kill of the session": cp_killed_session,
    "cp in, 256 MiB, 20 cuts of four kinds": cp_twenty_cuts,
    "a handle that was fsynced writes on after a cut": fsynced,
    "a handle that appends writes on after a cut": appended,
    "cp of 1 GiB in and out, 20 cuts each": gib_each_way,
    "rsync -a of 2,000 files, 20 cuts": program_cut("rsync", 1_700_000),
    "tar x of 2,000 files, 20 cuts": program_cut("tar", 1_700_000),
    "git push of 2,000 files, 20 cuts": program_cut("git", 1_500_000),
    "restic backup of 2,000 files, 20 cuts": program_cut("restic", 1_700_000),
    "sqlite, 20 transactions, 20 cuts": program_cut("sqlite", 16_000),
    "mkdir, rename, unlink, exclusive create; the answer is lost": names,
    "proxy away for 8 s under 8 readers": proxy_away,
    "cut under active reads": active_reads,
    "silent drop under a reader": silent_drop,
    "frozen proxy under a reader": frozen_proxy,
    "one program reads on two targets, both lose their session": two_targets,
    "client stopped for 65 s while a program writes": stopped_daemon,
    "daemon out of file descriptors": no_descriptors,
    "operator locked while a shared map is dirty": locked_operator,
    "1 MB/s, two big writes, ls beside them": narrow_line,
    "unmount of an idle mount, under load": idle_unmount,
    "device that answers with a wrong id, five accesses": wrong_ids,
    "kill -9 of the daemon in logins and writes, 20 times": killed_daemon,
}
