"""Whether the key that a proxy shows is the proxy's: ask, strict, accept-new, pinned.

Law: no password and no code goes to a proxy whose key was not accepted here. An
unknown one is kept before the login (``sessions.introductions``), by ``accept-new`` or
by a person's yes; a changed or revoked one by nobody. The file is read, and written, by
``read`` and ``learn`` alone: they belong in a thread.
"""

from __future__ import annotations

import logging
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from pamfs.config import HostKeyPolicy, TenantConfig
from pamfs.errors import HostKeyError
from pamfs.transport.ssh.known_hosts import (
    Keys,
    KnownHosts,
    Lines,
    append_line,
    named,
    read_known_hosts,
)

log = logging.getLogger(__name__)


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
        self._known = KnownHosts()

    def read(self) -> None:
        """Read the file; raise ``HostKeyError`` if it cannot be read."""
        if self._policy is HostKeyPolicy.PINNED:
            return
        try:
            self._known = read_known_hosts(self.file)
        except OSError as exc:
            raise HostKeyError(f"{self.file}: {exc}") from None
        self._check_unread(self._lines(""))

    @property
    def is_pinned(self) -> bool:
        """Whether no file says which key it is."""
        return self._policy is HostKeyPolicy.PINNED

    @property
    def asks(self) -> bool:
        """Whether a person has to say yes to an unknown key."""
        return self._policy is HostKeyPolicy.ASK

    @property
    def needs_look(self) -> bool:
        """Whether the key may be learned, and no line says yet which it is.

        An authority vouches for a certificate, which only a login shows.
        """
        lines = self._lines("")
        may_learn = self.asks or self._policy is HostKeyPolicy.ACCEPT_NEW
        return may_learn and not (lines.speak_for or lines.authorities)

    def match(self, host: str, addr: str, port: int | None) -> tuple[Keys, Keys, Keys]:
        """Return what asyncssh may accept by itself, and never; ``judge`` has the rest.

        Known keys also decide which of its keys the server is asked for.
        """
        del host, port  # as they were configured
        lines = self._lines(addr)
        try:
            self._check_unread(lines)
        except HostKeyError as exc:
            self.error = exc
            return (), (), lines.revoked
        return lines.trusted, lines.authorities, lines.revoked

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
        lines = self._lines(shown.addr)
        self._check_unread(lines)
        if shown.fingerprint in _fingerprints(lines.revoked):
            raise HostKeyError(
                f"the host key of {self.name} is revoked:"
                f" {self.file} says so of {shown.fingerprint}"
            )
        if shown.fingerprint in _fingerprints(lines.trusted):
            return True
        if lines.speak_for:
            expected = _fingerprints([*lines.trusted, *lines.authorities])
            raise HostKeyError(
                f"the host key of {self.name} has changed: it showed"
                f" {shown.fingerprint}, {self.file} has {', '.join(sorted(expected))};"
                " if that is right, remove the old line"
            )
        return False

    def learn(self, shown: ShownKey) -> None:
        """Keep ``shown`` as the proxy's key; raise ``HostKeyError`` if that fails."""
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

    def _check_unread(self, lines: Lines) -> None:
        """Raise ``HostKeyError`` if the key that is shown may be a revoked one."""
        for number in lines.unread:
            raise HostKeyError(
                f"{self.file}, line {number}: it revokes a key of {self.name} that"
                " cannot be read, so none is accepted: mend or remove the line"
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
        """The name in known_hosts' own form."""
        return named(self._host, self._port)


def _fingerprints(keys: Keys) -> set[str]:
    """Return what tells ``keys`` apart: they are equal as the same half of a pair."""
    return {key.get_fingerprint() for key in keys}
