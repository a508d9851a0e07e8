"""The lines of a known_hosts file that speak of one proxy.

Law: a revoked key is revoked however its line names the proxy, with its port or
without. A line without the port is of another server of that host: it may vouch for
a key, and never says that one has changed (as OpenSSH has it).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncssh

SSH_PORT: Final = 22

Keys = Sequence[asyncssh.SSHKey]


@dataclass(frozen=True, slots=True)
class Lines:
    """What a file says of one proxy; ``is_own``: the lines name it with its port."""

    trusted: Keys
    authorities: Keys
    revoked: Keys
    is_own: bool

    @property
    def speak_for(self) -> bool:
        """Whether they say what its key is."""
        return self.is_own and bool([*self.trusted, *self.authorities])


@dataclass(frozen=True, slots=True)
class KnownHosts:
    """What a file says; without ``parsed``, nothing."""

    parsed: asyncssh.SSHKnownHosts = field(default_factory=asyncssh.SSHKnownHosts)

    def lines(self, host: str, addr: str, port: int) -> Lines:
        """Return the lines of ``host``, which is at ``addr`` if that is not empty."""
        plain = self.parsed.match(host, addr, None)[:3]
        if port == SSH_PORT:
            return Lines(*plain, is_own=True)
        # asyncssh asks again without the port if no key is trusted with it, and
        # forgets what is revoked then; so the port is a part of the name here.
        own = [self.parsed.match(named(host, port), "", None)[:3]]
        own += [self.parsed.match(named(addr, port), "", None)[:3]] if addr else []
        trusted, authorities, revoked = (
            [key for keys in kind for key in keys] for kind in zip(*own, strict=True)
        )
        revoked += plain[2]
        if trusted or authorities:
            return Lines(trusted, authorities, revoked, is_own=True)
        return Lines(plain[0], plain[1], revoked, is_own=False)


def read_known_hosts(file: Path) -> KnownHosts:
    """Return what ``file`` says, which need not be there.

    Raises ``OSError`` or ``ValueError``.
    """
    try:
        return KnownHosts(asyncssh.import_known_hosts(file.read_text("utf-8")))
    except FileNotFoundError:
        return KnownHosts()


def named(host: str, port: int) -> str:
    """Return the name of a server there: a port other than 22 in brackets."""
    return host if port == SSH_PORT else f"[{host}]:{port}"


def append_line(file: Path, line: bytes) -> None:
    """Append ``line`` in one write; the file and its folder are made private.

    A last line that lacks its newline is ended first. Raises ``OSError``, also when
    there is no room for all of it: half a line makes a file that nobody can read.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "r+b", buffering=0) as opened:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            line = b"\n" + line
        written = opened.write(line)
        if written < len(line):
            if os.fstat(fd).st_size == size + written:  # nobody else's is behind it
                os.ftruncate(fd, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
