"""Which wire moves the files of a target: only this module chooses by ``Target.proto``.

A wire logs in, opens a channel for files and puts a ``RemoteTree`` on it. A protocol
that no wire serves is refused before any login: no secret is fetched for it.
To add a wire see docs/architecture.md, "How to add a wire".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import trio

from pamfs.config import FilesConfig
from pamfs.errors import NoWireError
from pamfs.model import Target
from pamfs.transport.base import RemoteTree
from pamfs.transport.bridge import Bridge
from pamfs.transport.sftp.wire import SftpWire
from pamfs.transport.ssh.login import Plan, Responder

log = logging.getLogger(__name__)


class WireLink(Protocol):
    """The files behind one login, and its end."""

    @property
    def tree(self) -> RemoteTree:
        """Return the files."""
        ...

    @property
    def host_key(self) -> str:
        """Return the fingerprint of the proxy's host key, ``SHA256:...``."""
        ...

    async def wait_lost(self) -> str:
        """Wait until the connection or its file channel is gone; return why."""
        ...

    async def close(self) -> None:
        """Hang up; return when the connection is gone."""
        ...


class Wire(Protocol):
    """One way to move files."""

    async def open(
        self, plan: Plan, responder: Responder, files: FilesConfig, target: Target
    ) -> WireLink:
        """Dial, log in, and open what files need; raise ``LoginError``."""
        ...


# By the protocol in the name of a target, ``{proto.port}``: the service of the device
# that the proxy is asked for. Both of these mean a proxy that speaks SSH.
WIRES: Final[Mapping[str, Callable[[Bridge, trio.Nursery], Wire]]] = {
    "sftp": SftpWire,
    "ssh": SftpWire,
}


def check_served(target: Target) -> None:
    """Raise ``NoWireError`` if no wire serves the protocol of ``target``."""
    if target.proto in WIRES:
        return
    names = " or ".join(f"{{{proto}.PORT}}" for proto in sorted(WIRES))
    raise NoWireError(
        f"{target}: pamfs moves no files by {target.proto!r}; use a name that ends in"
        f" {names}"
    )


class Wires:
    """The wires of one mount."""

    def __init__(self, bridge: Bridge, nursery: trio.Nursery) -> None:
        made = {make: make(bridge, nursery) for make in WIRES.values()}
        self._wires = {proto: made[make] for proto, make in WIRES.items()}
        self._logged: set[Target] = set()

    def of(self, target: Target) -> Wire:
        """Return the wire of ``target``; raise ``NoWireError`` if there is none."""
        try:
            check_served(target)
        except NoWireError as exc:
            if target not in self._logged:
                self._logged.add(target)
                log.warning("%s", exc)
            raise
        return self._wires[target.proto]
