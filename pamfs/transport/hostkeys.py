"""Whether the key that a proxy shows is the proxy's: strict, accept-new, pinned.

Law: no password and no code goes to a proxy whose key was not accepted here, and
only ``accept-new`` accepts an unknown one, never a changed one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import asyncssh

from pamfs.config import HostKeyPolicy, TenantConfig
from pamfs.errors import HostKeyError

log = logging.getLogger(__name__)

SSH_PORT: Final = 22


class HostKeys:
    """The keys of one proxy, for one login."""

    def __init__(self, tenant: TenantConfig) -> None:
        self._host = tenant.proxy_host
        self._port = tenant.proxy_port
        self._policy = tenant.host_keys
        self._pin = tenant.host_key
        self._file = tenant.known_hosts or Path.home() / ".ssh/known_hosts"
        self.error: HostKeyError | None = None

    def known(self) -> asyncssh.SSHKnownHosts:
        """Return what asyncssh may accept by itself; ``judge`` has the rest.

        Known keys also decide which of its keys the server is asked for. Raises
        ``HostKeyError`` if the file cannot be read.
        """
        if self._policy is HostKeyPolicy.PINNED:
            return asyncssh.SSHKnownHosts()
        try:
            return asyncssh.import_known_hosts(self._file.read_text("utf-8"))
        except FileNotFoundError:
            return asyncssh.SSHKnownHosts()
        except (OSError, ValueError) as exc:
            raise HostKeyError(f"{self._file}: {exc}") from None

    def judge(self, addr: str, key: asyncssh.SSHKey) -> bool:
        """Return whether a key that is not among the known ones is accepted.

        The reason why not is in ``error``.
        """
        shown = key.get_fingerprint()
        if self._policy is HostKeyPolicy.PINNED:
            return shown == self._pin or self._refuse(
                f"{self._name} showed the host key {shown}, pinned is {self._pin}"
            )
        known = self._known_keys(addr)
        if known:
            expected = ", ".join(sorted(known))
            return self._refuse(
                f"the host key of {self._name} has changed: it showed {shown},"
                f" {self._file} has {expected}; if that is right, remove the old line"
            )
        if self._policy is HostKeyPolicy.STRICT:
            return self._refuse(
                f"the host key of {self._name} is unknown: {shown};"
                f" if that is right, add it to {self._file}, or pin it"
            )
        return self._learn(key)

    def _known_keys(self, addr: str) -> set[str]:
        port = self._port if self._port != SSH_PORT else None
        found: Sequence[Sequence[asyncssh.SSHKey]]
        try:
            found = self.known().match(self._host, addr, port)[:3]
        except HostKeyError:
            return {"lines that cannot be read"}
        return {key.get_fingerprint() for keys in found for key in keys}

    def _learn(self, key: asyncssh.SSHKey) -> bool:
        public = " ".join(key.export_public_key().decode().split()[:2])
        line = f"{self._name} {public}\n".encode()
        try:
            append_line(self._file, line)
        except OSError as exc:
            return self._refuse(f"a new host key cannot be stored: {exc}")
        log.info("%s: learned its host key %s", self._name, key.get_fingerprint())
        return True

    @property
    def _name(self) -> str:
        """The name in known_hosts' own form: a port other than 22 in brackets."""
        if self._port == SSH_PORT:
            return self._host
        return f"[{self._host}]:{self._port}"

    def _refuse(self, text: str) -> bool:
        self.error = HostKeyError(text)
        return False


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
