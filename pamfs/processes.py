"""Processes: callers as ``/proc`` shows them, pamfs as another one, malloc of ours.

Law: pamfs starts its own modules from the folder that it was loaded from, with ``-P``,
so that no folder that another user can write is searched for them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import site
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pamfs.descriptors import raise_shortage

# The only variables that are read from a program's environment.
PLACE_VARIABLES: Final = frozenset(
    {
        "DBUS_SESSION_BUS_ADDRESS",
        "DISPLAY",
        "GPG_TTY",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "TERM",
        "WAYLAND_DISPLAY",
        "XAUTHORITY",
        "XDG_RUNTIME_DIR",
    }
)
_PTS_MAJORS: Final = range(136, 144)  # Linux, devices.txt

# Signals that end a program unless it handles them.
_ENDING: Final = sum(
    1 << (number - 1)
    for number in (
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGKILL,
        signal.SIGTERM,
    )
)


def is_asked_to_end(status: str) -> bool:
    """Whether ``/proc/PID/status`` shows a pending signal that ends a program.

    pyfuse3 does not pass FUSE_INTERRUPT on, and the kernel keeps the signal pending
    until the request is answered: facts/peers.md#waiting-processes, and proc(5)
    (SigPnd, ShdPnd, SigBlk).
    """
    masks = {
        key: int(value, 16)
        for key, _, value in (line.partition(":") for line in status.splitlines())
        if key in {"SigPnd", "ShdPnd", "SigBlk"}
    }
    pending = masks.get("SigPnd", 0) | masks.get("ShdPnd", 0)
    return bool(pending & ~masks.get("SigBlk", 0) & _ENDING)


def wants_to_end(pid: int) -> bool:
    """Whether the process has been asked to end.

    False if ``/proc`` does not show the process: a process that waits for an answer
    exists, so another one opened the file, or ``hidepid`` is set.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return False
    return is_asked_to_end(status)


def program_of(pid: int) -> str:
    """Return the program's name as the kernel knows it, or an empty string."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def job_of(pid: int) -> int | None:
    """Return the process group: what a shell started at once, and a script all of."""
    try:
        return os.getpgid(pid) if pid > 0 else None
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Terminal:
    """The controlling terminal of a process."""

    path: Path
    is_in_foreground: bool  # whether the shell has lent it to this very process


@dataclass(frozen=True, slots=True)
class Confinement:
    """What limits a process: proc(5), capabilities(7), seccomp(2), namespaces(7)."""

    no_new_privileges: int
    seccomp_filters: int
    bounding_set: int  # the capabilities that it or its programs can ever have
    places: tuple[tuple[int, int], ...]  # its root and its namespaces

    def is_narrower_than(self, other: Confinement) -> bool:
        """Whether there is something that ``other`` may do and this one may not."""
        return (
            self.no_new_privileges > other.no_new_privileges
            or self.seccomp_filters > other.seccomp_filters
            or bool(other.bounding_set & ~self.bounding_set)
            or self.places != other.places
        )


# In another user or mount namespace the same number is another user, and the same
# path another file, terminals and sockets included.
_PLACES: Final = ("root", "ns/mnt", "ns/user")


def _confinement_of(folder: Path, status: Mapping[str, str]) -> Confinement:
    found = [(folder / name).stat() for name in _PLACES]
    return Confinement(
        no_new_privileges=int(status.get("NoNewPrivs", "0")),
        # Seccomp_filters is there since Linux 5.9; Seccomp is 0, 1 or 2.
        seccomp_filters=int(status.get("Seccomp_filters", status.get("Seccomp", "0"))),
        bounding_set=int(status.get("CapBnd", "0"), 16),
        places=tuple((place.st_dev, place.st_ino) for place in found),
    )


def _status_of(folder: Path) -> Mapping[str, str]:
    lines = (folder / "status").read_text(errors="replace").splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key: value.strip() for key, _, value in pairs}


def belongs_to(pid: int, uid: int) -> bool:
    """Whether the process runs as ``uid`` in every respect, and as free as we do.

    A program that changed its user does not count as either user's. One that is
    confined more than this process (no new privileges, seccomp, fewer capabilities,
    another root or namespace) counts as no user's: a question shown where it says
    would be shown outside its confinement, by a program that it could not start.
    """
    folder, own = Path(f"/proc/{pid}"), Path("/proc/self")
    try:
        status = _status_of(folder)
        theirs = _confinement_of(folder, status)
        ours = _confinement_of(own, _status_of(own))
    except OSError as exc:
        raise_shortage(exc)
        return False
    except ValueError:
        return False
    is_same = set(status.get("Uid", "").split()) == {str(uid)}
    return is_same and not theirs.is_narrower_than(ours)


def terminal_of(pid: int, job: int | None = None) -> Terminal | None:
    """Return the terminal of the session that ``pid`` is in, if it has one.

    ``job`` is the process group that may be in front there, if not its own.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError as exc:
        raise_shortage(exc)
        return None
    # proc(5): after the name in brackets come state, ppid, pgrp, session, ...
    _, _, group, _, device, foreground, *_ = text.rpartition(")")[2].split()
    path = _terminal_path(pid, int(device))
    is_in_foreground = int(foreground) == (job or int(group))
    return Terminal(path, is_in_foreground) if path else None


