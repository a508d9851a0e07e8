"""The lab's logins, as its operators meet them over real SSH."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.integration.lab_site import (
    PASSWORD,
    SEED,
    Person,
    Play,
    Site,
    code,
    motd,
    refusal,
)


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return Play(tmp_path)


def test_a_code_in_the_user_name_serves_once_with_the_tenant_on_either_side(
    play: Play,
) -> None:
    async def story(site: Site) -> None:
        first = f"alice%acme[code@web01{{ssh.22}}]{code()}"
        async with site.login(first) as conn:
            assert (await motd(conn)).startswith(b"Welcome")
        async with site.login(f"alice[code@web01]{code(1)}%acme") as conn:
            await motd(conn)
        await refusal(site.login(first).__aenter__())
        assert site.events("auth_failed")[-1]["why"] == "wrong or used code"
        assert len(site.events("login")) == 2

    play(story)


def test_a_person_is_asked_for_password_code_and_reason(play: Play) -> None:
    async def story(site: Site) -> None:
        answers = {
            "Password: ": PASSWORD,
            "One-time password: ": code(),
            "Reason: ": "patching",
        }
        person = Person(answers)
        async with site.connect("alice[both@web01]", person) as conn:
            await motd(conn)
        assert person.asked == list(answers)
        assert site.events("login")[0]["reason_given"] == "patching"

    play(story)


def test_a_code_that_the_user_name_held_is_not_asked_for_again(play: Play) -> None:
    async def story(site: Site) -> None:
        person = Person({"Password: ": PASSWORD})
        user = f"alice[code@web01]{code()}"
        async with site.connect(user, person) as conn:
            await motd(conn)
        assert person.asked == ["Password: "]

    play(story)


@pytest.mark.parametrize("how", ["key", "password"])
def test_a_key_or_password_is_half_of_a_login_that_needs_a_code(
    play: Play, how: str
) -> None:
    async def story(site: Site) -> None:
        person = Person({"One-time password: ": code()})
        proof: dict[str, Any] = {"password": PASSWORD}
        order = ["password", "keyboard-interactive"]
        if how == "key":
            proof = {"client_keys": [site.lab.folder / "secrets/acme-alice.key"]}
            order = ["publickey", "keyboard-interactive"]
        async with site.connect(
            "alice[code@web01]", person, preferred_auth=order, **proof
        ) as conn:
            await motd(conn)
        assert person.asked == ["One-time password: "]

    play(story)


def test_a_strange_key_proves_nothing(play: Play) -> None:
    async def story(site: Site) -> None:
        strange = asyncssh.generate_private_key("ssh-ed25519")
        attempt = site.connect("alice[root@web01]", client_keys=[strange])
        assert isinstance(
            await refusal(attempt.__aenter__()), asyncssh.PermissionDenied
        )

    play(story)


def test_five_wrong_passwords_lock_until_the_administrator_unlocks(play: Play) -> None:
    async def story(site: Site) -> None:
        user = "alice[root@web01]"
        for _ in range(5):
            attempt = site.connect(user, password="wrong", preferred_auth=["password"])
            await refusal(attempt.__aenter__())
        assert len(site.events("locked")) == 1
        person = Person({})
        attempt = site.connect(user, person, password=PASSWORD)
        await refusal(attempt.__aenter__())
        assert "locked" in person.banner
        site.lab.unlock("alice")
        async with site.login(user) as conn:
            await motd(conn)

    play(story)


def test_an_expired_password_is_refused_and_says_so(play: Play) -> None:
    async def story(site: Site) -> None:
        site.lab.expire("acme/alice")
        person = Person({})
        attempt = site.connect("alice[root@web01]", person, password=PASSWORD)
        await refusal(attempt.__aenter__())
        assert "password expired" in person.banner

    play(story)


def test_a_new_host_key_is_noticed_by_who_is_strict(play: Play) -> None:
    async def story(site: Site) -> None:
        site.lab.rotate_host_key()
        attempt = site.login("alice[root@web01]")
        assert isinstance(
            await refusal(attempt.__aenter__()), asyncssh.HostKeyNotVerifiable
        )
        rotated = str(site.lab.folder / "known_hosts.rotated")
        async with site.login("alice[root@web01]", known_hosts=rotated) as conn:
            await motd(conn)

    play(story)


def test_no_secret_is_audited(play: Play) -> None:
    async def story(site: Site) -> None:
        spent, wrong = code(), "000000"
        async with site.login(f"alice[code@web01]{spent}") as conn:
            await motd(conn)
        await refusal(site.login(f"alice[code@web01]{wrong}").__aenter__())
        await refusal(site.login(f"alice[code@web01]x{wrong}").__aenter__())
        log = json.dumps(site.lab.audit_events())
        vault = site.lab.device_secrets()
        assert not [s for s in (PASSWORD, SEED, spent, wrong, *vault) if s in log]

    play(story)
