"""Ways to a server of the menagerie: a tree over SFTP, and a mount's configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh

from pamfs.model import RemotePath
from pamfs.transport.bridge import ThreadBridge
from tests.contracts.implementations import Loop, Sftp
from tests.menagerie.servers import Kind, Server, running_server

_CONFIG = """\
[tenant.acme]
proxy = "127.0.0.1:{port}"
dialect = "<credential>"
operator = "nobody"
{secret}
host_keys = "strict"
known_hosts = "{known_hosts}"
root = "{root}"
{more}

[[tenant.acme.target]]
name = "{user}@web01"
"""


class SftpOfServer(Sftp):
    """``SftpTree`` on a server whose folders are made through it: some cache."""

    def new_folder(self, name: str) -> RemotePath:
        path = self._root + b"/" + os.fsencode(name)

        async def make() -> None:
            await self.client.mkdir(path)

        try:
            self._loop.run(make())
        except asyncssh.SFTPNoConnection:  # the server ended the last one
            self.client = self._new_client()
            self._loop.run(make())
        return RemotePath(path)


@contextmanager
def sftp_over(server: Server) -> Iterator[Sftp]:
    """Yield what makes an ``SftpTree`` on a running server."""

    async def connect() -> asyncssh.SSHClientConnection:
        key = server.client_key
        return await asyncssh.connect(
            "127.0.0.1",
            server.port,
            username=server.user,
            password=server.password,
            client_keys=[str(key)] if key else None,
            known_hosts=str(server.known_hosts),
            config=None,
            agent_path=None,
        )

    with ThreadBridge.running() as bridge:
        sftp = SftpOfServer(
            Loop(bridge, bridge._loop), connect, server.files, root=server.root
        )
        try:
            yield sftp
        finally:
            sftp.close()


@contextmanager
def implementation_of(kind: Kind, folder: Path) -> Iterator[Sftp]:
    """Run ``kind`` below ``folder``; yield what makes an ``SftpTree`` on it."""
    with running_server(kind, folder) as server, sftp_over(server) as sftp:
        yield sftp


def write_config(
    server: Server, folder: Path, *, port: int | None = None, more: str = ""
) -> Path:
    """Write a configuration that mounts ``server`` as the one target of a tenant.

    ``port`` is that of a relay, if there is one; ``more`` are lines of the tenant.
    The target is ``acme/USER@web01``.
    """
    if server.client_key:
        secret = f'key = {{ file = "{server.client_key}" }}'
    else:
        (folder / "password").write_text(server.password or "")
        (folder / "password").chmod(0o600)
        secret = f'password = {{ file = "{folder}/password" }}'
    known_hosts = folder / "mount_known_hosts"
    host_key = server.known_hosts.read_text().split(" ", 1)[1]
    known_hosts.write_text(f"[127.0.0.1]:{port or server.port} {host_key}")
    config = folder / "config.toml"
    facts = {"port": port or server.port, "secret": secret, "user": server.user}
    facts |= {"known_hosts": known_hosts, "root": server.root.decode(), "more": more}
    config.write_text(_CONFIG.format(**facts))
    config.chmod(0o600)
    return config
