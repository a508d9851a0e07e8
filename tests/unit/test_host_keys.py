"""An unknown host key is learned only if that was asked for, a changed one never."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import resource
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pamfs.config import HostKeyPolicy
from pamfs.errors import HostKeyError
from pamfs.transport.ssh.host_keys import HostKeyVerifier, ShownKey, read_known_hosts
from tests.conftest import LogLedger
from tests.fakes.tenants import tenant

KEY = asyncssh.generate_private_key("ssh-ed25519")
OTHER = asyncssh.generate_private_key("ssh-ed25519")
PINNED = HostKeyPolicy.PINNED
KNOWN_HOSTS_LOG = "pamfs.transport.ssh.host_keys"
HOST, ADDRESS = "pam.acme.example", "192.0.2.1"


def line(key: asyncssh.SSHKey, name: str = f"[{HOST}]:4022") -> str:
    return f"{name} {key.export_public_key().decode()}"


def keys(policy: HostKeyPolicy, file: Path, pin: str | None = None) -> HostKeyVerifier:
    """Return what was read of ``file``."""
    found = HostKeyVerifier(
        tenant(host=HOST, host_keys=policy, known_hosts=file, host_key=pin).proxy
    )
    found.read()
    return found


def is_known(found: HostKeyVerifier, key: asyncssh.SSHKey) -> bool:
    known = found.match(HOST, ADDRESS, 4022)[0]
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


def test_a_file_that_others_may_write_decides_about_no_key(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(line(KEY))
    file.chmod(0o666)
    with pytest.raises(HostKeyError, match="any user may write it"):
        keys(HostKeyPolicy.STRICT, file)


def test_a_new_key_is_learned_and_then_known(tmp_path: Path) -> None:
    file = tmp_path / "new folder/known_hosts"
    found = keys(HostKeyPolicy.ACCEPT_NEW, file)
    assert found.needs_look
    assert not found.asks
    found.learn(ShownKey(ADDRESS, KEY))
    assert file.read_text().startswith(f"[{HOST}]:4022 ssh-ed25519 ")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert is_known(keys(HostKeyPolicy.STRICT, file), KEY)


def test_a_new_key_ends_an_unfinished_last_line_first(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(line(OTHER, "elsewhere.example").rstrip("\n"))
    keys(HostKeyPolicy.ACCEPT_NEW, file).learn(ShownKey(ADDRESS, KEY))
    assert len(file.read_text().splitlines()) == 2
    assert is_known(keys(HostKeyPolicy.STRICT, file), KEY)


def test_a_new_key_that_cannot_be_stored_is_not_accepted(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    found = keys(HostKeyPolicy.ACCEPT_NEW, folder / "known_hosts")
    folder.touch()
    with pytest.raises(HostKeyError):
        found.learn(ShownKey(ADDRESS, KEY))
    with pytest.raises(HostKeyError):
        found.read()
    assert not found.judge(ADDRESS, KEY)


def test_a_hashed_name_is_known(tmp_path: Path) -> None:
    salt = b"\x01" * 20
    digest = hmac.digest(salt, f"[{HOST}]:4022".encode(), hashlib.sha1)
    name = "|".join(["", "1", *(base64.b64encode(x).decode() for x in (salt, digest))])
    file = tmp_path / "known_hosts"
    file.write_text(line(KEY, name))
    assert is_known(keys(HostKeyPolicy.STRICT, file), KEY)


def test_only_a_proxy_without_a_line_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    learning = {HostKeyPolicy.ASK, HostKeyPolicy.ACCEPT_NEW}
    for policy in set(HostKeyPolicy):
        assert keys(policy, file).needs_look is (policy in learning)
    for text in (
        line(KEY),
        line(OTHER),
        f"@cert-authority {line(KEY)}",
        f"@cert-authority {line(KEY, HOST)}",
    ):
        file.write_text(text)
        assert not keys(HostKeyPolicy.ASK, file).needs_look
    for name in (HOST, f"[{HOST}]:4023", "elsewhere.example"):
        file.write_text(line(KEY, name))
        assert keys(HostKeyPolicy.ASK, file).needs_look


def test_a_line_without_the_port_vouches_and_never_accuses(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(line(KEY, HOST))
    for policy in (HostKeyPolicy.ASK, HostKeyPolicy.STRICT, HostKeyPolicy.ACCEPT_NEW):
        found = keys(policy, file)
        assert found.is_known(ShownKey(ADDRESS, KEY))
        assert is_known(found, KEY)
        assert not found.is_known(ShownKey(ADDRESS, OTHER))
        assert not found.judge(ADDRESS, OTHER)
        assert "is unknown" in str(found.error)
    keys(HostKeyPolicy.ASK, file).learn(ShownKey(ADDRESS, OTHER))
    found = keys(HostKeyPolicy.ASK, file)
    assert is_known(found, OTHER)
    with pytest.raises(HostKeyError, match="has changed"):
        found.is_known(ShownKey(ADDRESS, KEY))


@pytest.mark.parametrize("name", [f"[{HOST}]:4022", f"[{ADDRESS}]:4022", HOST, "*"])
@pytest.mark.parametrize("more", [HOST, f"[{HOST}]:4022", ADDRESS, "elsewhere.example"])
@pytest.mark.parametrize("policy", [p for p in HostKeyPolicy if p is not PINNED])
def test_a_revoked_key_is_revoked_whatever_else_the_file_says(
    tmp_path: Path, name: str, more: str, policy: HostKeyPolicy
) -> None:
    file = tmp_path / "known_hosts"
    for text in (f"@revoked {line(KEY, name)}", line(KEY, more)):
        with file.open("a") as opened:
            opened.write(text)
        found = keys(policy, file)
        with pytest.raises(HostKeyError, match="is revoked"):
            found.is_known(ShownKey(ADDRESS, KEY))
        assert not found.judge(ADDRESS, KEY)
        revoked = found.match(HOST, ADDRESS, 4022)[2]  # what asyncssh never accepts
        assert KEY.get_fingerprint() in [key.get_fingerprint() for key in revoked]


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
    assert not keys(HostKeyPolicy.ASK, file).is_known(ShownKey(ADDRESS, KEY))
    file.write_text(line(OTHER))
    with pytest.raises(HostKeyError, match="has changed"):
        keys(HostKeyPolicy.ASK, file).is_known(ShownKey(ADDRESS, KEY))
    file.write_text(f"@revoked * {KEY.export_public_key().decode()}")
    found = keys(HostKeyPolicy.ASK, file)
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
        HostKeyVerifier(
            tenant(host=HOST, known_hosts=tmp_path / "file/known_hosts").proxy
        ).check_can_learn()


def test_what_is_learned_after_the_file_was_read_is_judged_anew(
    tmp_path: Path,
) -> None:
    file = tmp_path / "known_hosts"
    found = keys(HostKeyPolicy.ASK, file)
    file.write_text(f"@revoked {line(KEY)}")
    with pytest.raises(HostKeyError, match="is revoked"):
        found.learn(ShownKey(ADDRESS, KEY))


@contextmanager
def little_room() -> Iterator[None]:
    """Let no file of ours grow over a hundred bytes.

    It is for the few lines under test alone: the limit holds for the file that
    the tests report into as well.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "before", ["", "# a comment of forty letters and a few", "#\n"]
)
def test_half_a_line_is_none(tmp_path: Path, before: str) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(before)
    found = keys(HostKeyPolicy.ASK, file)
    with pytest.raises(HostKeyError, match="cannot be stored"), little_room():
        found.learn(ShownKey(ADDRESS, KEY))
    assert file.read_text() == before


