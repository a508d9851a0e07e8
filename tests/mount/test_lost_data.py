"""An operator who is locked while a memory map is dirty: people are told of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.mount.accounts import Account
from tests.mount.harness import own_place
from tests.reliability.programs import MAPS, Ran, noise, ran, talk
from tests.reliability.sites import Mounted, by_pamfs, lab_site

NOTICE = "data that a program has written is not stored"
PATH = "acme/root@web01/f"


@contextmanager
def locked_out(account: Account) -> Iterator[Mounted]:
    """Lock the operator and kill the session while a shared map is dirty."""
    with own_place(account) as place, lab_site(place) as site:
        file = place.folder / "audit.jsonl"
        text = site.config.read_text()
        site.config.write_text(f'{text}\n[audit]\nfile = "{file}"\n')
        with by_pamfs(site) as mount:
            noise(mount.device / "f", 65536).chmod(0o666)
            assert site.lab is not None
            with talk(place, MAPS, mount.there("f")) as program:
                program.hear()
                site.lab.admin("lock", "alice")
                site.lab.admin("kill-session", "root@web01")
                program.go_on()
                (line,) = program.rest()
            assert json.loads(line)["msync"] == "EACCES"
            yield mount


def pamfs(mount: Mounted, *words: str) -> Ran:
    python = mount.place.account.python
    return ran(mount.place, [python, "-m", "pamfs", *words, mount.point], 60)


def test_lost_data_is_in_log_audit_status_and_at_the_unmount(
    ordinary: Account,
) -> None:
    with locked_out(ordinary) as mount:
        log = mount.log.read_text()
        assert log.count(f"{PATH}: data was not stored") == 1
        assert log.count(NOTICE) == 1  # what desktop and agents are given
        told = (mount.place.folder / "audit.jsonl").read_text().splitlines()
        lost = [json.loads(line) for line in told if '"data_lost"' in line]
        assert [(record["path"], record["error"]) for record in lost] == [
            (PATH, "EACCES")
        ]
        gone = pamfs(mount, "umount")
        assert gone.code == 9, gone
        assert f"not stored: {PATH}: " in gone.text


@pytest.mark.parametrize("words", [["status"], ["status", "--json"]])
def test_what_the_status_has_shown_is_not_said_again(
    ordinary: Account, words: list[str]
) -> None:
    with locked_out(ordinary) as mount:
        shown = pamfs(mount, *words)
        assert shown.code == 0
        assert PATH in shown.text
        assert PATH not in pamfs(mount, *words).text
        gone = pamfs(mount, "umount")
        assert gone.code == 0, gone
