"""The host key check: which key of a proxy is accepted, by policy and known_hosts.

``HostKeyVerifier`` is the policy of one login: ask, strict, accept-new or pinned.
asyncssh asks it for the known keys (``match``) and about a key that is none of them
(``judge``). ``KnownHosts`` is what a known_hosts file says.

Laws:

* No password and no code goes to a proxy whose key was not accepted here. An unknown
  key is stored before the login (``sessions``), after a person's yes or by
  ``accept-new``. A changed or revoked key is never accepted.
* A revoked key is revoked whether its line names the proxy with its port or without.
  A line without the port belongs to another server of that host: its key is accepted,
  but a different key does not count as changed. OpenSSH does the same (sshd(8),
  "SSH_KNOWN_HOSTS FILE FORMAT"; sshconnect.c, check_host_key).
* A line that cannot be read is skipped and logged once, as OpenSSH does. If it
  revokes a key of a type that the proxy can show, the revoked key is not known, so
  every key of that proxy is refused.

``read``, ``learn`` and ``check_can_learn`` block on the file system: call them in a
thread.
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncssh
from asyncssh.public_key import get_certificate_algs, get_public_key_algs

from pamfs.config import HostKeyPolicy, ProxyConfig
from pamfs.descriptors import raise_shortage
from pamfs.errors import HostKeyError
from pamfs.trusted_files import UntrustedFileError, check_trusted

log = logging.getLogger(__name__)

SSH_PORT: Final = 22

Keys = Sequence[asyncssh.SSHKey]

_MARKERS: Final = frozenset({"@revoked", "@cert-authority"})
# A log line lists so many skipped lines, and counts the rest.
_MOST_LISTED: Final = 5
# Stands for the key of a line that cannot be read: only its host names matter.
_STAND_IN: Final = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
)
# The last warning for each file, so that it is not repeated for each login.
_logged: Final[dict[Path, str]] = {}


@dataclass(frozen=True, slots=True)
class Lines:
    """The keys that a file has for one proxy.

    ``is_own``: the lines name the proxy with its port. ``unread``: the numbers of lines
    that revoke a key of the proxy and cannot be read.
    """

    trusted: Keys
    authorities: Keys
    revoked: Keys
    is_own: bool
    unread: Sequence[int] = ()

    @property
    def has_key(self) -> bool:
        """Whether the file says which key is the proxy's."""
        return self.is_own and bool([*self.trusted, *self.authorities])


@dataclass(frozen=True, slots=True)
class _UnreadLine:
    """A line that revokes a key and cannot be read."""

    number: int
    parsed: asyncssh.SSHKnownHosts

    def names(self, host: str, addr: str, port: int) -> bool:
        """Return whether the line names this server."""
        found = KnownHosts(self.parsed).lines(host, addr, port)
        return bool(found.revoked)


@dataclass(frozen=True, slots=True)
class KnownHosts:
    """The content of a known_hosts file; empty by default."""

    parsed: asyncssh.SSHKnownHosts = field(default_factory=asyncssh.SSHKnownHosts)
    unread: Sequence[_UnreadLine] = ()

    def lines(self, host: str, addr: str, port: int) -> Lines:
        """Return the lines of ``host``; ``addr`` is its address, or empty."""
        unread = [one.number for one in self.unread if one.names(host, addr, port)]
        plain = self.parsed.match(host, addr, None)[:3]
        if port == SSH_PORT:
            return Lines(*plain, is_own=True, unread=unread)
        # If no key is trusted with the port, asyncssh's match() looks again without
        # it and drops the revoked keys of the first look; so the port is made part of
        # the name here.
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
    """A line is skipped; ``unread`` is set if it may revoke a key."""

    def __init__(self, why: str, unread: asyncssh.SSHKnownHosts | None = None) -> None:
        super().__init__(why)
        self.unread = unread


def read_known_hosts(file: Path) -> KnownHosts:
    """Return the content of ``file``, empty if there is none.

    Raises ``OSError``, and ``UntrustedFileError`` if another user could change it.
    """
    try:
        check_trusted(file)
        content = file.read_bytes()
    except FileNotFoundError:
        return KnownHosts()
    parsed, unread, skipped = asyncssh.SSHKnownHosts(), [], []
    for number, line in _lines_of(content):
        try:
            _load(parsed, line)
        except _SkippedError as exc:
            skipped.append(f"line {number}: {exc}")
            unread += [_UnreadLine(number, exc.unread)] if exc.unread else []
    _log_skipped(file, skipped)
    return KnownHosts(parsed, unread)


