"""No secret leaves the daemon but over the wire.

One mount at DEBUG goes through a right and a wrong login; then its log, its
argument list, its environment and what it answers are searched for every secret
that was in play.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.harness import Place
from tests.mount.mounts import DEVICE, Lab, foreground_mount, running_lab
from tests.mount.secret_search import assert_holds_no_secret, now_s, secrets_of


@pytest.fixture
def lab(place: Place) -> Iterator[Lab]:
    with running_lab(place) as running:
        yield running


def test_no_secret_is_in_log_arguments_environment_or_status(lab: Lab) -> None:
    began_s = now_s()
    with foreground_mount(lab.place, lab.config, "log_level=debug") as (mount, log):
        lab.place.run(["cat", mount.path(b"acme", DEVICE, b"etc/motd")])
        (pid,) = mount.daemons()
        found = [
            log.read_bytes(),
            Path(f"/proc/{pid}/cmdline").read_bytes(),
            Path(f"/proc/{pid}/environ").read_bytes(),
            json.dumps(mount.status()).encode(),
            lab.place.pamfs("status", mount.point).out,
            lab.place.pamfs("check", "--config", lab.config).out,
        ]
        limits = Path(f"/proc/{pid}/limits").read_text()
    found.append(log.read_bytes())
    assert b"DEBUG" in found[0]
    for text in found:
        assert_holds_no_secret(text, secrets_of(lab, began_s))
    assert re.search(r"Max core file size +0 ", limits)


def test_a_refused_login_shows_no_secret_either(lab: Lab) -> None:
    began_s = now_s()
    wrong = lab.folder / "wrong"
    wrong.write_text("a-wrong-password-of-this-test")
    wrong.chmod(0o600)
    os.chown(wrong, lab.place.account.uid, lab.place.account.gid)
    config = lab.folder / "wrong.toml"
    text = lab.config.read_text()
    config.write_text(
        re.sub(r"password *= *\{[^}]*\}", f'password = {{ file = "{wrong}" }}', text)
    )
    config.chmod(0o600)
    os.chown(config, lab.place.account.uid, lab.place.account.gid)
    with foreground_mount(lab.place, config, "log_level=debug") as (mount, log):
        path = mount.path(b"acme", DEVICE, b"etc/motd")
        assert lab.place.start(["cat", path]).code != 0
        status = json.dumps(mount.status()).encode()
    secrets = secrets_of(lab, began_s)
    secrets["password"].append("a-wrong-password-of-this-test")
    assert len(lab.events("auth_failed")) == 1
    for said in (log.read_bytes(), status):
        assert_holds_no_secret(said, secrets)


def test_the_search_finds_a_secret_where_there_is_one() -> None:
    secrets = {"password": ["pw.1"], "seed": ["ABC"], "code": ["123456"]}
    for leak in (b"user pw.1!", b"seed=ABC", b"alice[root@web01]123456"):
        with pytest.raises(AssertionError, match="is in it"):
            assert_holds_no_secret(leak, secrets)
    assert_holds_no_secret(b"pwx1 at 1234567", secrets)
