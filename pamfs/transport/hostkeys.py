"""Whether the key that a proxy shows is the proxy's: ask, strict, accept-new, pinned.

Law: no password and no code goes to a proxy whose key was not accepted here. An
unknown one is accepted by ``accept-new``, or by a person who is asked before the
login (``sessions.introductions``); a changed or revoked one by nobody.
"""

from __future__ import annotations

import logging
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncssh

from pamfs.config import HostKeyPolicy, TenantConfig
from pamfs.errors import HostKeyError

log = logging.getLogger(__name__)

SSH_PORT: Final = 22


@dataclass(frozen=True, slots=True)
class ShownKey:
    """The host key that a proxy showed, and from which address."""

    addr: str
    key: asyncssh.SSHKey

    @property
    def kind(self) -> str:
        """Return its type as ``ssh-keygen`` names it."""
        return self.key.get_algorithm()

    @property
    def fingerprint(self) -> str:
        """Return ``SHA256:...``."""
        return self.key.get_fingerprint()


class HostKeys:
    """The keys of one proxy, for one login."""

    def __init__(self, tenant: TenantConfig) -> None:
        self._host = tenant.proxy_host
        self._port = tenant.proxy_port
        self._policy = tenant.host_keys
        self._pin = tenant.host_key
        self.file = tenant.known_hosts or Path.home() / ".ssh/known_hosts"
        self.error: HostKeyError | None = None

    @property
    def needs_asking(self) -> bool:
        """Whether a person has to say yes before a login: there is no line for it.

        Raises ``HostKeyError`` if the file cannot be read.
        """
        return self._policy is HostKeyPolicy.ASK and not any(self._lines("")[:2])

    def known(self) -> asyncssh.SSHKnownHosts:
        """Return what asyncssh may accept by itself; ``judge`` has the rest.

        Known keys also decide which of its keys the server is asked for. Raises
        ``HostKeyError`` if the file cannot be read.
        """
        if self._policy is HostKeyPolicy.PINNED:
            return asyncssh.SSHKnownHosts()
        try:
            return asyncssh.import_known_hosts(self.file.read_text("utf-8"))
        except FileNotFoundError:
            return asyncssh.SSHKnownHosts()
        except (OSError, ValueError) as exc:
            raise HostKeyError(f"{self.file}: {exc}") from None

    def judge(self, addr: str, key: asyncssh.SSHKey) -> bool:
        """Return whether a key that is not among the known ones is accepted.

        The reason why not is in ``error``.
        """
        try:
            self._accept(ShownKey(addr, key))
        except HostKeyError as exc:
            self.error = exc
        return self.error is None

    def is_known(self, shown: ShownKey) -> bool:
        """Whether the file has ``shown``; an unknown key is not known.

        Raises ``HostKeyError`` for a key that is changed or revoked.
        """
        trusted, authorities, revoked = self._lines(shown.addr)
        if shown.fingerprint in revoked:
            raise HostKeyError(
                f"the host key of {self.name} is revoked:"
                f" {self.file} says so of {shown.fingerprint}"
            )
        expected = sorted(trusted | authorities)
        if expected and shown.fingerprint not in trusted:
            raise HostKeyError(
                f"the host key of {self.name} has changed: it showed"
                f" {shown.fingerprint}, {self.file} has {', '.join(expected)};"
                " if that is right, remove the old line"
            )
        return bool(expected)

    def learn(self, shown: ShownKey) -> None:
        """Keep ``shown`` as the proxy's key; raise ``HostKeyError`` if that fails."""
        if self.is_known(shown):
            return
        public = " ".join(shown.key.export_public_key().decode().split()[:2])
        try:
            append_line(self.file, f"{self.name} {public}\n".encode())
        except OSError as exc:
            raise HostKeyError(f"a new host key cannot be stored: {exc}") from None
        log.info("%s: learned its host key %s", self.name, shown.fingerprint)

    def check_can_learn(self) -> None:
        """Raise ``HostKeyError`` if a yes could not be kept: then nobody is asked."""
        place = self.file
        while not place.exists() and place != place.parent:
            place = place.parent
        is_right = place.is_dir() or place == self.file
        if not is_right or not os.access(place, os.W_OK):
            problem = f"{place} cannot be written"
            raise HostKeyError(f"a new host key cannot be stored: {problem}")

    def unknown(self, shown: ShownKey) -> HostKeyError:
        """Return the refusal of an unknown key; it says how to make it known."""
        scan = shlex.join(["ssh-keyscan", "-p", str(self._port), self._host])
        return HostKeyError(
            f"the host key of {self.name} is unknown: it shows {shown.kind}"
            f" {shown.fingerprint}; if that is what the proxy's administrator says:"
            f" {scan} >> {shlex.quote(str(self.file))}"
        )

    def _accept(self, shown: ShownKey) -> None:
        if self._policy is HostKeyPolicy.PINNED:
            if shown.fingerprint != self._pin:
                raise HostKeyError(
                    f"{self.name} showed the host key {shown.fingerprint},"
                    f" pinned is {self._pin}"
                )
        elif not self.is_known(shown):
            if self._policy is not HostKeyPolicy.ACCEPT_NEW:
                raise self.unknown(shown)
            self.learn(shown)

    def _lines(self, addr: str) -> list[set[str]]:
        """Return the keys, the authorities and the revoked keys that the file has.

        By their fingerprints: keys are equal only as the same half of a pair.
        """
        port = self._port if self._port != SSH_PORT else None
        found = self.known().match(self._host, addr, port)[:3]
        return [{key.get_fingerprint() for key in keys} for keys in found]

    @property
    def name(self) -> str:
        """The name in known_hosts' own form: a port other than 22 in brackets."""
        if self._port == SSH_PORT:
            return self._host
        return f"[{self._host}]:{self._port}"


def append_line(file: Path, line: bytes) -> None:
    """Append ``line`` in one write; the file and its folder are made private.

    A last line that lacks its newline is ended first. Raises ``OSError``.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "r+b", buffering=0) as opened:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            line = b"\n" + line
        opened.write(line)