def test_a_pinned_key_needs_no_file(tmp_path: Path) -> None:
    pin = KEY.get_fingerprint()
    found = keys(HostKeyPolicy.PINNED, tmp_path / "none", pin)
    assert found.judge(ADDRESS, KEY)
    assert not found.judge(ADDRESS, OTHER)
    text = str(found.error)
    assert pin in text
    assert OTHER.get_fingerprint() in text


ODD_LINES = {
    "a lone name": b"lonely.example",
    "a lone marker": b"@revoked",
    "an unknown marker": b"@trusted *",
    "a NUL in the name": b"ho\0st ssh-ed25519 AAAA",
    "a NUL": b"\0",
    "an SSH1 key": b"* 1024 35 1234567890123456789",
    "a revoked SSH1 key": b"@revoked * 1024 35 1234567890123456789",
    "a revoked key of an unknown kind": b"@revoked * ssh-foo AAAAB3NzaC1mb28=",
    "no base64": b"* ssh-ed25519 !!!!",
    "half a key": b"* ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPmt",
    "a key that is none": b"* ssh-rsa AAAAB3NzaC1yc2EAAAABAgAAAAEB",
    "an unknown hash": b"|2|AAAA|AAAA ssh-ed25519 AAAA",
    "a broken hash": b"|1|x ssh-ed25519 AAAA",
    "Latin-1 in the name": b"h\xf6st ssh-ed25519 AAAA",
    "revoked for somebody else": b"@revoked elsewhere.example ssh-ed25519 !!!!",
    "a separator of files": b"a\x1cb\x0bc",
}


