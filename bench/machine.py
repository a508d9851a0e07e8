"""What the figures were measured on: the machine, the versions, the load."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path

from bench.peers import Peer
from bench.processes import FailedError, run


def machine() -> dict[str, object]:
    """Return what is worth knowing of this machine."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory_gib": round(_memory_bytes() / (1 << 30), 1),
        "kernel": platform.release(),
        "system": _field("/etc/os-release", "PRETTY_NAME", separator="=").strip('"'),
        "python": platform.python_version(),
    }


def versions(peers: Iterable[Peer]) -> dict[str, str]:
    """Return the version of each peer and of the server."""
    found = {peer.name: peer.version() for peer in peers}
    found["sshd"] = run(["sh", "-c", "/usr/sbin/sshd -V 2>&1"], timeout_s=10)
    found["commit"] = commit()
    return found


def commit() -> str:
    """Return the commit of this checkout, with a plus if pamfs was changed since."""
    try:
        name = run(["git", "rev-parse", "--short", "HEAD"], timeout_s=10)
        changed = run(["git", "status", "--porcelain", "pamfs"], timeout_s=10)
    except FailedError:
        return "none"
    return f"{name}+" if changed else name


def load() -> float:
    """Return how many processes wanted to run, over the last minute."""
    return round(os.getloadavg()[0], 2)


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _field(path: str, key: str, separator: str = ":") -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(separator)
        if name.strip() == key:
            return value.strip()
    return "unknown"
