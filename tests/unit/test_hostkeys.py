"""An unknown host key is learned only if that was asked for, a changed one never."""

from __future__ import annotations

import base64
import hashlib
import hmac
import stat
from pathlib import Path

import asyncssh
import pytest

from pamfs.config import HostKeyPolicy
from pamfs.errors import HostKeyError
from pamfs.transport.hostkeys import HostKeys, ShownKey
from tests.fakes.tenants import tenant

KEY = asyncssh.generate_private_key("ssh-ed25519")
OTHER = asyncssh.generate_private_key("ssh-ed25519")
HOST, ADDRESS = "pam.acme.example", "192.0.2.1"


def line(key: asyncssh.SSHKey, name: str = f"[{HOST}]:4022") -> str:
    return f"{name} {key.export_public_key().decode()}"


def keys(policy: HostKeyPolicy, file: Path, pin: str | None = None) -> HostKeys:
    return HostKeys(
        tenant(proxy_host=HOST, host_keys=policy, known_hosts=file, host_key=pin)
    )


def is_known(found: HostKeys, key: asyncssh.SSHKey, port: int = 4022) -> bool:
    known = found.known().match(HOST, ADDRESS, port)[0]
    return [one.get_fingerprint() for one in known] == [key.get_fingerprint()]


def test_an_unknown_key_is_refused_with_its_fingerprint(tmp_path: Path) -> None:
    found = keys(HostKeyPolicy.STRICT, tmp_path / "known_hosts")
    assert not found.judge(ADDRESS, KEY)
    assert KEY.get_fingerprint() in str(found.error)
    assert not (tmp_path / "known_hosts").exists()


def test_a_changed_key_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(line(OTHER))
    for policy in (HostKeyPolicy.STRICT, HostKeyPolicy.ACCEPT_NEW):
        found = keys(policy, file)
        assert not found.judge(ADDRESS, KEY)
        text = str(found.error)
        assert KEY.get_fingerprint() in text
        assert OTHER.get_fingerprint() in text
        assert file.read_text() == line(OTHER)


def test_a_new_key_is_learned_and_then_known(tmp_path: Path) -> None:
    file = tmp_path / "new folder/known_hosts"
    found = keys(HostKeyPolicy.ACCEPT_NEW, file)
    assert found.judge(ADDRESS, KEY)
    assert found.error is None
    assert file.read_text().startswith(f"[{HOST}]:4022 ssh-ed25519 ")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert is_known(keys(HostKeyPolicy.STRICT, file), KEY)


def test_a_new_key_ends_an_unfinished_last_line_first(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(line(OTHER, "elsewhere.example").rstrip("\n"))
    assert keys(HostKeyPolicy.ACCEPT_NEW, file).judge(ADDRESS, KEY)
    assert len(file.read_text().splitlines()) == 2
    assert is_known(keys(HostKeyPolicy.STRICT, file), KEY)


def test_a_new_key_that_cannot_be_stored_is_not_accepted(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = keys(HostKeyPolicy.ACCEPT_NEW, tmp_path / "file/known_hosts")
    with pytest.raises(HostKeyError):
        found.known()
    assert not found.judge(ADDRESS, KEY)


def test_a_hashed_name_is_known(tmp_path: Path) -> None:
    salt = b"\x01" * 20
    digest = hmac.digest(salt, f"[{HOST}]:4022".encode(), hashlib.sha1)
    name = "|".join(["", "1", *(base64.b64encode(x).decode() for x in (salt, digest))])
    file = tmp_path / "known_hosts"
    file.write_text(line(KEY, name))
    assert is_known(keys(HostKeyPolicy.STRICT, file), KEY)


def test_only_a_proxy_without_a_line_is_asked_about(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    ask = keys(HostKeyPolicy.ASK, file)
    assert ask.needs_asking
    for policy in set(HostKeyPolicy) - {HostKeyPolicy.ASK}:
        assert not keys(policy, file).needs_asking
    for text in (
        line(KEY),
        line(OTHER),
        line(KEY, HOST),
        f"@cert-authority {line(KEY)}",
    ):
        file.write_text(text)
        assert not ask.needs_asking
    file.write_text(line(KEY, "elsewhere.example"))
    assert ask.needs_asking


def test_what_nobody_was_asked_about_is_refused_at_the_dial(tmp_path: Path) -> None:
    file = tmp_path / "known hosts"
    found = keys(HostKeyPolicy.ASK, file)
    assert not found.judge(ADDRESS, KEY)
    text = str(found.error)
    assert f"ssh-ed25519 {KEY.get_fingerprint()}" in text
    assert f"ssh-keyscan -p 4022 {HOST} >> '{file}'" in text
    assert "\n" not in text


def test_a_changed_or_revoked_key_is_not_even_unknown(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    found = keys(HostKeyPolicy.ASK, file)
    assert not found.is_known(ShownKey(ADDRESS, KEY))
    file.write_text(line(OTHER))
    with pytest.raises(HostKeyError, match="has changed"):
        found.is_known(ShownKey(ADDRESS, KEY))
    file.write_text(f"@revoked * {KEY.export_public_key().decode()}")
    with pytest.raises(HostKeyError, match="is revoked"):
        found.is_known(ShownKey(ADDRESS, KEY))
    assert not found.is_known(ShownKey(ADDRESS, OTHER))


def test_a_proxy_is_known_by_its_address_too(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(line(KEY, f"[{ADDRESS}]:4022"))
    found = keys(HostKeyPolicy.ASK, file)
    assert found.is_known(ShownKey(ADDRESS, KEY))
    with pytest.raises(HostKeyError, match="has changed"):
        found.is_known(ShownKey(ADDRESS, OTHER))


def test_a_key_is_learned_once_by_however_many(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    for _ in range(3):
        keys(HostKeyPolicy.ASK, file).learn(ShownKey(ADDRESS, KEY))
    assert len(file.read_text().splitlines()) == 1


def test_nobody_is_asked_for_a_yes_that_cannot_be_kept(tmp_path: Path) -> None:
    keys(HostKeyPolicy.ASK, tmp_path / "new/folder/known_hosts").check_can_learn()
    (tmp_path / "file").touch()
    with pytest.raises(HostKeyError, match="cannot be stored"):
        keys(HostKeyPolicy.ASK, tmp_path / "file/known_hosts").check_can_learn()


def test_a_pinned_key_needs_no_file(tmp_path: Path) -> None:
    pin = KEY.get_fingerprint()
    found = keys(HostKeyPolicy.PINNED, tmp_path / "none", pin)
    assert found.judge(ADDRESS, KEY)
    assert not found.judge(ADDRESS, OTHER)
    text = str(found.error)
    assert pin in text
    assert OTHER.get_fingerprint() in text


def test_a_known_hosts_file_with_a_wrong_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text("@nonsense host key\n")
    with pytest.raises(HostKeyError, match="known_hosts"):
        keys(HostKeyPolicy.STRICT, file).known()
