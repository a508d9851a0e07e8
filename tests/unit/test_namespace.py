"""The synthetic levels: which names they have, and which are only probes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pamfs.config import Config, Guarding
from pamfs.errors import NameRefusedError
from pamfs.model import Name
from pamfs.vfs.names.namespace import Namespace
from tests.fakes.mounted import CALLER, WEB01, mounted, tenant

ACME = Name(b"acme")


def namespace(guard: Guarding | None = None) -> Namespace:
    config = Config(Path("test.toml"), {"acme": tenant()}, guard=guard or Guarding())
    return Namespace(config)


@pytest.mark.parametrize(
    "name",
    [
        b".hidden",
        b".directory",
        b".Trash",
        b".Trash-1000",
        b".xdg-volume-info",
        b"autorun.inf",
        b".autorun",
        b"autorun.sh",
        b"BDMV",
        b"VIDEO_TS",
        b".DS_Store",
        b"._report.pdf",
        b"desktop.ini",
        b"Thumbs.db",
        b"$RECYCLE.BIN",
        b".git",
        b".hg",
        b".svn",
        b".envrc",
        b".editorconfig",
    ],
)
def test_a_name_that_is_looked_for_everywhere_is_a_probe(name: bytes) -> None:
    assert namespace().is_probe(Name(name))


@pytest.mark.parametrize(
    "name", [b"etc", b"Trash", b".gitconfig", b"hidden", b".bashrc", b"caf\xe9", b""]
)
def test_any_other_name_is_none(name: bytes) -> None:
    assert not namespace().is_probe(Name(name))


def test_the_configuration_says_which_names_are_probes() -> None:
    names = namespace(Guarding(probe_names=("*.tmp", "caf\xe9")))
    assert names.is_probe(Name(b"a.tmp"))
    assert names.is_probe(Name("caf\xe9".encode()))
    assert not names.is_probe(Name(b".git"))


def test_a_probe_is_no_target() -> None:
    names = namespace(Guarding(probe_names=("probe@*",)))
    with pytest.raises(NameRefusedError):
        names.find_target(ACME, Name(b"probe@web01"))
    assert names.find_target(ACME, Name(b"root@web01")) == WEB01


async def test_a_probe_opens_no_closed_target_but_any_other_name_does() -> None:
    mount = mounted()
    home = (await mount.look(b"acme/root@web01")).ino
    for name in (b".Trash-1000", b".hidden", b".git"):
        with pytest.raises(NameRefusedError):
            await mount.tree.nodes.lookup(home, Name(name), CALLER)
    assert not mount.source.logins
    mount.fs.put(b"/etc/motd")
    await mount.tree.nodes.lookup(home, Name(b"etc"), CALLER)
    assert mount.source.logins[WEB01] == 1
