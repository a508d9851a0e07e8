"""Proxies that offer old algorithms only: refused by default, allowed by name."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.encryption import get_encryption_algs
from asyncssh.kex import get_kex_algs
from asyncssh.mac import get_mac_algs
from asyncssh.public_key import get_public_key_algs

from pamfs.cli.main import main
from pamfs.config import HostKeyPolicy, KeySource, OldAlgorithm, TenantConfig
from pamfs.errors import LoginError, UnreachableError
from pamfs.model import Target
from pamfs.naming.dialects import find_dialect
from pamfs.transport.ssh.algorithms import offered
from pamfs.transport.ssh.dial import scan
from tests.conftest import LogLedger
from tests.fakes.openssh import OpenSsh, running_sshd
from tests.fakes.pools import borrow
from tests.fakes.tenants import changed, tenant
from tests.integration.session_site import WITHIN_S, SessionSite, site

__all__ = ["site"]  # the fixture

# The library warns of what it will not have for long any more.
pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated")

OLD = {
    "KexAlgorithms": OldAlgorithm.DH_GROUP14_SHA1,
    "Ciphers": OldAlgorithm.AES128_CBC,
    "MACs": OldAlgorithm.HMAC_SHA1,
    "HostKeyAlgorithms": OldAlgorithm.SSH_RSA,
}
# What a router has that was last updated in 2012.
ALL_OLD = "\n".join(f"{key} {one.value}" for key, one in OLD.items())


@pytest.fixture(scope="module")
def rsa_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Provide a folder with an RSA host key, and an RSA key that may log in."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("rsa_host", "rsa_client"):
        options = ["-t", "rsa", "-b", "2048", "-N", "", "-f", str(folder / name)]
        subprocess.run(["ssh-keygen", "-q", *options], check=True, timeout=60)
    return folder


@contextmanager
def sshd_with(
    site: SessionSite, rsa: Path, more: str
) -> Iterator[tuple[OpenSsh, TenantConfig]]:
    """Run OpenSSH with an RSA host key and an RSA key that may log in."""
    folder = site.folder / "sshd"
    folder.mkdir()
    keys = f"HostKey {rsa}/rsa_host\nAuthorizedKeysFile {rsa}/rsa_client.pub\n"
    with running_sshd(folder, more=keys + more) as sshd:
        known = folder / "known_rsa"
        public = (rsa / "rsa_host.pub").read_text()
        known.write_text(f"[127.0.0.1]:{sshd.port} {public}")
        yield (
            sshd,
            tenant(
                dialect=find_dialect("<credential>"),
                port=sshd.port,
                key=KeySource(file=rsa / "rsa_client"),
                known_hosts=known,
                host_keys=HostKeyPolicy.STRICT,
            ),
        )


async def log_in(site: SessionSite, sshd: OpenSsh, acme: TenantConfig) -> None:
    async with site.pool(acme) as pool:
        await borrow(pool, Target("acme", sshd.user, "web01"))


async def fail(
    site: SessionSite, sshd: OpenSsh, acme: TenantConfig, error: type[LoginError]
) -> str:
    """Return why a login is not made."""
    async with site.pool(acme) as pool:
        with pytest.raises(error) as caught:
            await borrow(pool, Target("acme", sshd.user, "web01"))
    return str(caught.value)


@pytest.mark.parametrize("kind", OLD)
async def test_an_old_algorithm_is_refused_and_the_key_that_allows_it_is_named(
    kind: str, site: SessionSite, rsa_keys: Path, expect_log: LogLedger
) -> None:
    name = OLD[kind].value
    expect_log(f'old_algorithms = ."{name}".')
    more = f"{kind} {name}\n"
    if kind == "MACs":
        more += "Ciphers aes256-ctr\n"  # GCM needs no MAC
    with sshd_with(site, rsa_keys, more) as (sshd, acme):
        assert "cannot be updated" in await fail(site, sshd, acme, UnreachableError)
        await log_in(site, sshd, replaced(acme, OLD[kind]))


async def test_a_server_of_old_algorithms_alone_works_if_all_are_allowed(
    site: SessionSite, rsa_keys: Path, expect_log: LogLedger
) -> None:
    """OpenSSH as a device of 2012: the login, and the look at its key."""
    more = f"{ALL_OLD}\n"
    expect_log("old_algorithms")
    with sshd_with(site, rsa_keys, more) as (sshd, acme):
        await log_in(site, sshd, replaced(acme, *OLD.values()))
        fresh = site.folder / "fresh"
        learning = replaced(
            acme, *OLD.values(), known_hosts=fresh, host_keys=HostKeyPolicy.ACCEPT_NEW
        )
        await log_in(site, sshd, learning)
        assert " ssh-rsa " in fresh.read_text()
        without = replaced(learning, known_hosts=site.folder / "none")
        said = await fail(site, sshd, without, UnreachableError)
        for one in OLD.values():  # all at once
            assert f'"{one.value}"' in said
        assert not (site.folder / "none").exists()


@pytest.mark.parametrize(
    ("old", "signs"),
    [((), "rsa-sha2-256"), ((OldAlgorithm.SSH_RSA,), "ssh-rsa")],
)
async def test_an_rsa_key_signs_with_sha2_where_the_server_does_not_say_what_it_knows(
    old: tuple[OldAlgorithm, ...],
    signs: str,
    rsa_keys: Path,
    site: SessionSite,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server without ``server-sig-algs``, as Go's and Erlang's were for long."""
    signed: list[bytes] = []
    validate = asyncssh.SSHServerConnection.validate_public_key

    async def noting(
        conn: asyncssh.SSHServerConnection,
        user: str,
        key: bytes,
        message: bytes,
        signature: bytes,
    ) -> bool:
        signed.append(signature)
        return await validate(conn, user, key, message, signature)

    host_key = asyncssh.generate_private_key("ssh-ed25519")
    accepted = asyncssh.read_public_key(str(rsa_keys / "rsa_client.pub"))

    class Lenient(asyncssh.SSHServer):
        def validate_public_key(self, username: str, shown: asyncssh.SSHKey) -> bool:
            return bool(username) and shown.public_data == accepted.public_data

        def public_key_auth_supported(self) -> bool:
            return True

    monkeypatch.setattr(asyncssh.SSHServerConnection, "validate_public_key", noting)
    # asyncssh has no option for it.
    never = property(lambda _self: False, lambda _self, _value: None)
    monkeypatch.setattr(
        asyncssh.SSHServerConnection, "_can_send_ext_info", never, raising=False
    )

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[host_key],
            server_factory=Lenient,
            sftp_factory=True,
        )

    acceptor = await site.bridge.call(listen)
    try:
        acme = tenant(
            port=acceptor.get_port(),
            key=KeySource(file=rsa_keys / "rsa_client"),
            old_algorithms=old,
            host_keys=HostKeyPolicy.PINNED,
            host_key=host_key.get_fingerprint(),
        )
        async with site.pool(acme) as pool:
            await borrow(pool)
    finally:

        async def close() -> None:
            acceptor.close()
            await acceptor.wait_closed()

        await site.bridge.call(close)
    assert signs.encode() in signed[-1]