def _lines_of(content: bytes) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line, cut at a NUL as OpenSSH does."""
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
    """Return the key as the file writes it; of a certificate, the key inside."""
    data = f"{kind} {key}"
    try:
        asyncssh.import_public_key(data)
    except asyncssh.KeyImportError:
        return asyncssh.import_certificate(data).key.export_public_key().decode()
    return data


def _unread_revocation(names: str, kind: str) -> asyncssh.SSHKnownHosts | None:
    """Return the servers of a line that revokes a key which cannot be read.

    None if no server can show us a key of this type, or if the names are unreadable.
    """
    usable = [*get_public_key_algs(), *get_certificate_algs()]
    if kind and kind.encode(errors="surrogateescape") not in usable:
        return None
    try:
        return asyncssh.SSHKnownHosts(f"@revoked {names} {_STAND_IN}")
    except ValueError:
        return None


def _log_skipped(file: Path, skipped: Sequence[str]) -> None:
    """Log the skipped lines, once."""
    more = len(skipped) - _MOST_LISTED
    text = "; ".join(skipped[:_MOST_LISTED]) + (
        f"; and {more} more" if more > 0 else ""
    )
    if text and _logged.get(file) != text:
        log.warning("%s: lines that cannot be read are skipped: %s", file, text)
    _logged[file] = text


def named(host: str, port: int) -> str:
    """Return the name of a server in known_hosts: ``[host]:port`` unless it is 22."""
    return host if port == SSH_PORT else f"[{host}]:{port}"


def append_line(file: Path, line: bytes) -> None:
    """Append ``line`` in one write; make the file and its folder private if new.

    A last line without a newline gets one first. Raises ``OSError``, also if only a
    part of the line fits: that part is removed again.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "r+b", buffering=0) as opened:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            line = b"\n" + line
        written = opened.write(line)
        if written < len(line):
            if os.fstat(fd).st_size == size + written:  # still the end of the file
                os.ftruncate(fd, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))


@dataclass(frozen=True, slots=True)
class ShownKey:
    """The host key that a proxy showed, and from which address."""

    addr: str
    key: asyncssh.SSHKey

    @property
    def kind(self) -> str:
        """Return the type of the key, as ``ssh-keygen`` names it."""
        return self.key.get_algorithm()

    @property
    def fingerprint(self) -> str:
        """Return ``SHA256:...``."""
        return self.key.get_fingerprint()


