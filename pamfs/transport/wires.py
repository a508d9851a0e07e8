"""Which wire moves the files of a target: only this module chooses by ``Target.proto``.

A wire makes its own plan of a login from the tenant's configuration, dials, logs in,
and puts a ``RemoteTree`` on what it opened. Only a wire over SSH has a host key, and
SSH keys. A protocol that no wire serves is refused before any login: no secret is
fetched for it. To add a wire see docs/architecture.md, "How to add".
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final, Protocol

import trio

from pamfs.config import TenantConfig
from pamfs.errors import NoWireError
from pamfs.model import Secret, Target
from pamfs.transport.base import LoginTry, RemoteTree
from pamfs.transport.bridge import Bridge
from pamfs.transport.sftp.wire import SftpWire

log = logging.getLogger(__name__)


class WireLink(Protocol):
    """The files behind one login, and its end."""

    @property
    def tree(self) -> RemoteTree:
        """Return the files."""
        ...

    @property
    def host_key(self) -> str:
        """Return the fingerprint of the proxy's host key, ``SHA256:...``, or ""."""
        ...

    async def wait_lost(self) -> str:
        """Wait until the connection or its file channel is gone; return why."""
        ...

    async def close(self) -> None:
        """Close the connection; return when it is closed."""
        ...


class Dialer(Protocol):
    """The part of one login that knows the wire; a login may need several tries."""

    async def load_keys(self, passphrase: Callable[[str], Awaitable[Secret]]) -> None:
        """Load the keys of ``login.key``; ``passphrase`` asks for that of a file.

        A wire without keys does nothing.
        """
        ...

    async def open(self, one: LoginTry) -> WireLink:
        """Dial, log in, and return the link with the files; raise ``LoginError``."""
        ...

    def forget(self) -> None:
        """Drop the keys: the login is over."""
        ...


class Wire(Protocol):
    """One way to move files."""

    @property
    def has_host_key(self) -> bool:
        """Whether the proxy has an SSH host key, which is checked before each login."""
        ...

    def begin(self, tenant: TenantConfig, target: Target) -> Dialer:
        """Return the part of a login that knows the wire; nothing is done yet."""
        ...


MakeWire = Callable[[Bridge, trio.Nursery], Wire]

# By the protocol in the name of a target, ``{proto.port}``: the service of the device
# that the proxy is asked for. Both of these mean a proxy that speaks SSH.
WIRES: Final[Mapping[str, MakeWire]] = {
    "sftp": SftpWire,
    "ssh": SftpWire,
}


def served_names(protocols: Collection[str] = WIRES.keys()) -> str:
    """Return how the name of a target ends that a wire serves."""
    return " or ".join(f"{{{proto}.PORT}}" for proto in sorted(protocols))


def check_served(target: Target, protocols: Collection[str] = WIRES.keys()) -> None:
    """Raise ``NoWireError`` if no wire serves the protocol of ``target``."""
    if target.proto in protocols:
        return
    raise NoWireError(
        f"{target}: pamfs moves no files by {target.proto!r}; use a name that ends in"
        f" {served_names(protocols)}"
    )


class Wires:
    """The wires of one mount."""

    def __init__(
        self,
        bridge: Bridge,
        nursery: trio.Nursery,
        table: Mapping[str, MakeWire] = WIRES,
    ) -> None:
        made = {make: make(bridge, nursery) for make in table.values()}
        self._wires = {proto: made[make] for proto, make in table.items()}
        self._logged: set[Target] = set()

    def of(self, target: Target) -> Wire:
        """Return the wire of ``target``; raise ``NoWireError`` if there is none."""
        try:
            check_served(target, self._wires)
        except NoWireError as exc:
            if target not in self._logged:
                self._logged.add(target)
                log.warning("%s", exc)
            raise
        return self._wires[target.proto]