def replaced(acme: TenantConfig, *old: OldAlgorithm, **changes: Any) -> TenantConfig:
    return changed(acme, old_algorithms=old, **changes)


def test_nothing_old_is_offered_by_default() -> None:
    for any_key in (True, False):
        options = offered((), any_key=any_key)
        for name, found in options.items():
            if isinstance(found, list):  # else it says what is left out
                text = " ".join(found)
                for part in ("sha1", "cbc", "md5", "ssh-rsa ", "ssh-dss", "arcfour"):
                    assert part not in f"{text} ", name


def test_each_name_is_one_that_can_be_offered() -> None:
    """But those that this machine's library has left out."""
    every = [*get_kex_algs(), *get_encryption_algs(), *get_mac_algs()]
    every += get_public_key_algs()
    names = {one.value for one in OldAlgorithm if one is not OldAlgorithm.SSH_RSA_CERT}
    assert names <= {name.decode() for name in every}


def test_the_look_at_a_key_says_what_would_have_to_be_allowed() -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")

    async def play() -> None:
        async with asyncio.timeout(WITHIN_S):
            server = await asyncssh.listen(
                "127.0.0.1",
                0,
                server_host_keys=[key],
                kex_algs=["diffie-hellman-group1-sha1"],
            )
            async with server:
                port = server.get_port()
                with pytest.raises(UnreachableError, match='"diffie-hellman-group1-'):
                    await scan("127.0.0.1", port)
                old = (OldAlgorithm.DH_GROUP1_SHA1,)
                shown = await scan("127.0.0.1", port, old)
                assert shown.fingerprint == key.get_fingerprint()

    asyncio.run(play())


def test_pamfs_check_warns_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    text = """[tenant.acme]
proxy = "pam.example"
dialect = "<credential>"
key = { agent = true }
old_algorithms = %s
"""
    for value, said in (
        (
            '["ssh-rsa", "aes128-cbc"]',
            "warning: tenant.acme.old_algorithms: ssh-rsa, aes",
        ),
        (
            '["ssh-rsa1"]',
            "'ssh-rsa1' is not an old algorithm (any of diffie-hellman-group14",
        ),
        ('"ssh-rsa"', "is not an array of texts"),
        ('["aes128-gcm@openssh.com"]', "is not an old algorithm"),
    ):
        config.write_text(text % value)
        code = main(["check", "--config", str(config)])
        assert code == (0 if "warning" in said else 3)
        assert said in capsys.readouterr().err