class HostKeyVerifier:
    """The keys of one proxy, for one login."""

    def __init__(self, proxy: ProxyConfig) -> None:
        self._host = proxy.host
        self._port = proxy.port
        self._policy = proxy.host_keys
        self._pin = proxy.host_key
        self.file = proxy.known_hosts or Path.home() / ".ssh/known_hosts"
        self.error: HostKeyError | None = None
        self._known = KnownHosts()

    def read(self) -> None:
        """Read the file; raise ``HostKeyError`` if it cannot be read."""
        if self._policy is HostKeyPolicy.PINNED:
            return
        try:
            self._known = read_known_hosts(self.file)
        except OSError as exc:
            raise_shortage(exc)
            raise HostKeyError(f"{self.file}: {exc}") from None
        except UntrustedFileError as exc:
            raise HostKeyError(f"host key file: {exc}") from None
        self._check_unread(self._lines(""))

    @property
    def is_pinned(self) -> bool:
        """Whether the configuration has the key, and no file is read."""
        return self._policy is HostKeyPolicy.PINNED

    @property
    def asks(self) -> bool:
        """Whether a person decides about an unknown key."""
        return self._policy is HostKeyPolicy.ASK

    @property
    def needs_look(self) -> bool:
        """Whether the key may be learned, and the file has none for this proxy.

        A line of a certificate authority counts: only a login shows the certificate.
        """
        lines = self._lines("")
        may_learn = self.asks or self._policy is HostKeyPolicy.ACCEPT_NEW
        return may_learn and not (lines.has_key or lines.authorities)

    def match(self, host: str, addr: str, port: int | None) -> tuple[Keys, Keys, Keys]:
        """Return the keys that asyncssh accepts and refuses without ``judge``.

        asyncssh also asks the server for keys of the known types first.
        """
        del host, port  # those of the configuration count
        lines = self._lines(addr)
        try:
            self._check_unread(lines)
        except HostKeyError as exc:
            self.error = exc
            return (), (), lines.revoked
        return lines.trusted, lines.authorities, lines.revoked

    def judge(self, addr: str, key: asyncssh.SSHKey) -> bool:
        """Return whether a key that ``match`` did not list is accepted.

        If not, ``error`` holds the reason.
        """
        try:
            self._accept(ShownKey(addr, key))
        except HostKeyError as exc:
            self.error = exc
        return self.error is None

    def is_known(self, shown: ShownKey) -> bool:
        """Whether the file has the key ``shown``.

        Raises ``HostKeyError`` if the file has another key, or revokes this one.
        """
        lines = self._lines(shown.addr)
        self._check_unread(lines)
        if shown.fingerprint in _fingerprints(lines.revoked):
            raise HostKeyError(
                f"the host key of {self.name} is revoked:"
                f" {self.file} says so of {shown.fingerprint}"
            )
        if shown.fingerprint in _fingerprints(lines.trusted):
            return True
        if lines.has_key:
            expected = _fingerprints([*lines.trusted, *lines.authorities])
            raise HostKeyError(
                f"the host key of {self.name} has changed: it showed"
                f" {shown.fingerprint}, {self.file} has {', '.join(sorted(expected))};"
                " if that is right, remove the old line"
            )
        return False

    def learn(self, shown: ShownKey) -> None:
        """Store ``shown`` as the proxy's key; raise ``HostKeyError`` if that fails."""
        self.read()
        if self.is_known(shown):
            return
        public = " ".join(shown.key.export_public_key().decode().split()[:2])
        try:
            append_line(self.file, f"{self.name} {public}\n".encode())
        except OSError as exc:
            raise HostKeyError(f"a new host key cannot be stored: {exc}") from None
        log.info("%s: learned its host key %s", self.name, shown.fingerprint)

    def check_can_learn(self) -> None:
        """Raise ``HostKeyError`` if the file cannot be written: do not ask then."""
        place = self.file
        while not place.exists() and place != place.parent:
            place = place.parent
        is_right = place.is_dir() or place == self.file
        if not is_right or not os.access(place, os.W_OK):
            problem = f"{place} cannot be written"
            raise HostKeyError(f"a new host key cannot be stored: {problem}")

    def unknown(self, shown: ShownKey) -> HostKeyError:
        """Return the error for an unknown key, with the command that makes it known."""
        scan = shlex.join(["ssh-keyscan", "-p", str(self._port), self._host])
        return HostKeyError(
            f"the host key of {self.name} is unknown: it shows {shown.kind}"
            f" {shown.fingerprint}; if that is what the proxy's administrator says:"
            f" {scan} >> {shlex.quote(str(self.file))}"
        )

    def _check_unread(self, lines: Lines) -> None:
        """Raise ``HostKeyError`` if a line that cannot be read may revoke the key."""
        for number in lines.unread:
            raise HostKeyError(
                f"{self.file}, line {number}: it revokes a key of {self.name} that"
                " cannot be read, so none is accepted: correct or remove the line"
            )

    def _accept(self, shown: ShownKey) -> None:
        if self._policy is HostKeyPolicy.PINNED:
            if shown.fingerprint != self._pin:
                raise HostKeyError(
                    f"{self.name} showed the host key {shown.fingerprint},"
                    f" pinned is {self._pin}"
                )
        elif not self.is_known(shown):
            raise self.unknown(shown)

    def _lines(self, addr: str) -> Lines:
        return self._known.lines(self._host, addr, self._port)

    @property
    def name(self) -> str:
        """The name of the proxy as known_hosts writes it."""
        return named(self._host, self._port)


def _fingerprints(keys: Keys) -> set[str]:
    """Return the fingerprints of ``keys``.

    Public and private keys of a pair have the same.
    """
    return {key.get_fingerprint() for key in keys}
