"""Programs on a mount of a server that leaves a request out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mount.accounts import Account
from tests.mount.conftest import NEEDS_ROOT
from tests.mount.harness import Command, Place, own_place
from tests.mount.mounts import foreground_mount, plain_sshd

PROGRAM_S = 120


@dataclass(frozen=True)
class Site:
    """A mount, what the device holds, and the log of the daemon."""

    place: Place
    target: bytes
    device: Path
    log: Path

    def shell(self, script: str) -> str:
        """Run ``script`` in the target's folder; it must succeed."""
        words = ["sh", "-e", "-c", f'cd "$1" && {script}', "sh"]
        command: Command = [*words, self.target]
        return self.place.run(command, timeout_s=PROGRAM_S).decode()


@pytest.fixture(scope="module", params=["fsetstat", "fstat", "setstat"])
def site(request: pytest.FixtureRequest, ordinary: Account) -> Iterator[Site]:
    if os.getuid() != 0:
        pytest.skip(NEEDS_ROOT)
    with ExitStack() as stack:
        place = stack.enter_context(own_place(ordinary))
        sftp = f"internal-sftp -P {request.param}"
        config = stack.enter_context(plain_sshd(place, sftp))
        mount, log = stack.enter_context(foreground_mount(place, config))
        name = f"{place.account.name}@web01".encode()
        device = place.folder / "device"
        yield Site(place, mount.path(b"acme", name), device, log)
        said = log.read_text()
        assert "not stored" not in said
        assert "Traceback" not in said


def test_truncate_and_append(site: Site) -> None:
    site.shell(
        "printf 123456 >f; truncate -s 3 f; printf ab >>f; truncate -s 8 f;"
        " printf x >>f; truncate -s 0 g; printf y >>g"
    )
    assert (site.device / "f").read_bytes() == b"123ab\0\0\0x"
    assert (site.device / "g").read_bytes() == b"y"


def test_cp_keeps_mode_and_times(site: Site) -> None:
    site.shell(
        "printf content >from; chmod 604 from; touch -d @1600000000 from;"
        " cp -p from to; cp -p from to; cp -p to back"
    )
    for name in ("to", "back"):
        found = (site.device / name).stat()
        assert (found.st_mode & 0o7777, found.st_mtime) == (0o604, 1600000000)
        assert (site.device / name).read_bytes() == b"content"


def test_tar_unpacks(site: Site) -> None:
    site.shell(
        "mkdir tree; printf 1 >tree/a; ln -s a tree/link; chmod 750 tree;"
        " touch -d @1600000000 tree/a; tar cf tree.tar tree; mkdir out;"
        " tar xpf tree.tar -C out; diff -r tree out/tree"
    )
    found = (site.device / "out" / "tree" / "a").stat()
    assert found.st_mtime == 1600000000
    assert (site.device / "out" / "tree").stat().st_mode & 0o7777 == 0o750


def test_git_and_sqlite(site: Site) -> None:
    site.shell(
        "git init -q repo; cd repo; git config user.email a@b;"
        " git config user.name a;"
        " printf 1 >f; git add f; git commit -qm one; printf 2 >>f;"
        " git commit -qam two;"
        " git gc -q; git fsck --strict; cd ..; git clone -q repo again; cat again/f"
    )
    assert (site.device / "again" / "f").read_bytes() == b"12"
    script = (
        "import sqlite3; c = sqlite3.connect('db');"
        " c.execute('pragma journal_mode=truncate');"
        " c.execute('create table t (n)');"
        " c.executemany('insert into t values (?)', [(n,) for n in range(2000)]);"
        " c.commit(); c.execute('delete from t where n > 9'); c.commit();"
        " c.execute('vacuum'); print(c.execute('pragma integrity_check').fetchall(),"
        " c.execute('select count(*) from t').fetchone()[0])"
    )
    assert site.shell(f'python3 -c "{script}"').strip() == "[('ok',)] 10"
