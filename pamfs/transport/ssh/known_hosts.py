"""The lines of a known_hosts file that speak of one proxy.

Law: a revoked key is revoked however its line names the proxy, with its port or
without. A line without the port is of another server of that host: it may vouch for
a key, and never says that one has changed (as OpenSSH has it). A line that cannot be
read is skipped and said once, as OpenSSH does; but if it revokes a key, and the
server that it names shows keys of that kind, which key it means is not known: that
server is refused.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncssh
from asyncssh.public_key import get_certificate_algs, get_public_key_algs

log = logging.getLogger(__name__)

SSH_PORT: Final = 22

Keys = Sequence[asyncssh.SSHKey]

_MARKERS: Final = frozenset({"@revoked", "@cert-authority"})
# More of them are counted, not listed.
_MOST_LISTED: Final = 5
# Stands for a key that cannot be read: what matters is whom its line names.
_STAND_IN: Final = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
)
# What was said of a file last: it is read for each login.
_said: Final[dict[Path, str]] = {}


@dataclass(frozen=True, slots=True)
class Lines:
    """What a file says of one proxy; ``is_own``: the lines name it with its port.

    ``unread`` are the numbers of lines that revoke a key of it and cannot be read.
    """

    trusted: Keys
    authorities: Keys
    revoked: Keys
    is_own: bool
    unread: Sequence[int] = ()

    @property
    def speak_for(self) -> bool:
        """Whether they say what its key is."""
        return self.is_own and bool([*self.trusted, *self.authorities])


@dataclass(frozen=True, slots=True)
class _Unread:
    """A line that revokes a key and cannot be read."""

    number: int
    parsed: asyncssh.SSHKnownHosts

    def names(self, host: str, addr: str, port: int) -> bool:
        """Return whether it names this server."""
        found = KnownHosts(self.parsed).lines(host, addr, port)
        return bool(found.revoked)


@dataclass(frozen=True, slots=True)
class KnownHosts:
    """What a file says; without ``parsed``, nothing."""

    parsed: asyncssh.SSHKnownHosts = field(default_factory=asyncssh.SSHKnownHosts)
    unread: Sequence[_Unread] = ()

    def lines(self, host: str, addr: str, port: int) -> Lines:
        """Return the lines of ``host``, which is at ``addr`` if that is not empty."""
        unread = [one.number for one in self.unread if one.names(host, addr, port)]
        plain = self.parsed.match(host, addr, None)[:3]
        if port == SSH_PORT:
            return Lines(*plain, is_own=True, unread=unread)
        # asyncssh asks again without the port if no key is trusted with it, and
        # forgets what is revoked then; so the port is a part of the name here.
        own = [self.parsed.match(named(host, port), "", None)[:3]]
        own += [self.parsed.match(named(addr, port), "", None)[:3]] if addr else []
        trusted, authorities, revoked = (
            [key for keys in kind for key in keys] for kind in zip(*own, strict=True)
        )
        revoked += plain[2]
        if trusted or authorities:
            return Lines(trusted, authorities, revoked, is_own=True, unread=unread)
        return Lines(plain[0], plain[1], revoked, is_own=False, unread=unread)


class _SkippedError(ValueError):
    """Why a line is skipped; ``unread`` if it may still revoke a key."""

    def __init__(self, why: str, unread: asyncssh.SSHKnownHosts | None = None) -> None:
        super().__init__(why)
        self.unread = unread


def read_known_hosts(file: Path) -> KnownHosts:
    """Return what ``file`` says, which need not be there; raise ``OSError``."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return KnownHosts()
    parsed, unread, skipped = asyncssh.SSHKnownHosts(), [], []
    for number, line in _lines_of(content):
        try:
            _load(parsed, line)
        except _SkippedError as exc:
            skipped.append(f"line {number}: {exc}")
            unread += [_Unread(number, exc.unread)] if exc.unread else []
    _say(file, skipped)
    return KnownHosts(parsed, unread)


def _lines_of(content: bytes) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line; like OpenSSH, only up to a NUL."""
    for number, raw in enumerate(content.split(b"\n"), 1):
        text = raw.split(b"\0")[0].decode("utf-8", "surrogateescape").strip(" \t\r")
        if text and not text.startswith("#"):
            yield number, text


def _load(parsed: asyncssh.SSHKnownHosts, line: str) -> None:
    """Add a line to ``parsed``, without its comment; raise ``_SkippedError``."""
    fields = line.split()
    marker = fields.pop(0) if line.startswith("@") else ""
    if marker and marker not in _MARKERS:
        raise _SkippedError("its marker is unknown")
    if not fields:
        raise _SkippedError("it names no server")
    names, kind, key = [*fields[:3], "", ""][:3]
    try:
        public = _public_key(kind, key)
        parsed.load(f"{marker} {names} {public}")
    except ValueError:
        unread = _unread_revocation(names, kind) if marker == "@revoked" else None
        why = "it revokes a key that cannot be read" if unread else "no key is read"
        raise _SkippedError(why, unread) from None


def _public_key(kind: str, key: str) -> str:
    """Return the key in the form of the file; of a certificate, the key in it."""
    data = f"{kind} {key}"
    try:
        asyncssh.import_public_key(data)
    except asyncssh.KeyImportError:
        return asyncssh.import_certificate(data).key.export_public_key().decode()
    return data


def _unread_revocation(names: str, kind: str) -> asyncssh.SSHKnownHosts | None:
    """Return whom a line names that revokes a key which cannot be read.

    None for a kind of key that no server can show us, and if that is not known.
    """
    usable = [*get_public_key_algs(), *get_certificate_algs()]
    if kind and kind.encode(errors="surrogateescape") not in usable:
        return None
    try:
        return asyncssh.SSHKnownHosts(f"@revoked {names} {_STAND_IN}")
    except ValueError:
        return None


def _say(file: Path, skipped: Sequence[str]) -> None:
    """Log what was skipped, once."""
    more = len(skipped) - _MOST_LISTED
    text = "; ".join(skipped[:_MOST_LISTED]) + (
        f"; and {more} more" if more > 0 else ""
    )
    if text and _said.get(file) != text:
        log.warning("%s: lines that cannot be read are skipped: %s", file, text)
    _said[file] = text


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