@pytest.mark.parametrize("odd", ODD_LINES.values(), ids=ODD_LINES.keys())
def test_a_line_that_cannot_be_read_is_skipped_and_said_once(
    odd: bytes, tmp_path: Path, expect_log: LogLedger, caplog: pytest.LogCaptureFixture
) -> None:
    if odd.strip(b"\0"):
        expect_log("known_hosts: .*skipped: line 1: ")
    file = tmp_path / "known_hosts"
    file.write_bytes(odd + b"\n" + line(KEY).encode())
    for _login in range(2):
        assert is_known(keys(HostKeyPolicy.STRICT, file), KEY)
    assert len(caplog.records) == bool(odd.strip(b"\0"))


def test_a_comment_may_hold_any_bytes(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    for comment in (b"M\xfcller", b"a\0b", b"\xe2\x80\xa8", b"\x1c \x85", b"\r"):
        file.write_bytes(line(KEY).rstrip().encode() + b" " + comment + b"\n")
        assert is_known(keys(HostKeyPolicy.STRICT, file), KEY)


@pytest.mark.parametrize("name", [f"[{HOST}]:4022", HOST, f"[{ADDRESS}]:4022", "*"])
@pytest.mark.parametrize("key", ["", "ssh-ed25519", "ssh-ed25519 !!!!", "ssh-rsa AAAA"])
def test_a_revoked_line_that_cannot_be_read_refuses_what_it_names(
    name: str, key: str, tmp_path: Path, expect_log: LogLedger
) -> None:
    expect_log("it revokes a key that cannot be read")
    file = tmp_path / "known_hosts"
    file.write_text(f"{line(KEY)}@revoked {name} {key}\n")
    with pytest.raises(HostKeyError, match="line 2: it revokes"):
        keys(HostKeyPolicy.STRICT, file).is_known(ShownKey(ADDRESS, KEY))
    if ADDRESS in name:  # known once it is connected
        found = keys(HostKeyPolicy.STRICT, file)
        assert found.match(HOST, ADDRESS, 4022)[:2] == ((), ())
        assert "line 2: it revokes" in str(found.error)


def test_a_revoked_certificate_revokes_the_key_in_it(tmp_path: Path) -> None:
    certificate = OTHER.generate_host_certificate(KEY, "test")
    text = certificate.export_certificate().decode()
    file = tmp_path / "known_hosts"
    file.write_text(f"{line(KEY)}@revoked * {text}")
    with pytest.raises(HostKeyError, match="is revoked"):
        keys(HostKeyPolicy.STRICT, file).is_known(ShownKey(ADDRESS, KEY))


@given(st.binary(max_size=200))
def test_no_bytes_keep_the_file_from_being_read(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "known_hosts"
        file.write_bytes(content + b"\n" + line(KEY).encode())
        logging.getLogger(KNOWN_HOSTS_LOG).disabled = True
        try:
            found = read_known_hosts(file).lines(HOST, ADDRESS, 4022)
        finally:
            logging.getLogger(KNOWN_HOSTS_LOG).disabled = False
    assert KEY.get_fingerprint() in {key.get_fingerprint() for key in found.trusted}