def place_in(environment: bytes) -> Mapping[str, str]:
    """Return the ``PLACE_VARIABLES`` in a ``/proc/PID/environ``, and no others."""
    items = environment.decode(errors="replace").split("\0")
    pairs = (item.partition("=") for item in items)
    return {key: value for key, _, value in pairs if key in PLACE_VARIABLES and value}


def _is_device(path: Path) -> bool:
    return path.is_relative_to("/dev")


def _terminal_path(pid: int, device: int) -> Path | None:
    if device == 0:
        return None
    # The kernel packs the number as new_encode_dev does, stat(2) as makedev(3).
    major = (device >> 8) & 0xFFF
    minor = (device & 0xFF) | ((device >> 12) & 0xFFF00)
    is_pts = major in _PTS_MAJORS
    index = (major - _PTS_MAJORS.start) * 256 + minor
    guesses = [Path(f"/dev/pts/{index}")] if is_pts else [Path(f"/dev/tty{minor}")]
    guesses += [Path(f"/proc/{pid}/fd/{fd}") for fd in range(3)]
    for guess in guesses:
        try:
            # What a program has open may be a file of this very mount, and a look
            # at that would wait for ourselves.
            leads_away = guess.is_symlink() and not _is_device(guess.readlink())
            if not leads_away and guess.stat().st_rdev == os.makedev(major, minor):
                return guess.resolve()
        except OSError:
            continue
    return None


_ROOT: Final = Path(__file__).resolve().parents[1]


def self_command(module: str, *words: str) -> list[str]:
    """Return what runs ``module`` with ``words``; start it in ``/``."""
    return [sys.executable, "-P", "-m", module, *words]


def self_environment() -> dict[str, str]:
    """Return our environment, in which this package is found, installed or not."""
    found = dict(os.environ)
    paths = found.get("PYTHONPATH", "").split(os.pathsep)
    others = [path for path in paths if path and path != str(_ROOT)]
    return {**found, **python_path(*others)}


def python_path(*others: str) -> dict[str, str]:
    """Return the PYTHONPATH that this package needs, with ``others`` behind it.

    An installed one needs none, and the programs that we start are spared it.
    """
    if str(_ROOT) in {*site.getsitepackages(), site.getusersitepackages()}:
        return {}
    return {"PYTHONPATH": os.pathsep.join([str(_ROOT), *others])}


_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 32 * 1024 * 1024  # the most that mallopt(3) allows


def keep_buffers() -> None:
    """Make this process's malloc reuse freed buffers instead of mapping new ones.

    Each packet of 128 KiB lies above malloc's threshold for mmap otherwise, and
    costs its page faults. Nothing happens without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            mallopt(option, _KEPT_BYTES)
